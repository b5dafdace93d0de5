"""The GPUs tab and the header's bars, with two pretended GPUs of which one is lost, and without any."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from deck_app import DeckApp, Place, eventually
from playwright.sync_api import Locator, expect

from browser.conftest import OpenPage
from browser.deck_page import DeckPage, expect_drawn

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]

GIB = 1 << 30
PYNVML = """\
import json, sys
from pathlib import Path
sys.path.append({telemetry!r})
from fake_pynvml import GIB, FakeGpu, FakePynvml

def alive(pid):
    try:
        return ") Z " not in Path(f"/proc/{{pid}}/stat").read_text()
    except OSError:
        return False

class Pynvml(FakePynvml):
    def _gpu(self, call, handle):
        gpu = super()._gpu(call, handle)
        with open({processes!r}) as listed:
            gpu.compute = [[pid, size] for pid, size in json.load(listed) if alive(pid)]
        gpu.used = 13 * GIB + sum(size for _, size in gpu.compute)
        return gpu

sys.modules[__name__] = Pynvml(FakeGpu(), FakeGpu(uuid="GPU-bbbb", lost=True))
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
    log = folder / "gpu.log"
    log.write_text(
        "INFO 11-22 10:38:27 [model_runner.py:425] Model loading took 14.29 GiB memory and 1.9 seconds\n"
        "INFO 11-22 10:38:50 [gpu_worker.py:759] Available KV cache memory: 4.5 GiB\n"
        "INFO 11-22 10:38:50 [kv_cache_utils.py:2327] GPU KV cache size: 93,184 tokens\n"
    )
    place.add_model("alpha", "gpu-memory-utilization: 0.3\n", replay=log)
    place.add_model("beta", "gpu-memory-utilization: 0.3\n")
    app = DeckApp(place, env={"PYTHONPATH": str(folder)}).wait_until_up()
    try:
        pids = [app.start(name)["pid"] for name in ("alpha", "beta")]
        others = 1  # some process of the system
        processes.write_text(json.dumps([[pids[0], 20 * GIB], [pids[1], 12 * GIB], [others, 5 * GIB]]))
        yield app
    finally:
        app.close()
        place.close()


def list_process(app: DeckApp, pid: int, gib: int) -> None:
    """The fake driver counts one process more."""
    listed = app.place.home.parent.parent / "processes.json"
    listed.write_text(json.dumps([*json.loads(listed.read_text()), [pid, gib * GIB]]))


@pytest.fixture
def dead_app(gpu_app: DeckApp, tmp_path: Path) -> Iterator[Place]:
    """The place of another app that was killed with its guardian; its server ``gone`` still holds 10 GiB."""
    place = Place(tmp_path / "dead")
    place.add_model("gone", "gpu-memory-utilization: 0.1\n")
    app = DeckApp(place).wait_until_up()
    list_process(gpu_app, app.start("gone")["pid"], 10)
    app.process.send_signal(signal.SIGSTOP)  # so that it does not start another guardian
    guardians = [pid for pid, command in place.processes().items() if "launchers.guardian" in command]
    for pid in (*guardians, app.process.pid):
        os.kill(pid, signal.SIGKILL)
    app.close()
    yield place
    place.close()


@pytest.fixture
def gpus(gpu_app: DeckApp, open_page: OpenPage) -> DeckPage:
    """The page on that tab."""
    page = open_page(gpu_app, model="alpha")
    page.open_tab("gpus")
    return page


def expect_share(part: Locator, fraction: float) -> None:
    """A part of a bar has this share of the whole, once the bar has come to rest."""
    look = "e => e.getBoundingClientRect().width / e.parentElement.getBoundingClientRect().width"
    eventually(lambda: abs(part.evaluate(look) - fraction) < 0.01, f"a share of {fraction:.0%}", seconds=10)


def test_each_gpu_has_a_card_with_its_figures(gpus: DeckPage) -> None:
    cards = gpus.page.locator("#gpu-cards > section")
    expect(cards).to_have_count(4)  # two GPUs, the machine and leftovers
    first = cards.nth(0)
    expect(first.locator("h3")).to_have_text("GPU 0 · NVIDIA H100 80GB HBM3")
    for figure in ("50.0 / 80.0 GiB", "87 %", "61 °C", "412 / 700 W"):
        expect(first.locator(".facts")).to_contain_text(figure)
    expect_drawn(first.locator(".plot"))


