"""``python app.py leftovers``: the same look and the same reclaim as on the page, also where no app is running."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from server_manager.errors import ServerManagerError
from server_manager.reclaim import Leftovers, findings_dict
from server_manager.telemetry import open_probe
from server_manager.telemetry.sampler import GpuSampler
from server_manager.units import gib

Ask = Callable[[str, str], Any]
"""Method and path to the answer of the app that is running."""


def run_leftovers(ask: Ask | None, names: Sequence[str], *, reclaim: bool) -> int:
    """Prints what is left over, of the servers ``names`` or of all; with ``reclaim`` ends it.

    The exit code: 1 where something of it is left then.
    """
    return _through_app(ask, names, reclaim) if ask else asyncio.run(_without_app(names, reclaim))


def _through_app(ask: Ask, names: Sequence[str], reclaim: bool) -> int:
    found = _only(ask("POST", "/api/leftovers/scan"), names)
    _print(found)
    if reclaim:
        for left in found["leftovers"]:
            _print_reclaimed(ask("POST", f"/api/leftovers/{quote(left['id'], safe='')}/reclaim"))
        found = _only(ask("GET", "/api/leftovers"), names)
    return 1 if found["leftovers"] else 0


async def _without_app(names: Sequence[str], reclaim: bool) -> int:
    sampler = GpuSampler(open_probe, dict, interval=0.5)
    sampler.start()
    try:
        leftovers = Leftovers(frozenset, sampler)
        devices = (await sampler.next_reading()).devices
        found = _only(findings_dict(await leftovers.scan(), devices, time.time()), names)
        _print(found)
        if reclaim:
            for left in found["leftovers"]:
                try:
                    _print_reclaimed(asdict(await leftovers.reclaim(left["id"])))
                except ServerManagerError as error:  # the others can still go
                    print(error)
            found = _only(findings_dict(leftovers.latest, devices, time.time()), names)
        return 1 if found["leftovers"] else 0
    finally:
        await sampler.stop()


def _only(found: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {**found, "leftovers": [left for left in found["leftovers"] if not names or left["name"] in names]}


def _print(found: Mapping[str, Any]) -> None:
    if not found["leftovers"]:
        print("Nothing is left over.")
    for left in found["leftovers"]:
        what = f"pids {_words(left['pids'])}" if left["pids"] else f"folder {left['tmpdir']}"
        print(f"left over  {left['name'] or '-':30} {_age(left['age_s']):>8}  {_memory(left)}  {what}")
    for other in found["foreign"]:
        owner = "of another vLLM Deck" if other["of_deck"] else f"of {other['user']}: {other['kill']}"
        print(f"not ours   {other['name']:30} {_age(other['age_s']):>8}  {_memory(other)}  {owner}")
    if shared := found["shared_memory"]:
        print(f"not mapped by any process: {gib(shared['bytes'])} in /dev/shm: {shared['rm']}")


def _print_reclaimed(reclaimed: Mapping[str, Any]) -> None:
    left = list(receipt["left"]) if (receipt := reclaimed["receipt"]) else []
    left += [f"pid {pid} hangs in a driver" for pid in reclaimed["left_pids"]]
    where = {"gpu": "GPU memory", "ram": "memory"}
    freed = f"freed {gib(receipt['freed_bytes'])} of {where[receipt['where']]}" if receipt else "removed"
    rest = f"still there: {'; '.join(left)}" if left else "nothing left"
    print(f"{reclaimed['name'] or 'folder'}: {freed} in {reclaimed['seconds']:.1f} s, {rest}.")


def _memory(entry: Mapping[str, Any]) -> str:
    held = [f"GPU {gpu['index']}: {gib(gpu['held_bytes'])}" for gpu in entry["gpus"]]
    return ", ".join(held) or f"RAM {gib(entry['rss_bytes'])}"


def _age(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def _words(pids: Sequence[int]) -> str:
    return " ".join(map(str, pids))
