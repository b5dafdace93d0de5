"""Gradio as the page imports it: without the files for editors, and otherwise as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
from webui import import_gradio_without_stubs

import_gradio_without_stubs()
import gradio
from gradio import component_meta

assert component_meta.create_or_modify_pyi.__module__ == "webui.gradio_start", "Gradio would write its stubs"
assert component_meta.ComponentMeta.__module__ == "gradio.component_meta"
gradio.Textbox().change
assert not [finder for finder in __import__("sys").meta_path if type(finder).__module__ == "webui.gradio_start"]
"""


def test_page_imports_gradio_without_its_stubs() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
