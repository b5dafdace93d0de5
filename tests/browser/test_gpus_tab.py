"""The GPUs tab and the header's bars, with two pretended GPUs of which one is lost, and without any."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from deck_app import DeckApp, Place, eventually
from playwright.sync_api import Locator, expect

from browser.conftest import OpenPage
from browser.deck_page import DeckPage

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]

GIB = 1 << 30
PYNVML = """\
import json, sys
sys.path.append({telemetry!r})
from fake_pynvml import GIB, FakeGpu, FakePynvml

class Pynvml(FakePynvml):
    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        with open({processes!r}) as listed:
            self._gpu("", handle).compute = json.load(listed)
        return super().nvmlDeviceGetComputeRunningProcesses(handle)

sys.modules[__name__] = Pynvml(FakeGpu(used=50 * GIB), FakeGpu(uuid="GPU-bbbb", lost=True))
"""


@pytest.fixture(scope="module")
def gpu_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeckApp]:
    """An app that finds a fake ``pynvml``; the models ``alpha`` and ``beta`` are up and hold 20 and 12 GiB."""
    folder = tmp_path_factory.mktemp("gpus")
    processes = folder / "processes.json"
    processes.write_text("[]")
    telemetry = Path(__file__).resolve().parents[1] / "telemetry"
    (folder / "pynvml.py").write_text(PYNVML.format(telemetry=str(telemetry), processes=str(processes)))
    place = Place(folder / "place")
    for name in ("alpha", "beta"):
        place.add_model(name, "gpu-memory-utilization: 0.3\n")
    app = DeckApp(place, env={"PYTHONPATH": str(folder)}).wait_until_up()
    try:
        pids = [app.start(name)["pid"] for name in ("alpha", "beta")]
        others = 1  # some process of the system
        processes.write_text(json.dumps([[pids[0], 20 * GIB], [pids[1], 12 * GIB], [others, 5 * GIB]]))
        yield app
    finally:
        app.close()
        place.close()


@pytest.fixture
def gpus(gpu_app: DeckApp, open_page: OpenPage) -> DeckPage:
    """The page on that tab."""
    page = open_page(gpu_app, model="alpha")
    page.open_tab("gpus")
    return page


def expect_drawn(plot: Locator) -> None:
    """The plot's lines are there: pixels of a full colour, which neither axes nor background have."""
    canvas = plot.locator("canvas")
    expect(canvas).to_be_visible()
    handle = canvas.element_handle()
    assert handle is not None
    plot.page.wait_for_function(
        """(canvas) => {
          const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
          let coloured = 0;
          for (let i = 0; i < data.length; i += 4) {
            const colours = data.slice(i, i + 3);
            if (data[i + 3] > 200 && Math.max(...colours) - Math.min(...colours) > 60) coloured++;
          }
          return coloured > 50;
        }""",
        arg=handle,
    )


def expect_share(part: Locator, fraction: float) -> None:
    """A part of a bar has this share of the whole, once the bar has come to rest."""
    look = "e => e.getBoundingClientRect().width / e.parentElement.getBoundingClientRect().width"
    eventually(lambda: abs(part.evaluate(look) - fraction) < 0.01, f"a share of {fraction:.0%}", seconds=10)


def test_each_gpu_has_a_card_with_its_figures(gpus: DeckPage) -> None:
    cards = gpus.page.locator("#gpu-cards > section")
    expect(cards).to_have_count(3)  # two GPUs and the machine
    first = cards.nth(0)
    expect(first.locator("h3")).to_have_text("GPU 0 · NVIDIA H100 80GB HBM3")
    for figure in ("50.0 / 80.0 GiB", "87 %", "61 °C", "412 / 700 W"):
        expect(first.locator(".facts")).to_contain_text(figure)
    expect_drawn(first.locator(".plot"))


def test_memory_is_split_by_owner(gpus: DeckPage) -> None:
    first = gpus.page.locator("#gpu-cards > section").nth(0)
    for part, fraction in (('[title="alpha: 20.00 GiB"]', 20 / 80), ('[title="beta: 12.00 GiB"]', 12 / 80)):
        expect(first.locator(f".bar {part}")).to_have_count(1)
        expect_share(first.locator(f".bar {part}"), fraction)
    expect_share(first.locator(".bar .others"), 18 / 80)
    for text in ("alpha 20.0 GiB", "beta 12.0 GiB", "others 18.0 GiB"):
        expect(first.locator(".legend")).to_contain_text(text)
    header = gpus.page.locator("#deck-live .meter").nth(0)
    expect(header).to_contain_text("GPU 0")
    expect(header.locator('[title="alpha: 20.00 GiB"]')).to_have_count(1)


def test_processes_are_listed_with_their_server(gpu_app: DeckApp, gpus: DeckPage) -> None:
    rows = gpus.page.locator("#gpu-cards > section").nth(0).locator("tr")
    for name, size in (("alpha", "20.0 GiB"), ("beta", "12.0 GiB")):
        pid = gpu_app.server(name)["pid"]
        expect(rows.filter(has_text=str(pid))).to_contain_text(re.compile(rf"{name}.*{pid}.*{size}", re.DOTALL))
    expect(rows.filter(has_text="5.0 GiB")).to_contain_text("others")


def test_lost_gpu_says_so_and_the_other_goes_on(gpus: DeckPage) -> None:
    second = gpus.page.locator("#gpu-cards > section").nth(1)
    expect(second.locator("h3")).to_contain_text("GPU 1")
    expect(second.locator(".banner.bad")).to_contain_text("fallen off the bus")
    expect(gpus.page.locator("#deck-live .meter").nth(1)).to_contain_text("not readable")


def test_gpu_is_plotted_beside_the_chat(gpus: DeckPage) -> None:
    gpus.open_tab("chat")
    expect(gpus.page.locator("#side-plot .deck-card-head")).to_have_text("GPU 0")
    expect_drawn(gpus.page.locator("#plot-side"))


def test_without_a_gpu_the_machine_is_shown(app: DeckApp, page: DeckPage) -> None:
    page.open_tab("gpus")
    card = page.page.locator("#gpu-cards > section")
    expect(card).to_have_count(1)
    expect(card.locator("h3")).to_have_text("This machine")
    expect(card.locator(".facts")).to_contain_text(re.compile(r"\d+\.\d / \d+\.\d GiB"))
    row = card.locator("tr").filter(has_text="quick")
    expect(row).to_contain_text(str(app.server("quick")["pid"]))
    expect(row).to_contain_text(re.compile(r"\d+ MiB"))
    expect_drawn(card.locator(".plot"))
    page.open_tab("chat")
    expect(page.page.locator("#side-plot .deck-card-head")).to_have_text("Memory")
    expect_drawn(page.page.locator("#plot-side"))
