"""Makes the README's pictures and its recording anew: the real app, vLLM's CPU build and Chromium.

    .venv/bin/python -m docs.pictures [tour chat servers ledger failure] [--out docs/images]

Needs some ten minutes on two idle cores; without names all are made. SmolLM2 answers; nothing is downloaded. In
``tour.webp`` the start of the model is shown faster than it is, and no picture stands for long. ``ledger.png`` shows
figures that an H100 had (``h100_ledger.json``). Look at each of them before it is committed.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.chat_browser import chromium
from benchmarks.gateway import app

ROOT = Path(__file__).resolve().parent.parent
MODEL = "SmolLM2-135M-Instruct"
OTHER = "Qwen2-0.5B-Instruct"
_SIZE = (960, 600)
"""Of the recording; the page is 1280 x 800."""
_START_MS = 60
"""How long a picture of the start is shown."""
_START_PAUSE_MS = 700
_LONGEST_MS = 1200
_LAST_MS = 3000
_PATIENCE_MS = 300_000
_WHERE_TO = 3.0
"""Seconds for the eye where something new stands on the page."""


@dataclass
class Recording:
    """Pictures of a page, each with the time that it was taken at."""

    page: Any
    shots: list[tuple[bytes, float, int]] = field(default_factory=list)
    """PNG, seconds, and the most milliseconds that it is to be shown."""

    def shoot(self, most_ms: int = _LONGEST_MS) -> None:
        self.shots.append((self.page.screenshot(type="png"), time.monotonic(), most_ms))

    def watch(self, until: Callable[[], bool], most_ms: int = _LONGEST_MS, pause_ms: int = 0) -> None:
        """Takes pictures as fast as they come, or with a pause after each: they are work for the processor too."""
        while not until():
            self.shoot(most_ms)
            self.page.wait_for_timeout(pause_ms)

    def rest(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.watch(lambda: time.monotonic() > end)

    def save(self, path: Path) -> None:
        """As animated WebP; pictures that are alike are one."""
        images: list[Image.Image] = []
        durations: list[int] = []
        ends = [at for _, at, _ in self.shots[1:]]
        for (data, at, most_ms), end in zip(self.shots, [*ends, self.shots[-1][1]], strict=True):
            image = Image.open(io.BytesIO(data)).convert("RGB").resize(_SIZE, Image.Resampling.LANCZOS)
            lasted = min(most_ms, max(20, round((end - at) * 1000)))
            if images and image.tobytes() == images[-1].tobytes():
                durations[-1] = min(most_ms, durations[-1] + lasted)
            else:
                images.append(image)
                durations.append(lasted)
        durations[-1] = _LAST_MS
        images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0, quality=55, method=4)
        print(f"{path}: {len(images)} pictures, {sum(durations) / 1000:.0f} s, {path.stat().st_size / 2**20:.1f} MiB")


class Photographer:
    """Opens pages of one app."""

    def __init__(self, browser: Any, url: str, models: Path, out: Path) -> None:
        """``models`` is the folder of the app's own model files."""
        self._browser = browser
        self._url = url
        self._models = models
        self._out = out

    def _open(self, model: str) -> Any:
        from browser.deck_page import DeckPage  # noqa: PLC0415  # of the tests

        return DeckPage.open(self._browser, self._url, model=model)

    def _ready(self, model: str = MODEL) -> Any:
        from playwright.sync_api import expect  # noqa: PLC0415  # of the tests

        deck = self._open(model)
        deck.page.evaluate(f"fetch('/api/servers/{model}/start', {{method: 'POST'}})")
        expect(deck.chip).to_have_text("ready", timeout=_PATIENCE_MS)
        return deck

    def _shoot(self, name: str, of: Any) -> None:
        path = self._out / f"{name}.png"
        of.screenshot(path=path)
        print(path)

    def tour(self) -> None:
        """The page opens, a model is picked and starts, a question is typed and answered, the memory is looked at."""
        deck = self._open(OTHER)
        page, record = deck.page, Recording(deck.page)
        record.rest(1.5)
        deck.picker.click()
        page.wait_for_timeout(300)
        record.rest(1.2)
        page.locator("#model-picker").get_by_role("option", name=MODEL).first.click()
        record.rest(1.5)
        question = "What is the capital of France?"
        deck.text.click()
        for letter in question:
            deck.text.press_sequentially(letter)
            record.shoot(60)
        deck.text.press("Enter")
        begun = "() => document.querySelector('#live-answer .md > *') || document.querySelector('#turns .bot-row')"
        record.watch(lambda: bool(page.evaluate(f"({begun})() !== null")), _START_MS, _START_PAUSE_MS)
        busy = page.locator("#chat-pane.busy")
        record.watch(lambda: busy.count() == 0, 200)
        record.rest(1.0)
        for letter in "Name three fruits, as a list.":
            deck.text.press_sequentially(letter)
            record.shoot(40)
        deck.text.press("Enter")
        page.wait_for_timeout(200)
        record.watch(lambda: busy.count() == 0, 200)
        record.rest(_WHERE_TO)
        deck.open_tab("gpus")
        page.wait_for_timeout(500)
        record.rest(_WHERE_TO)
        record.save(self._out / "tour.webp")
        deck.close()

    def chat(self) -> None:
        deck = self._ready()
        deck.ask("What is the capital of France?")
        deck.ask("And of Italy?")
        deck.page.wait_for_timeout(2000)
        self._shoot("chat", deck.page)
        deck.close()

    def servers(self) -> None:
        """With the result of a smoke test."""
        deck = self._ready()
        deck.open_tab("servers")
        deck.press(MODEL, "Smoke test")
        deck.server(MODEL).locator(".smoke[data-verdict]").wait_for(timeout=_PATIENCE_MS)
        deck.page.wait_for_timeout(2000)
        self._shoot("servers", deck.page)
        deck.close()

    def failure(self) -> None:
        """A context longer than the model has."""
        long = f"model: HuggingFaceTB/{MODEL}\nserved-model-name: SmolLM2-long\nmax-model-len: 16384\n"
        (self._models / "SmolLM2-long.yaml").write_text(long, encoding="utf-8")
        deck = self._open("SmolLM2-long")
        deck.open_tab("servers")
        deck.press("SmolLM2-long", "Start")
        deck.server("SmolLM2-long").locator(".failure").wait_for(timeout=_PATIENCE_MS)
        deck.page.wait_for_timeout(3000)
        self._shoot("failure", deck.server("SmolLM2-long"))
        deck.close()

    def ledger(self) -> None:
        """The card of a GPU that this machine need not have."""
        known = json.loads(Path(__file__).with_name("h100_ledger.json").read_text(encoding="utf-8"))
        deck = self._open(MODEL)

        def answer(route: Any) -> None:
            response = route.fetch()
            snapshot = response.json()
            snapshot["devices"] = known["devices"]
            snapshot["ledger"]["devices"] = [known["ledger"]]
            owners = {owner["name"]: owner["pids"] for owner in known["ledger"]["owners"]}
            for server in snapshot["servers"]:
                server["pids"] = owners.get(server["name"], server["pids"])
            route.fulfill(response=response, json=snapshot)

        deck.page.route("**/api/snapshot*", answer)
        deck.load()
        deck.open_tab("gpus")
        # What this machine knows nothing of: the GPU's past, and its processes.
        deck.page.add_style_tag(content="#tab-gpus .plot, #tab-gpus .plot ~ * { display: none }")
        card = deck.page.locator("#tab-gpus .deck-card:has(.plot)").first
        card.wait_for(state="attached")
        deck.page.wait_for_timeout(3000)
        self._shoot("ledger", card)
        deck.close()


NAMES = ("tour", "chat", "servers", "ledger", "failure")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; without any: all")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    args = parser.parse_args()
    if unknown := set(args.names) - set(NAMES):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    args.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p-")))
        models = folder / "models"
        models.mkdir()
        url, _ = stack.enter_context(app(str(folder / "state"), "--models-dir", str(models)))
        photographer = Photographer(stack.enter_context(chromium()), url, models, args.out)
        for name in args.names or NAMES:
            getattr(photographer, name)()


if __name__ == "__main__":
    main()
