"""Places that the page's script draws in."""

from __future__ import annotations

from typing import Any

import gradio as gr


def canvas(html: str, **options: Any) -> gr.HTML:
    """HTML without Gradio's text styles: what the script draws has its own in ``static/deck.css``."""
    return gr.HTML(html, apply_default_css=False, js_on_load=None, **options)
