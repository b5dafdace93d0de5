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
ONE_APP = """
import gradio
from fastapi import FastAPI
from fastapi.testclient import TestClient
from gradio.routes import App
from webui.gradio_start import no_apps

made, create_app = [], App.create_app
App.create_app = staticmethod(lambda *args, **options: made.append(args) or create_app(*args, **options))
with no_apps():
    with gradio.Blocks() as page:
        gradio.Textbox(label="here it is")
    page.queue()
assert not made
app = gradio.mount_gradio_app(FastAPI(), page, path="")
assert len(made) == 1
assert "here it is" in TestClient(app).get("/config").text
"""


@pytest.mark.slow
@pytest.mark.parametrize(("script", "mcp"), [(SCRIPT, ""), (WITH_MCP, "True"), (ONE_APP, "")])
def test_page_imports_of_gradio_what_it_needs(script: str, mcp: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "GRADIO_MCP_SERVER": mcp}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
