"""Between the page's script and Gradio's components.

The script calls ``deck.set(NAME, value, …)``; the bridge of that name then sets its components, in the browser alone:
its listener has no Python function, so no request is made. The other way works likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr


def bridge(name: str, outputs: Sequence[Any]) -> None:
    """Lets the script set ``outputs``, in this order. A value may be ``{__type__: "update", …}`` for other props."""
    _listen(name, None, list(outputs), f"() => window.deck.take({name!r})")


def values_bridge(name: str, inputs: Sequence[Any], js: str) -> None:
    """Lets the script ask for the values of ``inputs`` by ``deck.fire.NAME()``: they are handed to the function ``js``.

    Gradio's own ``input`` event of a text box comes with key presses alone: not with what is pasted by mouse, and not
    with Chinese, which goes through an input method.
    """
    _listen(name, list(inputs), None, js)


def _listen(name: str, inputs: list[Any] | None, outputs: list[Any] | None, js: str) -> None:
    html = gr.HTML(
        "",
        visible="hidden",
        elem_classes="deck-bridge",
        js_on_load=f"window.deck.connect({name!r}, () => trigger('input', {{}}))",
    )
    html.input(None, inputs, outputs, js=js, queue=False, api_visibility="private")
