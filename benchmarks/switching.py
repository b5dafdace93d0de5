"""How long a switch to a sleeping model takes, to the first token, through the gateway and through the page's own path.

    python -m benchmarks.switching                                             # pretended GPU, fake vLLM
    python -m benchmarks.switching --models-dir DIR --models NAME,NAME,NAME    # real vLLM

The models must not fit together. All are started once (cold, by the app). Then come random switches: a request for a
model that sleeps, half of them to `/v1/chat/completions`, half to `/api/chat`, timed from the request to the first
text. Beside it stands what vLLM itself takes: its own `/sleep` of the model before, `/wake_up` of the next and the
first token of a server that is awake, each asked for directly and measured in the same run (medians).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.app_start import ROOT
from benchmarks.gpu_reliability import App
from benchmarks.machine import write_results
from benchmarks.server_stop import ask
from server_manager.handle_store import HandleStore

GOAL = 1.15
PROMPT = "Tell me something about the sea."


@contextmanager
def pretended() -> Iterator[tuple[Path, list[str], dict[str, str]]]:
    """A folder of models, their names and the environment of an app that finds a GPU of 80 GiB for one of them."""
    sys.path[:0] = [str(ROOT / "tests")]
    import fake_gpu  # noqa: PLC0415  # the tests' stand-ins, only where they are wanted
    from deck_app import Place  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="s-") as folder:
        place = Place(Path(folder) / "place")
        names = ["small", "middle", "large"]
        for name, seconds in zip(names, (0.08, 0.11, 0.35), strict=True):
            place.add_model(name, "gpu-memory-utilization: 0.85\n", sleep_seconds=seconds)
        try:
            yield place.models_dir, names, {**place.env, **fake_gpu.make_gpus(Path(folder) / "gpus", 80)}
        finally:
            place.close()


def first_text(url: str, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> float:
    """Seconds from the request to the first text of its streamed answer. Raises ``RuntimeError`` where none comes."""
    data = json.dumps(body).encode()
    request = urllib.request.Request(  # our own address
        f"{url}{path}", data, {"Content-Type": "application/json", **(headers or {})}
    )
    began, found = time.perf_counter(), None
    seen = b""
    with urllib.request.urlopen(request, timeout=600) as answer:
        for line in answer:  # to the end, so that the next request finds the server idle
            seen = line.strip() or seen
            if found is None and text_in(line):
                found = time.perf_counter() - began
    if found is None:
        raise RuntimeError(f"no text came: {seen[:500]!r}")
    return found


def text_in(line: bytes) -> bool:
    """Whether a line of either path carries text."""
    line = line.removeprefix(b"data: ").strip()
    if not line.startswith(b"{"):
        return False
    event = json.loads(line)
    if choices := event.get("choices"):
        return bool(choices[0].get("delta", {}).get("content"))
    return event.get("type") == "text" and bool(event.get("content"))


def chat_body(model: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": PROMPT}]
    return {"model": model, "messages": messages, "max_tokens": 16, "stream": True, "ignore_eos": True}


def by_gateway(app: App, model: str) -> float:
    return first_text(app.url, "/v1/chat/completions", chat_body(model))


def by_page(app: App, model: str) -> float:
    body = {"conversation": f"switch-{time.time_ns()}", "model": model, "text": PROMPT, "sampling": {"max_tokens": 16}}
    return first_text(app.url, "/api/chat", body)


class Direct:
    """A server asked by itself, behind the app's back; it is awake before and after."""

    def __init__(self, app: App, state_dir: Path, name: str) -> None:
        status = app.status(name)
        record = next(record for record in HandleStore(state_dir / "servers").load_all() if record.name == name)
        self._url = status["base_url"]
        self._model = status["served_model_name"]
        self._headers = {"Authorization": f"Bearer {record.api_key}"}

    def post(self, path: str) -> float:
        began = time.perf_counter()
        request = urllib.request.Request(f"{self._url}{path}", b"", method="POST")
        urllib.request.urlopen(request, timeout=300).read()
        return time.perf_counter() - began

    def first_token(self) -> float:
        return first_text(self._url, "/v1/chat/completions", chat_body(self._model), self._headers)

    def own(self, rounds: int) -> dict[str, float]:
        """Medians of vLLM's own sleep, wake and the first token of the first request after it, in seconds."""
        times: dict[str, list[float]] = {"sleep_s": [], "wake_s": [], "first_token_s": []}
        for _ in range(rounds):
            times["sleep_s"].append(self.post("/sleep?level=1"))
            times["wake_s"].append(self.post("/wake_up"))
            times["first_token_s"].append(self.first_token())
        return {name: statistics.median(values) for name, values in times.items()}


