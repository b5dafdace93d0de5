"""Load tests and the model ladder: drawn by ``static/load_test.js`` from the REST interface."""

from __future__ import annotations

from webui.canvas import canvas
from webui.context import AppContext
from webui.shell import Shell

ID = "load-test"
TITLE = "tab_load_test"
ORDER = 40


def build(context: AppContext, shell: Shell) -> None:
    """A place to draw in."""
    canvas('<div id="load-test"></div>', elem_id="load-test-box")
