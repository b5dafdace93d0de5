"""The same world with models that sleep, on a pretended GPU that holds one or two of them awake.

Besides what is left over it is looked at, from outside: whether a server sleeps (it is asked itself) as the app says,
who holds memory of the GPU, and, in the app's own ledger, whether it tells the same and no leftovers.
"""

from __future__ import annotations

import contextlib
import secrets
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import fake_gpu
import httpx
from deck_app import Place, text_of

from faults.world import RESTARTED_TWICE, Tree, World

SLEEPERS: dict[str, dict[str, object]] = {
    "plain": {"sleep_seconds": 0.4, "shm": 1},
    "slow": {"sleep_seconds": 0.8, "first_sleep_seconds": 1.2, "ready_after": 0.5, "setsid": 1},
    "deaf": {"sleep_seconds": 0.3, "sigterm": "ignore", "shm": 1},
    "moody": {"sleep_seconds": 0.2, "wake": "garbage", "wake_fault_after": 1, "shm": 1},
}
"""Models, and how the fake vLLM of each behaves."""
MOODY = "moody"
"""The one that never wakes well, and is started anew for it. It is also started again after a crash."""
SMALL = ("deaf", MOODY)
"""Those of which two fit together awake."""
GPU_GIB = 80
RESIDUE_BYTES = int(1.5 * fake_gpu.GIB)
"""What a fake keeps of a GPU while it sleeps."""


class GpuPlace(Place):
    """A machine with one pretended GPU."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gpus = folder / "gpus"
        fake_gpu.make_gpus(self.gpus, GPU_GIB)
        fake_gpu.write_weights(self.weights)

    @property
    def env(self) -> dict[str, str]:
        return super().env | fake_gpu.environment(self.gpus)


class SleepyWorld(World):
    """Its servers sleep and wake."""

    def __init__(self, place: Place, models: Sequence[str], patience: float, **more: object) -> None:
        """As of ``World``."""
        super().__init__(place, models, patience, **more)  # type: ignore[arg-type]
        self.gpus = place.gpus if isinstance(place, GpuPlace) else None
        self.ask_ledger = False
        """Whether the next look is to compare the app's ledger too, which is a second behind."""
        self.to_prove: dict[str, int | None] = {}
        """Models that are to be asked something, and which process is to answer; ``None``: any."""
        self.proved: Counter[str] = Counter()

    # What the app says

    def state_of(self, name: str) -> str:
        """Now, unlike in the snapshot."""
        assert self.app is not None
        return str(self.app.server(name)["state"])

    def in_state(self, *states: str) -> list[str]:
        return [name for name in self.models if self.state_of(name) in states]

    # What is there, seen from outside

    def wrong_besides(self, trees: Sequence[Tree]) -> list[str]:
        held = fake_gpu.held(self.gpus, 0) if self.gpus else {}
        owners = {member.pid: tree for tree in trees for member in tree.members}
        wrong = [f"{size} bytes of the GPU of pid {pid}" for pid, size in held.items() if pid not in owners]
        if self.app is None:
            return wrong
        states = self.states()
        for tree in trees:
            if (state := states.get(tree.name)) in ("ready", "asleep"):
                sleeps = is_sleeping(tree)
                if sleeps is not (state == "asleep"):
                    wrong.append(f"{tree.name} is said to be {state} and sleeps: {sleeps}")
                size = sum(held.get(member.pid, 0) for member in tree.members)
                if self.gpus and (size > RESIDUE_BYTES) is not (state == "ready"):
                    wrong.append(f"{tree.name} is {state} and holds {size} bytes of the GPU")
        if self.ask_ledger:
            wrong += self._ledger(trees, held)
        return wrong

    def _ledger(self, trees: Sequence[Tree], held: Mapping[int, int]) -> list[str]:
        """What the app's ledger says otherwise, and the leftovers that it finds."""
        assert self.app is not None
        wrong = []
        if self.gpus:
            true = {tree.name: sum(held.get(member.pid, 0) for member in tree.members) for tree in trees}
            (ledger,) = self.app.get("/api/snapshot")["ledger"]["devices"]
            told = {owner["name"]: owner["held_bytes"] for owner in ledger["owners"] if owner["kind"] == "server"}
            wrong += [f"the ledger says {told}, and it is {true}"] if told != _without_zero(true) else []
            kinds = {owner["kind"] for owner in ledger["owners"]} & {"leftover", "process"}
            wrong += [f"the ledger has a {kind}" for kind in sorted(kinds)]
        ours = self.place.processes()
        for found in self.app.post("/api/leftovers/scan")["leftovers"]:
            if set(found["pids"]) & set(ours):
                wrong.append(f"the app finds a leftover: {found}")
        return wrong

    def settle(self, what: str) -> None:
        super().settle(what)
        self.ask_ledger = False

    # A chat afterwards

    def before_next_app(self) -> None:
        """Those that sleep now are to be known for that, and woken by the next app rather than started again."""
        self.ask_ledger = True
        for tree in self.trees() if self.keeps else []:
            if tree.leader is not None and tree.name != MOODY and is_sleeping(tree):
                self.to_prove[tree.name] = tree.leader.pid

    def prove(self) -> None:
        """A question to each model that something befell is answered by it: it is started or woken, if need be."""
        while self.app is not None and self.to_prove:
            name, pid = self.to_prove.popitem()
            # One that was dying when the app before went is not adopted, or ends soon after.
            expected = pid if pid is not None and self.app.server(name)["pid"] == pid else None
            self.chat(name)
            found = self.app.server(name)["pid"]
            assert expected in (None, found), f"{name} slept and was started again: pid {expected} became {found}"
            self.proved["woken by the next app" if expected else "chats"] += 1
            self.settle_quietly(f"a question to {name}")

    def chat(self, name: str) -> None:
        """Asks until an answer comes, which a fault that is still going on may cut."""
        assert self.app is not None
        deadline = time.monotonic() + 3 * self.start_seconds
        frames: list[dict[str, object]] = []
        while time.monotonic() < deadline:
            text = f"Are you there, {name}?"
            with contextlib.suppress(httpx.HTTPError):
                frames = self.app.chat(name, text, conversation=f"conversation-{uuid.uuid4().hex}")
                if self.is_answer(frames, text):
                    return
            time.sleep(0.1)
        raise AssertionError(f"{name} does not answer: {frames[-1:]}")

    def is_answer(self, frames: Sequence[Mapping[str, object]], text: str) -> bool:
        """The fakes give back what they are told, a real model at least something."""
        return bool(frames) and frames[-1]["type"] == "done" and (self.gpus is None or text_of(frames) == text)

    def settle_quietly(self, what: str) -> None:
        """Without counting it as something survived."""
        self.settle(what)
        self.settled[what] -= 1


