"""The chat: finished turns in ``gr.Chatbot``, the answer being made in ``gr.Markdown`` below, controls at the right.

No event of this tab goes to Python: the page's script (``static/chat.js``) posts to ``/api/chat`` and reads the frames.
"""

from __future__ import annotations

import json

import gradio as gr

from webui.bridge import bridge
from webui.canvas import canvas
from webui.context import AppContext
from webui.sampling_controls import build_sampling_controls
from webui.shell import Shell

ID = "chat"
TITLE = "tab_chat"
ORDER = 10
SYSTEM_PROMPT = "You are a helpful assistant."
_LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]


def build(context: AppContext, shell: Shell) -> None:
    """Lays the tab out and connects it."""
    t = shell.t
    with gr.Row(elem_id="chat-columns"):
        with gr.Column(scale=3, min_width=320, elem_id="chat-pane"):
            with gr.Column(elem_id="conversation"):
                chatbot = gr.Chatbot(
                    show_label=False,
                    container=False,
                    height=None,
                    autoscroll=False,
                    layout="bubble",
                    latex_delimiters=_LATEX,
                    buttons=["copy"],
                    feedback_options=None,
                    group_consecutive_messages=False,
                    allow_tags=False,
                    elem_id="turns",
                )
                live = gr.Markdown("", latex_delimiters=_LATEX, elem_id="live-answer", line_breaks=True)
            canvas('<div id="chat-status" role="status" aria-live="polite"></div>', elem_id="chat-status-box")
            with gr.Row(elem_id="chat-input", equal_height=True):
                text = gr.Textbox(
                    show_label=False,
                    container=False,
                    placeholder=t("chat_placeholder"),
                    lines=1,
                    max_lines=8,
                    scale=8,
                    autofocus=True,
                    elem_id="chat-text",
                    label=t("message"),
                )
                stop = gr.Button(t("stop"), scale=0, min_width=84, elem_id="chat-stop")
                send = gr.Button(t("send"), variant="primary", scale=0, min_width=84, elem_id="chat-send")
            with gr.Row(elem_id="chat-actions"):
                regenerate = gr.Button(t("regenerate"), size="sm", scale=0, min_width=110, elem_id="chat-regenerate")
                edit = gr.Button(t("edit_last"), size="sm", scale=0, min_width=110, elem_id="chat-edit")
                clear = gr.Button(t("clear"), size="sm", scale=0, min_width=110, elem_id="chat-clear")
        with gr.Column(scale=1, min_width=280, elem_id="chat-side"):
            with gr.Group(elem_classes="deck-card"):
                canvas(
                    '<div class="deck-card-head"><span data-t="sampling"></span>'
                    '<button type="button" id="sampling-reset" data-t="model_defaults"></button></div>'
                )
                controls = build_sampling_controls(shell)
            system = gr.Textbox(SYSTEM_PROMPT, label=t("system_prompt"), lines=2, max_lines=8, elem_id="system-prompt")
            canvas('<div id="side-plot" class="deck-card deck-pad"></div>')
    bridge("turns", [chatbot])
    bridge("live", [live])
    bridge("text", [text])
    bridge("system", [system])
    bridge("sampling", list(controls.values()))
    inputs = [text, shell.picker, system, *controls.values()]
    names = json.dumps(list(controls))
    call = f"(text, model, system, ...values) => window.deck.chat.%s({{text, model, system, names: {names}, values}})"
    for listener, action in (
        (text.submit, "send"),
        (send.click, "send"),
        (regenerate.click, "regenerate"),
    ):
        listener(None, inputs, None, js=call % action, queue=False, api_visibility="private")
    for button, action in ((stop, "stop"), (edit, "edit"), (clear, "clear")):
        button.click(None, None, None, js=f"() => window.deck.chat.{action}()", queue=False, api_visibility="private")
