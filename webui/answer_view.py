"""Gradio's components for what models say, set up alike wherever answers are shown. No HTML of a model ever runs."""

from __future__ import annotations

import gradio as gr

_LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]


def finished_turns(elem_id: str) -> gr.Chatbot:
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
        elem_classes="compare-turns",
    )


def answer_markdown(elem_id: str) -> gr.Markdown:
    """The answer that is being made."""
    return gr.Markdown("", latex_delimiters=_LATEX, elem_id=elem_id, elem_classes="compare-live", line_breaks=True)