def run(app: App, state_dir: Path, models: list[str], switches: int, own_rounds: int, seed: int) -> dict[str, Any]:
    cold = {}
    for name in models:
        began = time.perf_counter()
        status = app.start(name)
        if status["state"] != "ready":
            raise RuntimeError(f"{name}: {status['exit']}")
        first = by_gateway(app, name)
        cold[name] = {
            "to_first_token_s": round(time.perf_counter() - began, 2),
            "first_token_s": round(first, 3),
            "sleep": status["sleep"],
        }
        print("cold", name, json.dumps(cold[name]), flush=True)
    own = {}
    for name in models:
        by_gateway(app, name)
        own[name] = Direct(app, state_dir, name).own(own_rounds)
        print("own", name, json.dumps(own[name]), flush=True)
    chance, current = random.Random(seed), models[-1]
    rounds: list[dict[str, Any]] = []
    for index in range(switches):
        target = chance.choice([name for name in models if name != current])
        way = "gateway" if index % 2 == 0 else "page"
        entry: dict[str, Any] = {"from": current, "to": target, "way": way}
        try:
            seconds = by_gateway(app, target) if way == "gateway" else by_page(app, target)
        except (OSError, RuntimeError) as error:
            entry["failed"] = str(error)
        else:
            sum_own = own[current]["sleep_s"] + own[target]["wake_s"] + own[target]["first_token_s"]
            entry |= {"first_token_s": round(seconds, 4), "own_s": round(sum_own, 4), "ratio": seconds / sum_own}
        rounds.append(entry)
        current = target
    states = {name: app.status(name)["state"] for name in models}
    return {"cold": cold, "own": own, "switches": rounds, "states_at_the_end": states}


def summary(results: dict[str, Any]) -> str:
    good = [entry for entry in results["switches"] if "ratio" in entry]
    failed = len(results["switches"]) - len(good)
    lines = [
        "# Switching models",
        "",
        "Seconds from a request for a sleeping model to its first text. `own` is the sum of vLLM's own sleep of the",
        "model before, wake of the next and first token, asked for directly in the same run.",
        "",
        "| to | way | switches | median | worst | own, median | ratio, median | cold start |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in results["cold"]:
        for way in ("gateway", "page"):
            some = [entry for entry in good if entry["to"] == name and entry["way"] == way]
            if some:
                times = [entry["first_token_s"] for entry in some]
                lines.append(
                    f"| {name} | {way} | {len(some)} | {statistics.median(times):.3f} | {max(times):.3f} "
                    f"| {statistics.median(entry['own_s'] for entry in some):.3f} "
                    f"| {statistics.median(entry['ratio'] for entry in some):.2f} "
                    f"| {results['cold'][name]['to_first_token_s']:.1f} |"
                )
    for way in ("gateway", "page"):
        some = [entry for entry in good if entry["way"] == way]
        if some:
            times = [entry["first_token_s"] for entry in some]
            ratio = statistics.median(entry["ratio"] for entry in some)
            lines.append(
                f"| **all** | {way} | {len(some)} | **{statistics.median(times):.3f}** | **{max(times):.3f}** "
                f"| {statistics.median(entry['own_s'] for entry in some):.3f} | **{ratio:.2f}** | |"
            )
    return "\n".join([*lines, "", f"Failed: {failed} of {len(results['switches'])}. Goal: a ratio of at most {GOAL}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models-dir")
    parser.add_argument("--models", default="")
    parser.add_argument("--switches", type=int, default=50)
    parser.add_argument("--own", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--snapshot", help="also writes there what the page draws, as JSON")
    parser.add_argument("--name", default="switching_fake", help="of the results in docs/benchmarks")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="b-") as state:
        if args.models_dir:
            app = App(args.models_dir, state)
            results = finish(app, state, args.models.split(","), args)
        else:
            with pretended() as (models_dir, names, env):
                app = App(str(models_dir), state, env=env)
                results = finish(app, state, names, args)
    write_results(args.name, results, " ".join(["python -m benchmarks.switching", *sys.argv[1:]]), summary(results))


def finish(app: App, state: str, models: list[str], args: argparse.Namespace) -> dict[str, Any]:
    try:
        found = run(app, Path(state), models, args.switches, args.own, args.seed)
        if args.snapshot:
            Path(args.snapshot).write_text(json.dumps(ask(f"{app.url}/api/snapshot")), encoding="utf-8")
        return found
    finally:
        app.end()


if __name__ == "__main__":
    main()
