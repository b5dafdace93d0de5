"""Gradio's components for what models say, set up alike wherever answers are shown. No HTML of a model ever runs."""

from __future__ import annotations

from typing import Any

import gradio as gr

_LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]


def finished_turns(elem_id: str, **more: Any) -> gr.Chatbot:
    """Questions and answers that are over."""
    return gr.Chatbot(
        show_label=False,
        container=False,
        height=None,
        autoscroll=False,
        layout="bubble",
        latex_delimiters=_LATEX,
        buttons=[],
        feedback_options=None,
        group_consecutive_messages=False,
        allow_tags=False,
        elem_id=elem_id,
        **more,
    )


def answer_markdown(elem_id: str, **more: Any) -> gr.Markdown:
    """What is said at the moment."""
    return gr.Markdown("", latex_delimiters=_LATEX, elem_id=elem_id, line_breaks=True, **more)
