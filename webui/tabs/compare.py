"""The same question to several models side by side: drawn by ``static/compare.js``, the text by Gradio's components.

Each column is built as the chat is: finished turns in ``gr.Chatbot``, the answer being made in ``gr.Markdown``.
"""

from __future__ import annotations

import gradio as gr

from webui.answer_view import answer_markdown, finished_turns
from webui.bridge import bridge
from webui.canvas import canvas
from webui.context import AppContext
from webui.shell import Shell

ID = "compare"
TITLE = "tab_compare"
ORDER = 15
COLUMNS = 4


def build(context: AppContext, shell: Shell) -> None:
    """The columns, of which the script shows as many as are wanted, and the place for the question."""
    with gr.Row(elem_id="compare-columns"):
        columns = [_column(place) for place in range(COLUMNS)]
    for place, (turns, live) in enumerate(columns):
        bridge(f"compare_{place}", [turns, live])
        bridge(f"compare_live_{place}", [live])
    canvas('<div id="compare-input"></div>', elem_id="compare-input-box")


def _column(place: int) -> tuple[gr.Chatbot, gr.Markdown]:
    with gr.Column(elem_classes="compare-column", min_width=200):
        canvas(f'<div id="compare-head-{place}" class="compare-head"></div>', elem_classes="compare-head-box")
        with gr.Column(elem_id=f"compare-scroll-{place}", elem_classes="compare-scroll"):
            turns = finished_turns(elem_id=f"compare-turns-{place}", elem_classes="compare-turns")
            live = answer_markdown(elem_id=f"compare-live-{place}", elem_classes="compare-live")
        canvas(f'<div id="compare-foot-{place}" class="compare-foot"></div>', elem_classes="compare-foot-box")
    return turns, live
