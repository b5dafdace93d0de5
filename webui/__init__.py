"""The page and the app's own HTTP interface; the only package that imports Gradio.

What is named here does not: ``webui.web_app``, which takes seconds to import, is only for who serves the page.
"""

from webui.access import Access
from webui.context import AppContext
from webui.gradio_start import import_gradio
from webui.user_commands import run_user_command
from webui.users import Role, add_user, read_users

__all__ = ["Access", "AppContext", "Role", "add_user", "import_gradio", "read_users", "run_user_command"]
