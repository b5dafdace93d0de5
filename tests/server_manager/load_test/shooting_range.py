"""Load tests over a fake vLLM, which is both the server and the generator."""

from __future__ import annotations

import os
from pathlib import Path

from fakes import Deck
from processes import eventually

from server_manager.load_test.bench import Bench
from server_manager.load_test.run import LoadRun, LoadState
from server_manager.load_test.runner import LoadTests
from server_manager.load_test.settings import settings_from
from server_manager.load_test.store import RunStore
from server_manager.secret_mask import SecretMask

SAMPLES = Path(__file__).parent / "samples"


class Range:
    """The load tests of one app."""

    def __init__(self, deck: Deck) -> None:
        """``deck`` may look after servers, or have some of others attached."""
        self.deck = deck
        self.store = RunStore(deck.settings.load_tests_dir)
        self.generators: set[str] = set()
        self.bench = Bench(
            deck.manager, deck.launcher, deck.readings, self.store, lambda name: None, SecretMask, self.generators
        )
        self.tests = LoadTests(self.bench)

    def processes(self) -> list[str]:
        """Command lines of the generators that live."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if "bench" in words and str(self.store.folder("20260101-000000-000000").parent) in " ".join(words):
                found.append(" ".join(words))
        return found

    async def store_holds(self, run: LoadRun) -> bool:
        """Whether the disk has the run as it is, with what vLLM wrote for each level."""
        results = [path for path in self.store.folder(run.id).glob("*.json") if path.name != "run.json"]
        return self.store.load(run.id) == run and len(results) == sum(len(row.levels) for row in run.rows)

    async def begin(self, *models: str, ladder: bool = False, **settings: object) -> LoadRun:
        """A small test, unless the keywords say otherwise."""
        small = {"input_len": 8, "output_len": 4, "num_prompts": 4, "concurrency": [2], "num_warmups": 1}
        return await self.tests.begin(models, settings_from(small | settings), ladder=ladder)

    async def reach(self, run_id: str, *states: LoadState) -> LoadRun:
        """The run once it is over, or in one of these states."""
        wanted = states or (LoadState.DONE, LoadState.FAILED, LoadState.STOPPED, LoadState.INTERRUPTED)
        while (run := await self.tests.get(run_id)).state not in wanted:
            await eventually(lambda run=run: self.tests.revision(run_id) != run.revision, f"{run_id} goes on: {run}")
        return run

    async def measuring(self, run_id: str, row: int = 0) -> LoadRun:
        """The run once its generator sends requests."""

        def progress() -> bool:
            levels = self.tests._live[run_id].run.rows[row].levels
            return any(level.progress and level.progress.phase == "running" for level in levels)

        await eventually(progress, "requests are sent")
        return await self.tests.get(run_id)
