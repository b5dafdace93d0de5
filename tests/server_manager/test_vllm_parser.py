"""The flag table and the arguments made of a model's file, beside the parser of the vLLM that is installed here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest

from server_manager import flags
from server_manager.catalogue import Catalogue

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here"),
]

SCRIPT = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.version import __version__
parser = FlexibleArgumentParser()
# As `vllm serve` makes it (ServeSubcommand.subparser_init), without the server's modules.
serve = make_arg_parser(parser.add_subparsers(dest="subparser").add_parser("serve"))
rows = []
for action in serve._actions:
    if action.option_strings:
        choices = [str(choice) for choice in action.choices or ()]
        rows.append([action.option_strings, action.nargs, type(action).__name__, choices])
def namespace(args):
    values = vars(parser.parse_args(["serve", *args]))
    values["model"] = values.pop("model_tag") or values["model"]
    return {key: repr(value) for key, value in values.items() if key != "config"}
different = {}
for path, args in json.load(sys.stdin):
    of_file, ours = namespace(["--config", path]), namespace(args)
    keys = sorted(key for key in of_file.keys() | ours.keys() if of_file.get(key) != ours.get(key))
    if keys:
        different[path] = {key: [of_file.get(key), ours.get(key)] for key in keys}
print("\\n" + json.dumps({"version": __version__, "rows": rows, "different": different}))
"""
FILE = """
model: /data/我的 模型
served-model-name: [a, b]
tensor_parallel_size: 2
gpu-memory-utilization: 0.85
max-model-len: 32k
max-num-seqs: 64
enforce-eager: true
no-enable-prefix-caching: true
disable-log-stats: false
trust-remote-code: true
tokenizer: null
seed: 0
api-key: []
cudagraph-capture-sizes: [1, 2, 4]
limit-mm-per-prompt: {image: 4}
speculative-config:
  method: ngram
  num_speculative_tokens: 3
  prompt_lookup_max: 4
compilation-config: {mode: 3, pass_config: {fuse_norm_quant: true}}
default-chat-template-kwargs: {enable_thinking: false, name: "it's 中文"}
chat-template: "{% if a %}$x 'y'{% endif %}\\nline 2"
kv-cache-memory-bytes: 512M
hf-overrides: {rope_scaling: {factor: 4.0}}
"""


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What vLLM's parser has and makes of the files: of those that come with the app, and of one with everything.

    One process for all tests: importing vLLM takes it many seconds.
    """
    folder = tmp_path_factory.mktemp("models")
    (folder / "all.yaml").write_text(FILE)
    catalogue = Catalogue(folder)
    catalogue.load()
    assert not catalogue.problems
    cases = [(str(spec.path), spec.serve_args()) for spec in catalogue.specs()]
    assert len(cases) > 20
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return found


def test_the_table_is_what_the_installed_vllm_has(parsed: dict[str, Any]) -> None:
    if not parsed["version"].startswith(flags.flag_table().vllm_release):
        pytest.skip(f"the table is of {flags.flag_table().vllm_version}, installed is {parsed['version']}")
    takes = {None: "one", "?": "optional", "+": "many", "*": "many", 0: "none"}
    seen: set[str] = set()
    for forms, nargs, kind, choices in parsed["rows"]:
        if "--help" in forms:
            continue
        flag = flags.find_form(forms[0])
        assert flag is not None, forms
        seen.add(flag.name)
        assert flag.takes == takes[nargs], forms
        assert set(forms) >= {f"--{flag.name}", *flag.aliases}
        assert flag.negatable == (f"--no-{flag.name}" in forms)
        assert flag.repeatable == (kind == "_AppendAction")
        assert list(flag.choices) == choices or not flag.choices
    assert seen == {flag.name for flag in flags.flag_table().flags}


def test_vllm_reads_the_file_and_our_arguments_alike(parsed: dict[str, Any]) -> None:
    assert parsed["different"] == {}
