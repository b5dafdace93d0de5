"""From the page's script to Gradio's components.

The script calls ``deck.set(NAME, value, …)``; the bridge of that name then sets its components, in the browser alone:
its listener has no Python function, so no request is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr


def bridge(name: str, outputs: Sequence[Any]) -> None:
    """Lets the script set ``outputs``, in this order. A value may be ``{__type__: "update", …}`` for other props."""
    html = gr.HTML(
        "",
        visible="hidden",
        elem_classes="deck-bridge",
        js_on_load=f"window.deck.connect({name!r}, () => trigger('input', {{}}))",
    )
    html.input(None, None, list(outputs), js=f"() => window.deck.take({name!r})", queue=False, api_visibility="private")
