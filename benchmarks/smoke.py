"""What the smoke test measures on models that work and on damaged ones: where its limits come from.

    python -m benchmarks.smoke [--model FOLDER] [--record FOLDER]

One real `vllm serve`. Its weights are damaged on the disk, read again by vLLM itself (`/collective_rpc`,
`reload_weights`, as after a sleep of level 2), and judged by the product's own code. `--record` keeps what vLLM
answered, word for word, for the tests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from benchmarks.app_start import free_port
from benchmarks.machine import write_results
from benchmarks.smoke_weights import HELD_OUT, VARIANTS, changed
from server_manager.bundled import ensure_converted
from server_manager.chat_refusals import rejection
from server_manager.client import ClientSession, ServerClient
from server_manager.errors import ChatError
from server_manager.smoke import judge as limits
from server_manager.smoke.asking import ask_prompts
from server_manager.smoke.judge import judge
from server_manager.smoke.words import rounded

BUNDLED = "HuggingFaceTB/SmolLM2-135M-Instruct"
_START_SECONDS = 300.0
_PYTHON = os.environ.get("DECK_VLLM_PYTHON") or sys.executable


class Recorder(ServerClient):
    """Keeps each completion as it came."""

    exchanges: list[dict[str, Any]]

    async def ask(self, method: str, path: str, content: Any = None, *, seconds: float = 5.0) -> bytes:
        async with self.session.http.request(method, f"{self.base_url}{path}", json=content) as response:
            body = await response.read()
            status = response.status
        if path == "/v1/completions":
            asked = {key: content[key] for key in ("prompt", "logprobs", "prompt_logprobs") if key in content}
            self.exchanges.append({**asked, "status": status, "body": json.loads(body)})
        if status != 200:
            raise rejection(status, body)
        return body


@contextmanager
def vllm_server(folder: Path, *flags: str) -> Iterator[str]:
    """The URL of a real server, once it is ready."""
    port = free_port()
    env = {
        **os.environ,
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "HF_HUB_OFFLINE": "1",
    }
    argv = [_PYTHON, "-m", "vllm.entrypoints.cli.main", "serve", str(folder)]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "model", "--max-model-len", "512"]
    argv += ["--enforce-eager", "--distributed-executor-backend", "uni", "--kv-cache-memory-bytes", "64M", *flags]
    with tempfile.TemporaryDirectory(prefix="b-") as tmpdir, (folder / "vllm.log").open("wb") as log:
        child = subprocess.Popen(
            argv, env={**env, "TMPDIR": tmpdir}, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            asyncio.run(_until_healthy(f"http://127.0.0.1:{port}", child))
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


async def _until_healthy(url: str, child: subprocess.Popen[bytes]) -> None:
    began = time.monotonic()
    async with ClientSession() as session:
        while await ServerClient(session, url).health() != 200:
            if child.poll() is not None or time.monotonic() - began > _START_SECONDS:
                raise RuntimeError("vLLM did not start; see its log")
            await asyncio.sleep(0.5)


async def measure(url: str, *, reload: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The smoke test's result, and the completions that it rests on."""
    async with ClientSession() as session:
        client = Recorder(session, url)
        client.exchanges = []
        if reload:
            await client.ask("POST", "/collective_rpc", {"method": "reload_weights"}, seconds=_START_SECONDS)
            await client.ask("POST", "/reset_prefix_cache", seconds=60)
        began = time.monotonic()
        result = judge("model", await ask_prompts(client, "model"), time.monotonic() - began)
        return result.as_dict(), client.exchanges


