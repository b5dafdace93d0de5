"""The chat: finished turns in ``gr.Chatbot``, the answer being made in ``gr.Markdown`` below, controls at the right.

No event of this tab goes to Python: the page's script (``static/chat.js``) posts to ``/api/chat`` and reads the frames.
What stands below a turn is drawn by ``static/turns.js``, which Gradio's Chatbot has no place for.
"""

from __future__ import annotations

import json

import gradio as gr

from webui.answer_view import answer_markdown, finished_turns
from webui.bridge import bridge, values_bridge
from webui.canvas import canvas
from webui.context import AppContext
from webui.sampling_controls import build_sampling_controls
from webui.shell import Shell

ID = "chat"
TITLE = "tab_chat"
ORDER = 10
SYSTEM_PROMPT = "You are a helpful assistant."
_STATUS = """<button type="button" id="chat-to-end" hidden><span data-t="to_end"></span></button>
<div id="chat-status"></div><div id="chat-announced" role="status" aria-live="polite"></div>
<div id="chat-attached"></div>"""
_ATTACH = """<button type="button" id="chat-attach"></button>
<input type="file" id="chat-file" accept="image/*" multiple hidden>"""


def build(context: AppContext, shell: Shell) -> None:
    """Lays the tab out and connects it."""
    t = shell.t
    with gr.Row(elem_id="chat-columns"):
        canvas('<dialog id="conversation-list"></dialog>', elem_id="conversation-list-box")
        with gr.Column(scale=3, min_width=320, elem_id="chat-pane"):
            canvas('<div id="conversation-bar"></div>', elem_id="conversation-bar-box")
            with gr.Column(elem_id="conversation"):
                chatbot = finished_turns("turns")
                with gr.Column(elem_id="live"):
                    asked = answer_markdown("live-question")
                    canvas('<div id="live-head"></div>')
                    thinking = answer_markdown("live-thinking")
                    live = answer_markdown("live-answer")
            canvas(_STATUS, elem_id="chat-status-box")
            with gr.Row(elem_id="chat-input", equal_height=True):
                canvas(_ATTACH, elem_id="chat-attach-box", min_width=36, scale=0)
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
        with gr.Column(scale=1, min_width=280, elem_id="chat-side"):
            with gr.Group(elem_classes="deck-card"):
                canvas(
                    '<div class="deck-card-head"><span data-t="sampling"></span>'
                    '<button type="button" id="sampling-reset" data-t="model_defaults"></button></div>'
                )
                canvas('<div id="thinking-switch"></div>')
                controls = build_sampling_controls(shell)
            canvas('<div id="system-presets"></div>', elem_id="system-presets-box")
            system = gr.Textbox(SYSTEM_PROMPT, label=t("system_prompt"), lines=2, max_lines=8, elem_id="system-prompt")
            canvas('<div id="side-plot" class="deck-card deck-pad"></div>')
    bridge("turns", [chatbot])
    bridge("live", [live])
    bridge("thinking", [thinking])
    bridge("pane", [chatbot, asked, live, thinking])  # what moves from one to the other is never gone, nor there twice
    bridge("text", [text])
    bridge("begin", [text, asked])
    bridge("system", [system])
    bridge("sampling", list(controls.values()))
    inputs = [text, shell.picker, system, *controls.values()]
    names = json.dumps(list(controls))
    call = f"(text, model, system, ...values) => window.deck.chat.%s({{text, model, system, names: {names}, values}})"
    for listener in (text.submit, send.click):
        listener(None, inputs, None, js=call % "send", queue=False, api_visibility="private")
    values_bridge("values", inputs, call % "values")
    stop.click(None, None, None, js="() => window.deck.chat.stop()", queue=False, api_visibility="private")
