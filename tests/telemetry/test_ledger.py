"""The ledger's arithmetic: owners that add up to the whole, whatever the figures."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from server_manager.memory_parts import MemoryParts, RankMemory
from server_manager.telemetry.base import DeviceProcess, DeviceSnapshot, HostSnapshot
from server_manager.telemetry.ledger import (
    Basis,
    Claim,
    MemoryLedger,
    OwnerKind,
    PartKind,
    device_ledgers,
    host_ledger,
    split,
)

GIB = 1 << 30
TOTAL = 80 * GIB


def gpu(
    *processes: tuple[int, float | None] | DeviceProcess,
    used: float | None = 30.0,
    reserved: float | None = 0.5,
    index: int = 0,
    listed: bool = True,
) -> DeviceSnapshot:
    """A GPU of 80 GiB; processes are pid and GiB, all with a name."""
    found = tuple(
        each
        if isinstance(each, DeviceProcess)
        else DeviceProcess(each[0], None if each[1] is None else int(each[1] * GIB), f"process {each[0]}")
        for each in processes
    )
    return DeviceSnapshot(
        index,
        f"GPU-{index}",
        "H100",
        memory_total_bytes=TOTAL,
        memory_used_bytes=None if used is None else int(used * GIB),
        memory_free_bytes=None if used is None else int((80 - used - (reserved or 0)) * GIB),
        memory_reserved_bytes=None if reserved is None else int(reserved * GIB),
        processes=found if listed else None,
    )


def parts(
    weights: float, cache: float | None = None, *, pid: int = 1, more: tuple[RankMemory, ...] = ()
) -> MemoryParts:
    rank = RankMemory(pid, int(weights * GIB), None if cache is None else int(cache * GIB))
    return MemoryParts((rank, *more), world_size=1 + len(more))


def server(name: str = "alpha", *pids: int, memory: MemoryParts | None = None, **more: object) -> Claim:
    return Claim(name, frozenset(pids), memory=memory, **more)  # type: ignore[arg-type]


def in_gib(ledger: MemoryLedger) -> dict[str, float | None]:
    """Owners by name (or kind) in GiB."""
    return {
        owner.name or str(owner.kind): None if owner.held_bytes is None else owner.held_bytes / GIB
        for owner in ledger.owners
    }


def split_in_gib(ledger: MemoryLedger, name: str) -> dict[str, float]:
    (owner,) = [owner for owner in ledger.owners if owner.name == name]
    assert sum(part.held_bytes for part in owner.parts) == owner.held_bytes
    return {str(part.kind): part.held_bytes / GIB for part in owner.parts}


def assert_sound(ledger: MemoryLedger) -> None:
    """Nothing is negative, and what is known adds up to the total."""
    held = [owner.held_bytes for owner in ledger.owners if owner.held_bytes is not None]
    assert all(size > 0 for size in held)
    assert sum(held) == ledger.total_bytes
    for owner in ledger.owners:
        assert all(part.held_bytes > 0 for part in owner.parts)
        assert not owner.parts or sum(part.held_bytes for part in owner.parts) == owner.held_bytes


ALPHA = server("alpha", 1, memory=parts(14, 4))
ASLEEP = server("alpha", 1, memory=parts(14, 4), asleep=True)
NEW = server("alpha", 1)
TWO = [server("alpha", 1), server("beta", 2)]
LEFT = Claim("gone", frozenset({5}), leftover_id="ab12")

CASES = [
    pytest.param(gpu(used=0), [], {"reserved": 0.5, "free": 79.5}, id="empty"),
    pytest.param(
        gpu((1, 20), used=21), [ALPHA], {"alpha": 20, "unaccounted": 1, "reserved": 0.5, "free": 58.5}, id="one"
    ),
    pytest.param(
        gpu((1, 20), (9, 5), used=25),
        [ALPHA],
        {"alpha": 20, "process 9": 5, "reserved": 0.5, "free": 54.5},
        id="another's process",
    ),
    pytest.param(
        gpu((1, 20), (9, 1), (8, 5), used=26),
        [ALPHA],
        {"alpha": 20, "process 8": 5, "process 9": 1, "reserved": 0.5, "free": 53.5},
        id="others by size",
    ),
    pytest.param(
        gpu((1, 20), (2, 12), used=32),
        TWO,
        {"alpha": 20, "beta": 12, "reserved": 0.5, "free": 47.5},
        id="two servers",
    ),
    pytest.param(
        gpu((1, 20), (5, 26), used=46),
        [ALPHA, LEFT],
        {"alpha": 20, "gone": 26, "reserved": 0.5, "free": 33.5},
        id="a leftover",
    ),
    pytest.param(
        gpu((1, 20), (9, 5), used=18),
        [ALPHA],
        {"alpha": 18, "reserved": 0.5, "free": 61.5},
        id="processes say more than the device",
    ),
    pytest.param(
        gpu((1, None), (9, 5), used=25),
        [ALPHA],
        {"alpha": 20, "process 9": 5, "reserved": 0.5, "free": 54.5},
        id="one hidden figure is the rest",
    ),
    pytest.param(
        gpu((1, None), (9, None), used=25),
        [ALPHA],
        {"alpha": None, "process 9": None, "unaccounted": 25, "reserved": 0.5, "free": 54.5},
        id="two hidden figures stay unknown",
    ),
    pytest.param(
        gpu((1, 20), used=20, reserved=None), [ALPHA], {"alpha": 20, "free": 60}, id="reserved not told apart"
    ),
    pytest.param(
        gpu((1, 20), used=79.8), [ALPHA], {"alpha": 20, "unaccounted": 59.8, "reserved": 0.2}, id="more than there is"
    ),
    pytest.param(gpu((1, 90), used=90, reserved=0), [ALPHA], {"alpha": 80}, id="used more than the total"),
    pytest.param(gpu((1, 20), used=None), [ALPHA], {}, id="no figures"),
    pytest.param(gpu((1, 0), used=0), [ALPHA], {"reserved": 0.5, "free": 79.5}, id="listed but holds nothing"),
]


@pytest.mark.parametrize(("device", "claims", "expected"), CASES)
def test_owners_add_up(device: DeviceSnapshot, claims: list[Claim], expected: dict[str, float | None]) -> None:
    (ledger,) = device_ledgers([device], claims, may_hide=False)
    found = in_gib(ledger)
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, abs=1e-6)
    if expected:
        assert_sound(ledger)


@pytest.mark.parametrize(
    ("claim", "held", "expected"),
    [
        (ALPHA, 20, {"weights": 14, "kv_cache": 4, "other": 2}),
        (ALPHA, 18, {"weights": 14, "kv_cache": 4}),
        (ALPHA, 15, {"weights": 14, "kv_cache": 1}),
        (ALPHA, 10, {"weights": 10}),
        (server("alpha", 1, memory=parts(14)), 16, {"weights": 14, "other": 2}),
        (NEW, 3, {"unsplit": 3}),
        (ASLEEP, 1.3, {"asleep": 1.3}),
        (server("alpha", 1, memory=MemoryParts(on_cpu=True, checkpoint_bytes=GIB)), 3, {"unsplit": 3}),
    ],
    ids=[
        "whole",
        "no rest",
        "cache not there yet",
        "still loading",
        "no cache yet",
        "says nothing",
        "asleep",
        "on the CPU",
    ],
)
def test_a_server_is_split_by_purpose(claim: Claim, held: float, expected: dict[str, float]) -> None:
    (ledger,) = device_ledgers([gpu((1, held), used=held)], [claim], may_hide=False)
    assert split_in_gib(ledger, "alpha") == pytest.approx(expected)
    assert_sound(ledger)


def test_each_rank_is_split_on_its_own_gpu() -> None:
    second = RankMemory(2, int(7.5 * GIB), 20 * GIB)
    claim = server("alpha", 1, 2, 3, memory=parts(7.0, 21.0, more=(second,)))
    first_gpu = gpu((1, 30), (3, 0.5), used=30.5)  # 3 is the API server, which holds a context only
    ledgers = device_ledgers([first_gpu, gpu((2, 30), used=30, index=1)], [claim], may_hide=False)
    assert split_in_gib(ledgers[0], "alpha") == pytest.approx({"weights": 7, "kv_cache": 21, "other": 2.5})
    assert split_in_gib(ledgers[1], "alpha") == pytest.approx({"weights": 7.5, "kv_cache": 20, "other": 2.5})
    assert ledgers[0].owners[0].pids == (1, 3)


def test_a_rank_that_said_nothing_is_about_like_the_first() -> None:
    claim = server("alpha", 1, 2, memory=replace(parts(7.0, 21.0), world_size=2))
    (_, ledger) = device_ledgers([gpu((1, 30)), gpu((2, 30), index=1)], [claim], may_hide=False)
    assert split_in_gib(ledger, "alpha") == pytest.approx({"weights": 7, "kv_cache": 21, "other": 2})
    assert ledger.owners[0].parts[0].about


UNSEEN = DeviceProcess(4711, 20 * GIB, None)


def test_pids_of_another_namespace_fall_back_to_differences() -> None:
    claim = server("alpha", 1, memory=parts(14, 4), differences={0: 20 * GIB})
    (ledger,) = device_ledgers([gpu(UNSEEN, used=25)], [claim], may_hide=True)
    assert ledger.basis is Basis.HIDDEN
    assert in_gib(ledger) == pytest.approx({"alpha": 20, "others": 5, "reserved": 0.5, "free": 54.5})
    assert split_in_gib(ledger, "alpha") == pytest.approx({"weights": 14, "kv_cache": 4, "other": 2})
    assert ledger.owners[0].estimated


def test_hidden_processes_fall_back_too() -> None:
    claim = server("alpha", 1, differences={0: 20 * GIB})
    (ledger,) = device_ledgers([gpu(used=25)], [claim], may_hide=True)
    assert ledger.basis is Basis.HIDDEN
    assert in_gib(ledger)["alpha"] == 20


def test_a_server_that_was_up_before_us_is_known_by_its_log() -> None:
    claim = server("alpha", 1, memory=parts(14, 4))
    (ledger,) = device_ledgers([gpu(UNSEEN, used=25)], [claim], may_hide=True)
    assert in_gib(ledger)["alpha"] == 18
    two = device_ledgers([gpu(UNSEEN, used=25), gpu(used=1, index=1)], [claim], may_hide=True)
    assert [in_gib(ledger)["alpha"] for ledger in two] == [None, None]  # on which of them nobody can say


def test_without_a_list_of_processes_it_says_why() -> None:
    claim = server("alpha", 1, differences={0: 20 * GIB})
    (ledger,) = device_ledgers([gpu(used=25, listed=False)], [claim], may_hide=False)
    assert ledger.basis is Basis.UNLISTED
    assert in_gib(ledger) == pytest.approx({"alpha": 20, "others": 5, "reserved": 0.5, "free": 54.5})


@pytest.mark.parametrize(
    ("device", "claims", "may_hide"),
    [
        pytest.param(gpu(UNSEEN, used=20), [server("alpha", 1)], False, id="the machine's own pids"),
        pytest.param(gpu(UNSEEN, (1, 4), used=24), [server("alpha", 1)], True, id="ours are seen"),
        pytest.param(gpu(UNSEEN, used=20), [], True, id="nothing of ours is up"),
        pytest.param(gpu((9, 20), used=20.5), [server("alpha", 1)], True, id="all is accounted for"),
    ],
)
def test_pids_are_believed_where_they_can_be(device: DeviceSnapshot, claims: list[Claim], may_hide: bool) -> None:
    (ledger,) = device_ledgers([device], claims, may_hide=may_hide)
    assert ledger.basis is Basis.PROCESSES


def test_a_vllm_of_others_is_told_as_such() -> None:
    engine = DeviceProcess(7, 20 * GIB, "VLLM::EngineCor", "bob", 1000.0)
    (ledger,) = device_ledgers([gpu(engine, (8, 1), used=21)], [], may_hide=False)
    assert [(owner.kind, owner.vllm, owner.user) for owner in ledger.owners[:2]] == [
        (OwnerKind.PROCESS, True, "bob"),
        (OwnerKind.PROCESS, False, None),
    ]


def test_a_lost_gpu_has_no_owners() -> None:
    lost = DeviceSnapshot(1, "GPU-1", "H100", error="It has fallen off the bus.")
    (first, second) = device_ledgers([gpu((1, 20)), lost], [ALPHA], may_hide=True)
    assert first.owners
    assert second.owners == ()


def host(used: float) -> HostSnapshot:
    return HostSnapshot(16 * GIB, int(used * GIB), int((16 - used) * GIB), 3.0, 4)


def test_the_machines_memory_is_split_the_same_way() -> None:
    memory = MemoryParts((RankMemory(1, None, GIB),), checkpoint_bytes=GIB // 4, on_cpu=True)
    claims = [
        server("alpha", 1, memory=memory, rss_bytes=3 * GIB),
        server("beta", 2, memory=parts(14, 4), rss_bytes=2 * GIB),
    ]
    ledger = host_ledger(host(9), claims)
    assert in_gib(ledger) == pytest.approx({"alpha": 3, "beta": 2, "others": 4, "free": 7})
    assert split_in_gib(ledger, "alpha") == pytest.approx({"weights": 0.25, "kv_cache": 1, "other": 1.75})
    assert split_in_gib(ledger, "beta") == pytest.approx({"unsplit": 2})
    assert_sound(ledger)


def test_shared_pages_counted_twice_do_not_exceed_what_is_used() -> None:
    ledger = host_ledger(host(4), [server("alpha", 1, rss_bytes=3 * GIB), server("beta", 2, rss_bytes=3 * GIB)])
    assert in_gib(ledger) == pytest.approx({"alpha": 3, "beta": 1, "free": 12})
    assert_sound(ledger)


def test_split_never_gives_more_than_is_held() -> None:
    assert [part.kind for part in split(5, 10, 10)] == [PartKind.WEIGHTS]


def test_random_figures_stay_sound() -> None:
    dice = random.Random(2)
    for _ in range(500):
        size = lambda most: dice.choice([0, None, dice.uniform(0, most)])  # noqa: E731
        processes = [(pid, size(60)) for pid in dice.sample(range(1, 12), dice.randint(0, 6))]
        device = gpu(*processes, used=dice.uniform(0, 85), reserved=size(2), listed=dice.random() > 0.1)
        claims = [
            server(
                f"s{pid}",
                pid,
                pid + 1,
                memory=dice.choice([None, parts(dice.uniform(0, 40), size(60), pid=pid)]),
                asleep=dice.random() > 0.8,
                differences=dice.choice([None, {0: int(dice.uniform(0, 90) * GIB)}]),
            )
            for pid in (1, 3, 5)
        ]
        for may_hide in (True, False):
            (ledger,) = device_ledgers([device], claims, may_hide=may_hide)
            assert_sound(ledger)