def is_sleeping(tree: Tree) -> bool | None:
    """What the server itself says; ``None`` where it says nothing, as while it falls asleep or wakes."""
    command = Path(f"/proc/{tree.leader.pid}/cmdline") if tree.leader else None
    try:
        words = command.read_bytes().decode().split("\0") if command else []
        url = f"http://127.0.0.1:{words[words.index('--port') + 1]}/is_sleeping"
        return bool(httpx.get(url, timeout=2, trust_env=False).json()["is_sleeping"])
    except (OSError, ValueError, KeyError, httpx.HTTPError):
        return None


def _without_zero(sizes: Mapping[str, int]) -> dict[str, int]:
    return {name: size for name, size in sizes.items() if size}


def sleepy_world(folder: Path, patience: float, *, forked: bool = False) -> SleepyWorld:
    """The models of ``SLEEPERS`` in a fresh place, which all give back what they are told."""
    place = GpuPlace(folder)
    shm = f"psm_{secrets.token_hex(4)}-"
    for name, fake in SLEEPERS.items():
        share = "gpu-memory-utilization: 0.4\n" if name in SMALL else ""
        settings = {"parrot": 1, "weights_gib": fake_gpu.WEIGHTS_GIB, "shm_name": shm, **fake}
        place.add_model(name, f"max-model-len: 4096\nshutdown-timeout: 1\n{share}", **settings)
    place.set_variables(MOODY, DECK_RESTARTS=RESTARTED_TWICE)
    return SleepyWorld(place, list(SLEEPERS), patience, shm=shm, forked=forked)
