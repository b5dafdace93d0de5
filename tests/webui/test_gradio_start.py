"""Gradio as the page imports it: without the files for editors and MCP, and otherwise as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
from webui import import_gradio

import_gradio()
from gradio import component_meta

assert component_meta.create_or_modify_pyi.__module__ == "webui.gradio_start", "Gradio would write its stubs"
assert component_meta.ComponentMeta.__module__ == "gradio.component_meta"
assert not [name for name in sys.modules if name.partition(".")[0] == "mcp"], "Gradio imports all of mcp"
import gradio
gradio.Textbox().change
assert not [finder for finder in sys.meta_path if type(finder).__module__ == "webui.gradio_start"]
"""
WITH_MCP = """
from webui import import_gradio

import_gradio()
import gradio.mcp
assert gradio.mcp.GradioMCPServer.Server.__module__.startswith("mcp.")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("script", "mcp"), [(SCRIPT, ""), (WITH_MCP, "True")])
def test_page_imports_of_gradio_what_it_needs(script: str, mcp: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "GRADIO_MCP_SERVER": mcp}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
