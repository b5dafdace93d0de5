"""The GPUs, or the machine's memory where there is none: drawn by the page's script from the one snapshot."""

from __future__ import annotations

from webui.canvas import canvas
from webui.context import AppContext
from webui.shell import Shell

ID = "gpus"
TITLE = "tab_gpus"
ORDER = 30


def build(context: AppContext, shell: Shell) -> None:
    """A place to draw in."""
    canvas('<div id="gpu-cards"></div>', elem_id="gpu-cards-box")
