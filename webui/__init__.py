"""The page and the app's own HTTP interface; the only package that imports Gradio."""

from webui.access import Access, Role, hash_password, read_users
from webui.context import AppContext
from webui.web_app import build_web_app

__all__ = ["Access", "AppContext", "Role", "build_web_app", "hash_password", "read_users"]