def row(name: str, works: bool, url: str, record: Path | None, *, reload: bool = True) -> dict[str, Any]:
    """One line of the table."""
    try:
        result, exchanges = asyncio.run(measure(url, reload=reload))
    except (ChatError, RuntimeError) as error:
        raise RuntimeError(f"{name}: {error}") from error
    if record:
        record.mkdir(parents=True, exist_ok=True)
        slug = "_".join("".join(char if char.isalnum() else " " for char in name).split())
        lines = ",\n".join(json.dumps(exchange) for exchange in exchanges)
        (record / f"{slug}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    found = {"name": name, "works": works, **result}
    print(table_line(found), [prompt["text"] for prompt in result["prompts"]], flush=True)
    return found


def table_line(found: dict[str, Any]) -> str:
    repetition = sorted(prompt["repetition"] or 0.0 for prompt in found["prompts"])
    perplexity = found["perplexity"] or {"prompt": None, "answer": None}
    shown = ["–" if value is None else rounded(value) for value in (perplexity["prompt"], perplexity["answer"])]
    odd = sum(not prompt["ok"] for prompt in found["prompts"])
    said = json.dumps(found["prompts"][2]["text"], ensure_ascii=False).replace("|", "\\|").replace("`", "'")
    cells = (found["name"], *shown, *(f"{value:.2f}" for value in repetition[-2:]), odd, found["verdict"], f"`{said}`")
    return "| " + " | ".join(map(str, cells)) + " |"


def summary(rows: Sequence[dict[str, Any]], again: Sequence[dict[str, Any]]) -> str:
    columns = ("weights", "prompts", "answers", "repetition, 2nd most", "most", "odd answers", "verdict")
    head = f"| {' | '.join(columns)} | “The capital of France is” |"
    line = "|---" * (len(columns) + 1) + "|"
    parts = [
        "\n".join([f"## {title}", "", head, line, *map(table_line, found)])
        for title, found in (
            ("Models that work", [found for found in rows if found["works"]]),
            ("Damaged models", [found for found in rows if not found["works"]]),
            ("With other random numbers", again),
        )
    ]
    damaged = [found for found in rows if not found["works"]]
    odd = sum(sum(not prompt["ok"] for prompt in found["prompts"]) >= limits.ODD_ANSWERS_LIMIT for found in damaged)
    right = sum(found["works"] == (found["verdict"] == "pass") for found in again)
    missed = [found["name"] for found in rows if not found["works"] and found["verdict"] == "pass"]
    wrong = [found["name"] for found in rows if found["works"] and found["verdict"] == "fail"]
    return f"""# Smoke test: what it measures, and its limits

SmolLM2-135M-Instruct on real vLLM (bf16), with its weights changed in each way. Prompts and answers: the perplexity
over all words of the four prompts, and over those of the four answers (16 tokens each, greedy, without a chat
template). Repetition: the part of an answer's pairs of tokens that were there before (0.93: one token only).

It fails where

- the prompts' perplexity is over {limits.PROMPT_PERPLEXITY_LIMIT:,.0f},
- or the answers' over {limits.ANSWER_PERPLEXITY_LIMIT:,.0f},
- or {limits.ODD_ANSWERS_LIMIT} answers of four are odd: empty, with broken characters, or with a repetition of
  {limits.REPETITION_LIMIT} or more,
- or logprobs are no numbers (vLLM answers with an error then: the dashes below),
- or an answer is an error, or all four are the same.

{parts[0]}

{parts[1]}

Not noticed of the damaged: {", ".join(missed) or "none"}. Failed although they work: {", ".join(wrong) or "none"}.
By odd answers alone, about what can be judged on a server that tells no probabilities, {odd} of the {len(damaged)}
damaged ones are noticed.

{parts[2]}

The verdict is right for {right} of these {len(again)}.

The limits were chosen from the first two tables, and whether a model "works" was decided by reading its answers (they
are in `smoke.json`); the third was measured once they stood. It is all one model: others have not been tried. The test
reaches as far as one spoilt layer of thirty, of which some are noticed and some are not; what is lost beyond that an
evaluation of the model finds. The limits are absolute, so a model that has hardly read English may fail by the first.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a folder of a Llama with 30 layers (default: the bundled model)")
    parser.add_argument("--record", type=Path, help="a folder for what vLLM answered")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="s-") as scratch:
        source = args.model or asyncio.run(ensure_converted(BUNDLED, Path(scratch) / "cache", _PYTHON, print))
        folder = Path(scratch) / "model"
        shutil.copytree(source, folder)
        weights = folder / "model.safetensors"
        whole = load_file(weights)
        rows, again = [], []
        with vllm_server(folder) as url:
            for variant in VARIANTS:
                save_file(changed(whole, variant), weights, metadata={"format": "pt"})
                rows.append(row(variant.name, variant.works, url, args.record))
            for variant in HELD_OUT:
                save_file(changed(whole, variant, seed=1), weights, metadata={"format": "pt"})
                again.append(row(variant.name, variant.works, url, None))
        save_file(whole, weights, metadata={"format": "pt"})
        for name, flags in (("--load-format dummy", ("--load-format", "dummy")),):
            with vllm_server(folder, *flags) as url:
                rows.append(row(name, False, url, args.record, reload=False))
    write_results("smoke", {"rows": rows, "held_out": again}, "python -m benchmarks.smoke", summary(rows, again))


if __name__ == "__main__":
    main()