def test_memory_is_split_by_owner(gpus: DeckPage) -> None:
    first = gpus.page.locator("#gpu-cards > section").nth(0)
    for name, gib in (("alpha", 20), ("beta", 12), ("unaccounted", 13), ("reserved", 0.5)):
        expect_share(first.locator(f'.bar [data-owner="{name}"]'), gib / 80)
    for text in ("alpha 20.0 GiB", "beta 12.0 GiB", "unaccounted 13.0 GiB", "free 29.5 GiB"):
        expect(first.locator(".legend")).to_contain_text(text)
    header = gpus.page.locator("#deck-live .meter").nth(0)
    expect(header).to_contain_text("GPU 0")
    expect(header.locator('[title^="alpha: 20.00 GiB"]')).to_have_count(1)


def test_a_server_is_split_by_what_its_log_says(gpu_app: DeckApp, gpus: DeckPage) -> None:
    first = gpus.page.locator("#gpu-cards > section").nth(0)
    alpha = first.locator('.bar [data-owner="alpha"]')
    for part, gib in (("weights", 14.29), ("kv_cache", 4.5), ("other", 1.21)):
        expect_share(alpha.locator(f".part-{part}"), gib / 20)
    entry = first.locator('.legend [data-owner="alpha"]')
    expect(entry).to_contain_text(re.compile(r"weights 14.3 GiB\s*KV cache 4.5 GiB\s*other 1.2 GiB"))
    entry.click()
    details = first.locator(".owner-details")
    expect(details).to_contain_text("room for 93,184 tokens")
    expect(details).to_contain_text(f"pid {gpu_app.server('alpha')['pid']}")
    first.locator('.bar [data-owner="unaccounted"]').click()
    expect(details).to_contain_text("no process that the driver lists holds it")
    first.locator('.bar [data-owner="unaccounted"]').click()
    expect(details).to_have_count(0)


def test_processes_are_listed_with_their_server(gpu_app: DeckApp, gpus: DeckPage) -> None:
    rows = gpus.page.locator("#gpu-cards > section").nth(0).locator("tr")
    for name, size in (("alpha", "20.0 GiB"), ("beta", "12.0 GiB")):
        pid = gpu_app.server(name)["pid"]
        expect(rows.filter(has_text=str(pid))).to_contain_text(re.compile(rf"{name}.*{size}.*{pid}", re.DOTALL))
    expect(rows.filter(has_text="5.0 GiB")).to_contain_text("others")


def test_a_leftover_is_shown_and_reclaimed_with_a_receipt(dead_app: Place, gpus: DeckPage) -> None:
    gpus.page.get_by_role("button", name="Look again").click()
    left = gpus.page.locator(".leftover-row").filter(has_text="gone")
    expect(left).to_contain_text("GPU 0 10.0 GiB")
    first = gpus.page.locator("#gpu-cards > section").nth(0)
    expect(first.locator(".legend")).to_contain_text("left of gone 10.0 GiB")
    expect_share(first.locator('.bar [data-kind="leftover"]'), 10 / 80)
    left.get_by_role("button", name="Reclaim").click()
    assert dead_app.processes(), "nothing is ended before it was confirmed"
    left.get_by_role("button", name="Reclaim").click()
    receipt = gpus.page.locator("#leftovers .banner.good")
    expect(receipt).to_contain_text(re.compile(r"gone: Freed 10\.00 GiB of GPU memory in \d+\.\d s, nothing left"))
    expect(left).to_have_count(0)
    expect(first.locator('.bar [data-kind="leftover"]')).to_have_count(0)
    assert not dead_app.processes()


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
    card = page.page.locator("#gpu-cards > section").nth(0)
    expect(card.locator("h3")).to_have_text("This machine")
    expect(card.locator(".facts")).to_contain_text(re.compile(r"\d+\.\d / \d+\.\d GiB"))
    row = card.locator("tr").filter(has_text="quick")
    expect(row).to_contain_text(str(app.server("quick")["pid"]))
    expect(row).to_contain_text(re.compile(r"\d+ MiB"))
    expect_drawn(card.locator(".plot"))
    page.open_tab("chat")
    expect(page.page.locator("#side-plot .deck-card-head")).to_have_text("Memory")
    expect_drawn(page.page.locator("#plot-side"))
