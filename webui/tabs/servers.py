"""The servers: a card for each model with its state, command, failure and log, and the form of a model's file."""

from __future__ import annotations

import gradio as gr

from webui.bridge import bridge, values_bridge
from webui.canvas import canvas
from webui.context import AppContext
from webui.model_form import DTYPES, QUANTIZATIONS, SOURCES
from webui.shell import Shell

ID = "servers"
TITLE = "tab_servers"
ORDER = 20


def build(context: AppContext, shell: Shell) -> None:
    """Lays the tab out and connects it."""
    t = shell.t
    with gr.Row(elem_id="server-columns"):
        with gr.Column(scale=3, min_width=340):
            canvas('<div id="server-list"></div>', elem_id="server-list-box")
        with gr.Column(scale=2, min_width=340, elem_id="server-side"), gr.Tabs(elem_id="server-side-tabs"):
            with gr.Tab(t("log"), id="log"):
                canvas('<div id="server-log"></div>')
            with gr.Tab(t("model_and_flags"), id="model"):
                _build_form(shell)


def _build_form(shell: Shell) -> None:
    t = shell.t
    canvas('<div id="form-message" role="status"></div>')
    with gr.Column(elem_id="form-fields"):
        with gr.Row():
            name = gr.Textbox(label=t("name"), info=t("name_info"), max_lines=1, elem_id="form-name", min_width=150)
            model = gr.Textbox(
                label="model", info=t("model_info"), max_lines=1, elem_id="form-model", min_width=200, scale=2
            )
        with gr.Row():
            source = gr.Dropdown(
                [(t(f"source_{value}"), value) for value in SOURCES], value="default", label=t("source")
            )
            mirror = gr.Textbox(label="HF_ENDPOINT", info=t("mirror_info"))
        with gr.Row():
            served = gr.Textbox(label="served-model-name", min_width=180)
            length = gr.Number(label="max-model-len", value=None, minimum=1, precision=0, min_width=120)
        with gr.Row():
            split = gr.Number(
                label="tensor-parallel-size", value=None, minimum=1, precision=0, min_width=120, elem_id="form-split"
            )
            share = gr.Number(
                label="gpu-memory-utilization", value=None, minimum=0.01, maximum=1, step=0.01, min_width=120
            )
        with gr.Row():
            dtype = gr.Dropdown(["", *DTYPES], value="", label="dtype", min_width=120)
            quantization = gr.Dropdown(
                ["", *QUANTIZATIONS], value="", label="quantization", allow_custom_value=True, min_width=120
            )
        template = gr.Textbox(label="chat-template", info=t("chat_template_info"))
        restarts = gr.Number(
            label=t("restarts"), info=t("restarts_info"), value=None, minimum=0, precision=0, elem_id="form-restarts"
        )
        switchable, sleep_after, stop_after = _build_switching(shell)
        trust = gr.Checkbox(False, label="trust-remote-code", info=t("trust_info"))
        other = gr.Textbox(label=t("other_flags"), info=t("other_flags_info"), lines=2, elem_id="form-other")
    fields = [
        name,
        model,
        source,
        mirror,
        served,
        length,
        split,
        share,
        dtype,
        quantization,
        template,
        restarts,
        switchable,
        sleep_after,
        stop_after,
        trust,
        other,
    ]
    with gr.Row():
        save = gr.Button(t("save"), variant="primary", size="sm", elem_id="form-save", min_width=90)
        delete = gr.Button(t("delete"), size="sm", elem_id="form-delete", min_width=90)
    canvas('<div id="form-command"></div>')
    bridge("form", fields)
    values_bridge("form_values", fields, "(...f) => window.deck.form.preview(f)")
    for field in (source, dtype, quantization, switchable, trust):  # the script itself notices what is typed
        field.input(None, None, None, js="() => window.deck.form.changed()", queue=False, api_visibility="private")
    save.click(None, fields, None, js="(...f) => window.deck.form.save(f)", queue=False, api_visibility="private")
    delete.click(None, name, None, js="name => window.deck.form.remove(name)", queue=False, api_visibility="private")
    _build_paste(shell)
    _build_source_for_all(shell)


def _build_switching(shell: Shell) -> tuple[gr.Dropdown, gr.Number, gr.Number]:
    """How the model makes room for others."""
    t = shell.t
    choices = [(t("source_default"), ""), (t("answer_yes"), "yes"), (t("answer_no"), "no")]
    switchable = gr.Dropdown(
        choices, value="", label=t("switchable"), info=t("switchable_info"), elem_id="form-switchable"
    )
    with gr.Row():
        sleep_after, stop_after = (
            gr.Number(label=t(key), info=t("idle_info"), value=None, minimum=0, elem_id=f"form-{key}", min_width=120)
            for key in ("sleep_after", "stop_after")
        )
    return switchable, sleep_after, stop_after


def _build_paste(shell: Shell) -> None:
    t = shell.t
    with gr.Accordion(t("paste_title"), open=False, elem_id="paste"):
        pasted = gr.Textbox(show_label=False, placeholder="vllm serve Qwen/Qwen2-0.5B-Instruct …", lines=3)
        read = gr.Button(t("paste_read"), size="sm", elem_id="paste-read")
    read.click(None, pasted, None, js="line => window.deck.form.paste(line)", queue=False, api_visibility="private")


def _build_source_for_all(shell: Shell) -> None:
    t = shell.t
    with gr.Accordion(t("source_for_all"), open=False):
        all_source = gr.Radio(
            [(t(f"source_{value}"), value) for value in SOURCES],
            value="default",
            label=t("source"),
            elem_id="all-source",
        )
        all_mirror = gr.Textbox(label="HF_ENDPOINT", info=t("mirror_info"), elem_id="all-mirror")
        all_save = gr.Button(t("save"), size="sm", elem_id="all-source-save")
    bridge("all_source", [all_source, all_mirror])
    all_save.click(
        None,
        [all_source, all_mirror],
        None,
        js="(...s) => window.deck.form.saveAll(s)",
        queue=False,
        api_visibility="private",
    )
