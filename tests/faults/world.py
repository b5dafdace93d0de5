"""The whole app over servers that are real processes, and what is left of them at any moment, seen from outside.

Nothing here asks the app what is left: that is read from /proc, from TMPDIR and from /dev/shm.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from deck_app import DeckApp, Place

from server_manager.launchers.leftovers import SHARED_MEMORY, mapped_shared_memory, shared_memory_candidates
from server_manager.launchers.local import guardians_of
from server_manager.launchers.process_tree import Member, read_marker, read_member

LIVE = ("starting", "ready", "asleep", "stopping")
PERSONALITIES: dict[str, dict[str, object]] = {
    "plain": {"shm": 1, "parrot": 1},
    "slow": {"ready_after": 4, "setsid": 1},
    "deaf": {"sigterm": "ignore", "ready_after": 0.5, "shm": 1},
    "frail": {"answer_tokens": 2000, "tokens_per_second": 200, "shm": 1, "noise": 1},
}
"""Models, and how the fake vLLM of each behaves."""
RESTARTED = "frail"
"""The one that is started again after a crash."""
RESTARTED_TWICE = "2"
"""Its ``DECK_RESTARTS``."""


@dataclass
class Tree:
    """The processes of one server, by its marker."""

    marker: str
    members: list[Member] = field(default_factory=list)
    guardians: list[Member] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.marker.partition(":")[0]

    @property
    def leader(self) -> Member | None:
        return next((member for member in self.members if member.pid == member.sid == member.pgid), None)

    def others(self) -> list[Member]:
        return [member for member in self.members if member is not self.leader]


class World:
    """One place, the app that is up in it or not, and the trees of its servers."""

    def __init__(
        self,
        place: Place,
        models: Sequence[str],
        patience: float,
        *,
        start_seconds: float = 20.0,
        shm: str = "",
        forked: bool = False,
    ) -> None:
        """``patience`` is how many seconds anything may take until it has settled, ``start_seconds`` how many a start
        takes at most; ``shm`` is how names in /dev/shm begin that could be of these servers; ``forked`` is how the app
        is begun (see ``DeckApp``): nothing befalls it before it is up."""
        self.place = place
        self.models = list(models)
        self.patience = patience
        self.start_seconds = start_seconds
        self._shm = shm
        self._forked = forked
        self.app: DeckApp | None = None
        self.keeps = False
        self.unguarded = False
        """Whether a guardian was killed together with the app: only the next app can tidy up then."""
        self._memory_before = shared_memory_candidates()
        self.worst = 0.0
        self.settled: Counter[str] = Counter()
        self.target: str | None = None
        """The server that the next fault is to befall; ``None``: any."""

    # The app

    def start_app(self, *, keep: bool) -> None:
        # On a machine that does much else it may take a minute, which is not what is looked at here.
        options = ["--keep-servers"] if keep else []
        self.app = DeckApp(self.place, *options, forked=self._forked).wait_until_up(300)
        self.keeps, self.unguarded = keep, False

    def lose_app(self, with_signal: int) -> None:
        """Signals the app and waits until it has gone."""
        assert self.app is not None
        self.app.http.close()
        if self.app.process.poll() is None:
            self.app.process.send_signal(with_signal)
            self.app.process.wait(timeout=60)
        assert self.app.process.stdout is not None
        self.app.process.stdout.close()
        self.app = None

    def states(self) -> dict[str, str]:
        """What the app says of its servers."""
        assert self.app is not None
        return {server["name"]: server["state"] for server in self.app.get("/api/snapshot")["servers"]}

    def post(self, path: str, body: object = None, timeout: float = 60) -> int:
        """The HTTP status; 0 where the app went away meanwhile."""
        assert self.app is not None
        try:
            return self.app.http.post(path, json=body, timeout=timeout).status_code
        except httpx.HTTPError:
            return 0

    # What is there, seen from outside

    def trees(self) -> list[Tree]:
        found: dict[str, Tree] = {}
        for pid in self.place.processes():
            if (marker := read_marker(pid)) and (member := read_member(pid)) and member.alive:
                found.setdefault(marker, Tree(marker)).members.append(member)
        for tree in found.values():
            tree.guardians = guardians_of(tree.marker)
        return list(found.values())

    def leftovers(self) -> list[str]:
        """Whatever should not be there now, in words."""
        trees = self.trees()
        wrong: list[str] = []
        allowed = {tree.marker for tree in trees if self._may_be_there(tree, wrong)}
        for name, count in Counter(tree.name for tree in trees).items():
            if count > 1:
                wrong.append(f"{count} trees of {name}")
        for tree in trees:
            if tree.marker not in allowed:
                pids = [member.pid for member in tree.members]
                wrong.append(f"processes {pids} of {tree.marker}")
            elif len(tree.guardians) != 1:
                wrong.append(f"{len(tree.guardians)} guardians of {tree.marker}")
        known = {guardian.pid for tree in trees for guardian in tree.guardians}
        known |= {member.pid for tree in trees for member in tree.members}
        app = self.app.process.pid if self.app else None
        for pid, command in self.place.processes().items():
            member = read_member(pid)
            if pid not in known and pid != app and member is not None and member.alive:
                wrong.append(f"process {pid}: {command[-80:]}")
        folders = [entry.name for entry in self.place.tmpdir.iterdir() if entry.name.startswith("deck-")]
        if len(folders) != len(allowed):
            wrong.append(f"{len(folders)} folders for {len(allowed)} servers")
        fakes = {name for name in shared_memory_candidates() - self._memory_before if name.startswith(self._shm)}
        unmapped = fakes - mapped_shared_memory([int(pid) for pid in os.listdir("/proc") if pid.isdigit()], fakes)
        wrong += [f"{SHARED_MEMORY}/{name}" for name in unmapped]
        return wrong + self.wrong_besides(trees)

    def wrong_besides(self, trees: Sequence[Tree]) -> list[str]:
        """Whatever else should not be so, in words."""
        return []

    def prove(self) -> None:
        """Shows that what the last faults befell is of use, where that is to be shown. Raises ``AssertionError``."""

    def before_next_app(self) -> None:
        """Another app is about to be started, which may adopt servers."""

    def _may_be_there(self, tree: Tree, wrong: list[str]) -> bool:
        if self.app is None:
            return self.keeps and tree.leader is not None
        state = self.states().get(tree.name)
        if state in ("ready", "asleep") and tree.leader is None:
            wrong.append(f"{tree.name} is said to be {state} and has no leader")
        return state in LIVE

    def settle(self, what: str) -> None:
        """Waits until nothing is there that should not be. Raises ``AssertionError`` where that does not come."""
        began = time.monotonic()
        while wrong := self._look():
            seconds = time.monotonic() - began
            assert seconds < self.patience, f"{seconds:.1f} s after “{what}” there is still: {'; '.join(wrong)}"
            time.sleep(0.05)
        self.worst = max(self.worst, time.monotonic() - began)
        self.settled[what] += 1

    def _look(self) -> list[str]:
        if self.app is None and self.unguarded:
            return []
        try:
            return self.leftovers()
        except (httpx.HTTPError, AssertionError, ValueError) as error:  # the app is just going away
            return [f"no look: {error!r}"]

    # Faults

    def kill(self, members: list[Member], number: int = signal.SIGKILL) -> None:
        for member in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.pid, number)

    def close(self) -> None:
        """Ends everything; nothing may be left."""
        if self.app is not None:
            if self.keeps:
                self.lose_app(signal.SIGTERM)
            else:
                self.end_app()
        if self.keeps or self.unguarded:
            self.start_app(keep=False)
            self.end_app()
        self.settle("the end")

    def end_app(self) -> None:
        self.lose_app(signal.SIGTERM)


def new_world(folder: Path, patience: float, *, forked: bool = False) -> World:
    """The models of ``PERSONALITIES`` in a fresh place. Their shared memory bears a name of this world."""
    place = Place(folder)
    shm = f"psm_{secrets.token_hex(4)}-"
    for name, fake in PERSONALITIES.items():
        place.add_model(name, "max-model-len: 4096\nshutdown-timeout: 1\n", shm_name=shm, **fake)
    place.set_variables(RESTARTED, DECK_RESTARTS=RESTARTED_TWICE)
    return World(place, list(PERSONALITIES), patience, shm=shm, forked=forked)
