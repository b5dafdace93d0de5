"""A stand-in for ``vllm bench serve`` 0.32: really sends its requests, prints what the real one prints, writes a result
with its keys. It needs no tokenizer (a token is a word, as for ``fake_vllm.py``), so it begins at once.

Its own behaviour is set by the environment, since the command line belongs to vLLM:

    FAKE_BENCH_FAIL=TEXT     ends with code 1 before any request; TEXT is the end of its traceback
    FAKE_BENCH_HANG=1        never begins its requests
    FAKE_BENCH_NO_RESULT=1   ends with code 0 without a result
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit


@dataclass
class Output:
    """One request."""

    start: float = 0.0
    ttft: float = 0.0
    itl: list[float] = field(default_factory=list)
    latency: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    text: str = ""
    error: str = ""


class Bar:
    """tqdm's, on standard error."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.lock = total, 0, threading.Lock()
        self.show()

    def update(self) -> None:
        with self.lock:
            self.done += 1
            self.show()

    def show(self) -> None:
        share = 100 * self.done // self.total
        os.write(2, f"\r{share:3d}%|{'█' * (share // 10):10}| {self.done}/{self.total} [00:00<?, ?it/s]".encode())

    def close(self) -> None:
        os.write(2, b"\n")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vllm bench serve", allow_abbrev=False)
    for name in ("backend", "base-url", "endpoint", "model", "tokenizer", "dataset-name", "dataset-path"):
        parser.add_argument(f"--{name}")
    for name in ("num-prompts", "seed", "num-warmups", "random-input-len", "random-output-len"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--max-concurrency", type=int)
    parser.add_argument("--request-rate", type=float, default=float("inf"))
    parser.add_argument("--random-range-ratio")
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--percentile-metrics")
    parser.add_argument("--metric-percentiles", default="99")
    parser.add_argument("--goodput", nargs="+", default=[])
    parser.add_argument("--custom-output-len", type=int)
    parser.add_argument("--result-dir")
    parser.add_argument("--result-filename")
    for name in ("ignore-eos", "save-result", "save-detailed", "skip-chat-template", "trust-remote-code"):
        parser.add_argument(f"--{name}", action="store_true")
    return parser.parse_args(argv)


def ask(args: argparse.Namespace) -> Output:
    """Sends one request and times its tokens."""
    found = Output(start=time.perf_counter())
    url = urlsplit(args.base_url)
    prompt = "word " * args.random_input_len
    body = {"model": args.model, "stream": True, "stream_options": {"include_usage": True}, "temperature": 0}
    chat = args.endpoint.endswith("chat/completions")
    body |= {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    body |= {"max_completion_tokens" if chat else "max_tokens": args.random_output_len, "ignore_eos": args.ignore_eos}
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    try:
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)
        connection.request("POST", args.endpoint, json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            found.error = http.client.responses.get(response.status, "")
            return found
        last = found.start
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if event["choices"]:
                now = time.perf_counter()
                if found.ttft:
                    found.itl.append(now - last)
                else:
                    found.ttft = now - found.start
                last = now
                found.text += (event["choices"][0].get("delta") or {}).get("content") or ""
            elif usage := event.get("usage"):
                found.output_tokens, found.input_tokens = usage["completion_tokens"], usage["prompt_tokens"]
        connection.close()
        found.latency = last - found.start
        if not found.ttft:
            found.error = "Never received a valid chunk to calculate TTFT.This response will be marked as failed!"
    except (OSError, http.client.HTTPException) as error:
        found.error = f"Traceback (most recent call last):\n  ...\n{type(error).__name__}: {error}\n"
    return found


def percentile(values: list[float], p: float) -> float:
    ordered = sorted(values) or [0.0]
    at = p / 100 * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def result_of(args: argparse.Namespace, outputs: list[Output], seconds: float) -> dict[str, object]:
    good = [each for each in outputs if not each.error]
    tokens = sum(each.output_tokens for each in good)
    prompts = sum(each.input_tokens for each in good)
    values = {
        "ttft": [each.ttft for each in good],
        "tpot": [(each.latency - each.ttft) / (each.output_tokens - 1) for each in good if each.output_tokens > 1],
        "itl": [gap for each in good for gap in each.itl],
        "e2el": [each.latency for each in good],
    }
    found: dict[str, object] = {
        "date": time.strftime("%Y%m%d-%H%M%S"), "endpoint_type": args.backend, "backend": args.backend, "label": None,
        "model_id": args.model, "tokenizer_id": args.tokenizer, "num_prompts": args.num_prompts,
        "request_rate": "inf" if args.request_rate == float("inf") else args.request_rate, "burstiness": 1.0,
        "max_concurrency": args.max_concurrency, "duration": seconds, "completed": len(good),
        "failed": len(outputs) - len(good), "total_input_tokens": prompts, "total_output_tokens": tokens,
        "request_throughput": len(good) / seconds,
        "request_goodput": len(good) / seconds if args.goodput else None, "output_throughput": tokens / seconds,
        "total_token_throughput": (prompts + tokens) / seconds, "ttfts": [each.ttft for each in outputs],
        "itls": [each.itl for each in outputs], "latencies": [each.latency for each in outputs],
        "generated_texts": [each.text for each in outputs], "errors": [each.error for each in outputs],
        "max_output_tokens_per_s": tokens / seconds,
        "max_concurrent_requests": min(args.max_concurrency or len(outputs), len(outputs)) if good else 0,
    }  # fmt: skip
    for name, each in values.items():
        found[f"mean_{name}_ms"] = 1000 * sum(each) / len(each) if each else 0.0
        for p in args.metric_percentiles.split(","):
            found[f"p{p}_{name}_ms"] = 1000 * percentile(each, float(p))
    return found


def send_all(args: argparse.Namespace, bar: Bar) -> list[Output]:
    def one(position: int) -> Output:
        if args.request_rate != float("inf"):
            time.sleep(max(0.0, began + position / args.request_rate - time.perf_counter()))
        found = ask(args)
        bar.update()
        return found

    began = time.perf_counter()
    with ThreadPoolExecutor(args.max_concurrency or 64) as pool:
        return list(pool.map(one, range(args.num_prompts)))


def main(argv: list[str]) -> None:
    args = parse(argv)
    print(args, flush=True)
    if os.environ.get("FAKE_BENCH_HANG"):
        time.sleep(600)
    if text := os.environ.get("FAKE_BENCH_FAIL"):
        sys.exit(f"Traceback (most recent call last):\n  ...\n{text}")
    print("Starting initial single prompt test run...\nSkipping endpoint ready check.", flush=True)
    if args.num_warmups:
        print(f"Warming up with {args.num_warmups} requests...", flush=True)
        bar = Bar(args.num_warmups)
        for _ in range(args.num_warmups):
            ask(args)
            bar.update()
        bar.close()
        print("Warmup run completed.", flush=True)
    print("Starting main benchmark run...", flush=True)
    bar = Bar(args.num_prompts)
    began = time.perf_counter()
    outputs = send_all(args, bar)
    bar.close()
    print("============ Serving Benchmark Result ============", flush=True)
    if not os.environ.get("FAKE_BENCH_NO_RESULT"):
        text = json.dumps(result_of(args, outputs, time.perf_counter() - began))
        (Path(args.result_dir) / args.result_filename).write_text(text)
