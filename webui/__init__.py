"""The page and the app's own HTTP interface; the only package that imports Gradio."""

from webui.access import Access
from webui.context import AppContext
from webui.users import Role, add_user, read_users
from webui.web_app import build_web_app

__all__ = ["Access", "AppContext", "Role", "add_user", "build_web_app", "read_users"]
