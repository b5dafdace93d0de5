"""One Gradio control for each row of ``SAMPLING_PARAMS``."""

from __future__ import annotations

from typing import Any

import gradio as gr

from server_manager import SAMPLING_PARAMS, SamplingParam
from webui.shell import Shell


def build_sampling_controls(shell: Shell) -> dict[str, Any]:
    """The controls by request field: the primary ones shown, the others folded."""
    controls: dict[str, Any] = {}
    for row in SAMPLING_PARAMS:
        if row.primary:
            controls[row.name] = _control(row, shell)
    with gr.Accordion(shell.t("more_sampling"), open=False, elem_id="more-sampling"):
        for row in SAMPLING_PARAMS:
            if not row.primary:
                controls[row.name] = _control(row, shell)
    return controls


def _control(row: SamplingParam, shell: Shell) -> Any:
    if row.default is None:  # a slider cannot be empty
        return gr.Number(
            label=row.name,
            value=None,
            elem_id=f"sampling-{row.name}",
            minimum=row.minimum,
            maximum=row.maximum,
            precision=0,
        )
    return gr.Slider(
        row.minimum,
        row.maximum,
        value=row.default,
        step=row.step,
        label=row.name,
        elem_id=f"sampling-{row.name}",
        buttons=[],
    )
