"""What a tab may use of the page around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr


@dataclass(frozen=True, slots=True)
class Shell:
    """The header's parts, and the translations."""

    picker: gr.Dropdown
    t: Any
    """``gr.I18n``: ``t("send")`` is a text that the browser puts into the reader's language."""
