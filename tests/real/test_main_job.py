"""The whole main job with the real vLLM and a real browser, as on a new machine, and two real failures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from browser.deck_page import SECONDS, DeckPage
from deck_app import LOCAL_HTTP, DeckApp, eventually, text_of
from playwright.sync_api import Browser, expect

from real.conftest import SMOLLM2, RealPlace, make_qwen2

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.browser]

START = 240 * SECONDS
"""A start takes 20 to 50 s on two cores, the first one also converts the model."""
RECORD_FRAMES = """() => {
  window.frames_seen = [];
  new MutationObserver(() => {
    const text = document.getElementById('live-answer').innerText.trim();
    if (text && text !== window.frames_seen.at(-1)) window.frames_seen.push(text);
  }).observe(document.getElementById('live-answer'), {childList: true, subtree: true, characterData: true});
}"""


def running(app: DeckApp) -> int | None:
    """vLLM's own count of the requests that it works on, by its ``/metrics``."""
    servers = {server["name"]: server for server in app.get("/api/snapshot")["servers"]}
    metrics = servers[SMOLLM2]["metrics"]
    return metrics and metrics["num_requests_running"]


def check_gateway(app: DeckApp) -> None:
    """The same server for OpenAI's and Anthropic's clients, under its catalogue name; its own errors pass."""
    hello: Any = [{"role": "user", "content": "What is the capital of France?"}]
    with httpx.Client(**LOCAL_HTTP) as http_client:
        client = openai.OpenAI(base_url=f"{app.url}/v1", api_key="any", max_retries=0, http_client=http_client)
        assert next(iter(client.models.list())).to_dict()["state"] == "ready"
        answer = client.chat.completions.create(model=SMOLLM2, messages=hello, max_tokens=20, temperature=0)
        assert "Paris" in (answer.choices[0].message.content or "")
        stream = client.chat.completions.create(
            model=SMOLLM2, messages=hello, max_tokens=20, temperature=0, stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
        assert "Paris" in "".join(pieces)
        assert len(pieces) > 5
        with pytest.raises(openai.BadRequestError, match="max_model_len"):
            client.chat.completions.create(model=SMOLLM2, messages=hello, max_tokens=99_999)
    body = {"model": SMOLLM2, "messages": hello, "max_tokens": 20, "temperature": 0}
    message = app.http.post("/v1/messages", json=body, headers={"x-api-key": "any"}).json()
    assert (message["type"], message["content"][0]["type"]) == ("message", "text")
    assert "Paris" in message["content"][0]["text"]
    events = app.http.post("/v1/messages", json=body | {"stream": True}).text
    assert events.startswith("event: message_start\n")
    assert "event: message_stop\n" in events
    assert app.http.post("/tokenize", json={"model": SMOLLM2, "prompt": "Hello"}).json()["count"] > 0
    assert app.http.post("/v1/server_info", json={"model": SMOLLM2}).status_code == 404


def check_bench_through_the_gateway(app: DeckApp, place: RealPlace) -> None:
    """``vllm bench serve`` as somebody would point it at ``/v1``; every request is answered whole."""
    words = [
        *("bench", "serve", "--backend", "openai-chat", "--base-url", app.url, "--endpoint", "/v1/chat/completions"),
        *("--model", SMOLLM2, "--tokenizer", str(place.converted), "--dataset-name", "random", "--ignore-eos"),
        *("--random-input-len", "16", "--random-output-len", "8", "--num-prompts", "3", "--max-concurrency", "3"),
        *("--save-result", "--result-dir", str(place.home), "--result-filename", "bench.json"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "vllm.entrypoints.cli.main", *words],
        env=place.env, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((place.home / "bench.json").read_text())
    assert (found["completed"], found["failed"], found["total_output_tokens"]) == (3, 0, 24)
    assert found["mean_ttft_ms"] > 0


def check_load_test(app: DeckApp) -> None:
    """The real ``vllm bench serve`` against the real server, with its figures, samples and tokenizer."""
    settings = {"preset": "tutorial", "input_len": 16, "output_len": 8, "num_prompts": 6, "concurrency": [3]}
    begun = app.post("/api/load-tests", {"servers": [SMOLLM2], "settings": settings}, status=202)

    def over() -> Any:
        run = app.get(f"/api/load-tests/{begun['id']}")
        return run if run["state"] not in ("queued", "running") else None

    run = eventually(over, "the load test is over", seconds=240)
    assert run["state"] == "done", run
    (row,) = run["rows"]
    (level,) = row["levels"]
    metrics = level["metrics"]
    assert (metrics["completed"], metrics["failed"], metrics["total_output_tokens"]) == (6, 0, 48)
    assert 0 < metrics["p50_ttft_ms"] <= metrics["p99_ttft_ms"] <= metrics["p99_e2el_ms"]
    assert metrics["p50_tpot_ms"] > 0
    assert sum(level["ttft_histogram"]["counts"]) == 6
    assert max(filter(None, level["samples"]["num_requests_running"]), default=0) <= 3
    assert (row["was"], run["environment"]["vllm_version"]) == ("ready", "0.32.0")
    assert row["kv_cache_tokens"] > 1000
    assert not level["warnings"]


def check_sleep(app: DeckApp) -> None:
    """Sleep and wake by vLLM's own routes, which answer on a CPU too; memory moves on a GPU only.

    After level 1 a chat wakes it, after level 2 a request to the gateway; each time with the proof in between.
    """
    before = app.server(SMOLLM2)
    assert before["sleep"]["frees_memory"] is False
    vllm = httpx.Client(base_url=before["base_url"], **LOCAL_HTTP, timeout=60)  # past the app
    question = "What is the capital of France?"

    def is_asleep(level: int) -> bool:
        state = {1: "weights_offloaded", 2: "discard_all"}[level]
        metrics = vllm.get("/metrics").text
        assert vllm.get("/health").status_code == 200, "which is why the app must know it"
        shown = re.search(rf'^vllm:engine_sleep_state{{.*sleep_state="{state}".*}} 1.0$', metrics, re.MULTILINE)
        return bool(shown) and vllm.get("/is_sleeping").json() == {"is_sleeping": True}

    with vllm:
        assert vllm.get("/is_sleeping").json() == {"is_sleeping": False}
        assert app.post(f"/api/servers/{SMOLLM2}/sleep")["state"] == "asleep"
        assert is_asleep(level=1)
        frames = app.chat(SMOLLM2, question, sampling={"temperature": 0, "max_tokens": 20})
        assert "Paris" in text_of(frames)
        assert vllm.get("/is_sleeping").json() == {"is_sleeping": False}

        assert app.post(f"/api/servers/{SMOLLM2}/sleep?level=2")["state"] == "asleep"
        assert is_asleep(level=2)
        body = {"model": SMOLLM2, "prompt": "The capital of France is", "max_tokens": 5, "temperature": 0}
        assert "Paris" in app.post("/v1/completions", body)["choices"][0]["text"]
        assert vllm.get("/is_sleeping").json() == {"is_sleeping": False}
    after = app.server(SMOLLM2)
    assert (after["state"], after["pid"]) == ("ready", before["pid"]), "woken, not started again"
    assert after["sleep"]["wake_s"] is not None


def check_smoke(app: DeckApp) -> None:
    """The real vLLM tells all that the smoke test looks at, and this model passes it."""
    found = app.post(f"/api/servers/{SMOLLM2}/smoke")
    assert (found["verdict"], found["reasons"], found["not_judged"]) == ("pass", [], [])
    assert "Paris" in found["prompts"][2]["text"]
    assert all(prompt["ok"] and prompt["tokens"] for prompt in found["prompts"])
    assert 1 < found["perplexity"]["answer"] < found["perplexity"]["prompt"]


def check_converted(folder: Path) -> None:
    """The bundled model is whole, and nothing lies beside it but the lock."""
    assert [path.name for path in folder.parent.iterdir() if not path.name.endswith(".lock")] == [folder.name]
    config = json.loads((folder / "config.json").read_text())
    assert (config["architectures"], config["num_hidden_layers"]) == (["LlamaForCausalLM"], 30)
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja"} <= {path.name for path in folder.iterdir()}
    assert "temperature" in json.loads((folder / "generation_config.json").read_text())


@pytest.mark.timeout(900)
def test_the_main_job(real_place: RealPlace, browser: Browser) -> None:
    """1. The app starts SmolLM2 by itself; a question typed at once is answered: Paris, streamed. 2. Sleep and wake,
    and the smoke test. 3. Stop reaches vLLM. 4. Regenerate. 5. Another model is picked: the first is stopped, the
    conversation goes on. 6. SIGKILL of the app while vLLM serves: a guardian ends the whole tree and tidies up."""
    real_place.set_variables(SMOLLM2, VLLM_SERVER_DEV_MODE="1")  # as it is on a GPU: for the routes of sleep
    app = DeckApp(real_place, start=True, forked=False).wait_until_up()
    page = DeckPage.open(browser, app.url)
    try:
        page.page.evaluate(RECORD_FRAMES)
        page.send("What is the capital of France?")
        expect(page.live).to_contain_text(re.compile("Starting|…"))
        expect(page.answers.last).to_contain_text("capital of France is Paris", timeout=START)
        frames = [text for text in page.page.evaluate("window.frames_seen") if "Starting" not in text and text != "…"]
        assert len(frames) > 1, f"the answer came in one piece: {frames}"
        expect(page.status).to_contain_text("tok/s")
        page.park()  # while nobody looks at it, it need not be drawn
        check_converted(real_place.converted)
        check_gateway(app)
        check_bench_through_the_gateway(app, real_place)
        check_load_test(app)
        check_sleep(app)
        check_smoke(app)

        page.load()
        expect(page.answers).to_contain_text(["capital of France is Paris"])
        page.set_slider("max_tokens", 1500)
        page.set_slider("temperature", 1)  # else this small model says again what it has said
        page.send("Write a long story about a princess and a dragon.")
        expect(page.page.locator("#live-answer")).to_contain_text(re.compile(r"\w{3}"), timeout=60 * SECONDS)
        eventually(lambda: running(app) == 1, "vLLM works on the request")
        page.button("stop").click()
        expect(page.notes.last).to_contain_text("stopped")
        eventually(lambda: running(app) == 0, "vLLM's count of running requests falls")

        page.set_slider("max_tokens", 20)
        page.regenerate()
        expect(page.notes).to_have_count(0, timeout=60 * SECONDS)
        expect(page.tool("Copy the answer")).to_have_count(2)

        qwen2 = real_place.home / "tiny-qwen2"
        make_qwen2(real_place.converted, qwen2)
        (real_place.models_dir / "tiny-qwen2.yaml").write_text(f"model: {qwen2}\nmax-model-len: 1024\n")
        expect(page.picker).to_be_visible()
        eventually(lambda: "tiny-qwen2" in page.choices(), "the new model is offered")
        page.pick("tiny-qwen2")
        page.send("Hello")
        expect(page.tool("Copy the answer")).to_have_count(3, timeout=START)  # a long one has several parts
        assert page.answers.first.inner_text().count("Paris"), "the conversation has moved over"
        assert app.server(SMOLLM2)["state"] == "stopped"
        assert app.server("tiny-qwen2")["state"] == "ready"

    finally:
        page.close()
    app.end(with_signal=9)
    eventually(lambda: not real_place.processes(), "vLLM and its guardian are gone")
    app.close()


@pytest.mark.timeout(400)
def test_a_start_that_vllm_refuses_gives_its_reason(real_place: RealPlace, browser: Browser) -> None:
    """With SmolLM2's own folder, so that only the flag is wrong. The page says why, in vLLM's words. At last SIGTERM
    during a start: nothing is left."""
    converted = real_place.converted
    if not converted.is_dir():
        pytest.skip("the bundled model is converted by the test of the main job")
    (real_place.models_dir / "too-long.yaml").write_text(f"model: {converted}\nmax-model-len: 100000\n")
    (real_place.models_dir / "odd-flag.yaml").write_text(f"model: {converted}\nno-such-flag: 3\n")
    app = DeckApp(real_place, forked=False).wait_until_up()
    page = DeckPage.open(browser, app.url, model="too-long")
    try:
        page.open_tab("servers")
        page.press("odd-flag", "Start")  # both at once
        page.open_tab("chat")
        page.send("Hello")
        expect(page.status).to_contain_text(
            "The context of 100000 tokens is longer than the model can handle", timeout=START
        )
        expect(page.text).to_have_value("Hello")

        page.open_tab("servers")
        expect(page.server("too-long")).to_contain_text("max_model_len (100000)")
        expect(page.server("odd-flag")).to_contain_text("unrecognized arguments: --no-such-flag", timeout=START)

        page.press(SMOLLM2, "Start")
        eventually(lambda: len(real_place.processes()) > 3, "vLLM has started its processes", seconds=120)
        assert app.end() == 0
        eventually(lambda: not real_place.processes(), "nothing is left")
    finally:
        page.close()
        app.close()
