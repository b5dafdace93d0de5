"""The planner's answers as sentences, and its refusals with their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from server_manager.errors import InsufficientMemory
from server_manager.memory_plan.need import MemoryNeed
from server_manager.memory_plan.release import Action, Sleep, Stop, WaitFor
from server_manager.memory_plan.world import Device, UpServer, World
from server_manager.phrases import Phrase, Sentence
from server_manager.units import gib

OTHERS = "other processes"
ENGLISH = {
    "list_comma": ", ",
    "list_and": " and ",
    "plan_left_to_vllm": "Where {name} goes is left to vLLM.",
    "plan_waits": "{name} waits for {servers}",
    "plan_ending": "{server}, whose memory is coming free",
    "plan_starting": "{server}, which is starting",
    "plan_in_use": "{server}, which is in use",
    "plan_sleep": "{servers} is put to sleep",
    "plan_sleep_many": "{servers} are put to sleep",
    "plan_stop": "{servers} is stopped",
    "plan_stopping": "stopping {server}",
    "plan_stop_many": "{servers} are stopped",
    "plan_both": "{one} and {other}",
    "plan_three": "{one}, {two} and {three}",
    "plan_does": "{steps}: ",
    "plan_does_for": "{steps} for {name}: ",
    "plan_doubtful": "{name} may turn out too large: ",
    "plan_beside": "{name} fits beside {servers}: ",
    "plan_alone": "{name} has {where} to itself: ",
    "plan_size_unknown": "its size is not known, and {free} are free on {where}.",
    "plan_needs": "it needs at least {size}, and {free} are free on {where}.",
    "plan_needs_each": "it needs at least {size} each, and {free} are free on {where}.",
    "plan_needs_of": "it needs at least {size} of the {free} free on {where}.",
    "plan_needs_each_of": "it needs at least {size} each of the {free} free on {where}.",
    "plan_can_wake": "{name} can wake: ",
    "plan_takes_back": "it takes back {parts}.",
    "plan_part": "{size}, and {free} are free on {where}",
    "plan_part_of": "{size} of the {free} free on {where}",
    "plan_back_unknown": "what it takes back is not known.",
    "plan_waits_for_memory": "waiting for memory: ",
    "plan_this_machine": "this machine",
    "refused": "{name} needs {size} of {where}",
    "refused_share": " (gpu-memory-utilization {share})",
    "refused_parts": " (weights {weights}, cache for one request {cache}, all else {rest}, to spare {spare})",
    "refused_each": ", and as much of each of {count} GPUs",
    "refused_free": "; {free} of {total} are free and {freeable} could be freed",
    "refused_kept": ". The rest is held by {holders}",
    "refused_end": ".",
    "refused_holder": "{who} ({size})",
    "refused_others": "other processes",
    "refused_held": " Held by {holders}.",
    "refused_elsewhere": "a process of another container",
    "refused_pid": "{who}, pid {pid}",
    "do_lower_share": "Lower gpu-memory-utilization, or leave it out to take what is free. ",
    "do_stop_holders": "Stop what holds the memory, or stop the server and start it anew with less.",
    "do_end_others": "End the other processes, set a shorter max-model-len, or take a smaller or quantized model.",
    "do_take_smaller": "Set a shorter max-model-len, take a smaller or quantized model, or use more GPUs.",
}
"""What the planner says; other languages have the same codes (``webui/locales/planner.*.yaml``)."""


def said(*phrases: Phrase) -> Sentence:
    """In English."""
    return Sentence.of(phrases, ENGLISH)


def left_to_vllm(name: str) -> Sentence:
    return said(Phrase("plan_left_to_vllm", {"name": name}))


def start_words(
    name: str,
    need: MemoryNeed,
    rooms: Sequence[tuple[Device, int]],
    actions: Sequence[Action],
    neighbours: Sequence[str],
    *,
    is_doubtful: bool,
) -> Sentence:
    """``rooms`` are the devices with what is free there before the actions."""
    where = tuple(_where(device) for device, _ in rooms)
    facts: dict[str, object] = {"free": gib(min(free for _, free in rooms), 1), "where": where}
    if need.least_bytes is None:
        size = Phrase("plan_size_unknown", facts)
    else:
        code = f"plan_needs{'_each' if len(rooms) > 1 else ''}{'' if actions else '_of'}"
        size = Phrase(code, {"size": gib(need.least_bytes, 1), **facts})
    if actions:
        return said(_doing(name, actions), size)
    if is_doubtful:
        return said(Phrase("plan_doubtful", {"name": name}), size)
    if neighbours:
        return said(Phrase("plan_beside", {"name": name, "servers": tuple(neighbours)}), size)
    return said(Phrase("plan_alone", {"name": name, "where": where}), size)


def wake_words(name: str, rooms: Sequence[tuple[Device, int, int]], actions: Sequence[Action]) -> Sentence:
    """``rooms`` are the devices with what it takes back and what is free there before the actions."""
    code = "plan_part" if actions else "plan_part_of"
    parts = tuple(
        Phrase(code, {"size": gib(needed, 1), "free": gib(free, 1), "where": _where(device)})
        for device, needed, free in rooms
    )
    size = Phrase("plan_takes_back", {"parts": parts}) if parts else Phrase("plan_back_unknown")
    return said(_doing(name, actions) if actions else Phrase("plan_can_wake", {"name": name}), size)


def _where(device: Device) -> Phrase | str:
    return Phrase("plan_this_machine") if device.on_host else device.words


@dataclass(frozen=True, slots=True)
class Account:
    """One device in a refusal. Free, freeable and kept add up to the total, but for what the driver rounds."""

    device: int
    """Its index."""
    uuid: str | None
    requested_bytes: int
    free_bytes: int
    freeable_bytes: int
    """Held by servers that may be put to sleep or stopped, at once or when they are no longer in use."""
    promised_bytes: int
    """Of what is free, that servers which are starting will still take."""
    kept: Mapping[str, int]
    """Who holds the rest, in bytes by name."""
    total_bytes: int

    @property
    def missing_bytes(self) -> int:
        return max(0, self.requested_bytes - self.free_bytes - self.freeable_bytes)


def refusal(
    name: str,
    need: MemoryNeed | None,
    needed: Mapping[str, int],
    world: World,
    *,
    gpu_memory_utilization: float | None = None,
) -> InsufficientMemory:
    """Nothing that may be done makes enough room. ``needed`` is bytes by device, of those that could be used.

    ``gpu_memory_utilization`` is the user's. The facts are those of the device that comes nearest; all of them are in
    ``devices``.
    """
    devices = {device.index: device for device in world.devices if device.key in needed}
    accounts = [_account(device, needed[device.key], world) for device in devices.values()]
    count = need.gpu_count if need else 1
    # Of several that it needs, the one that comes nearest among those that are not good enough.
    nearest = sorted(accounts, key=lambda each: (each.missing_bytes, each.device))[min(count, len(accounts)) - 1]
    where = _where(devices[nearest.device])
    parts = [Phrase("refused", {"name": name, "size": gib(nearest.requested_bytes, 1), "where": where})]
    if gpu_memory_utilization is not None:
        parts.append(Phrase("refused_share", {"share": f"{gpu_memory_utilization:g}"}))
    elif need is not None and need.least_bytes is not None:
        sizes = {
            "weights": need.weights_bytes,
            "cache": need.kv_least_bytes,
            "rest": need.overhead_bytes,
            "spare": nearest.requested_bytes - need.least_bytes,
        }
        parts.append(Phrase("refused_parts", {key: gib(size, 1) for key, size in sizes.items()}))
    if need is not None and need.gpu_count > 1:
        parts.append(Phrase("refused_each", {"count": str(need.gpu_count)}))
    sizes = {"free": nearest.free_bytes, "total": nearest.total_bytes, "freeable": nearest.freeable_bytes}
    parts.append(Phrase("refused_free", {key: gib(size, 1) for key, size in sizes.items()}))
    if nearest.kept:
        parts.append(Phrase("refused_kept", {"holders": tuple(_holder(*each) for each in nearest.kept.items())}))
    parts.append(Phrase("refused_end"))
    own = {field.name: getattr(nearest, field.name) for field in fields(nearest)}
    facts = own | ({} if need is None else _need_facts(need))
    return InsufficientMemory(said(*parts), said(_next_step(need, nearest)), **facts, devices=accounts)


def _holder(who: str, held_bytes: int) -> Phrase:
    return Phrase(
        "refused_holder", {"who": Phrase("refused_others") if who == OTHERS else who, "size": gib(held_bytes, 1)}
    )


def held_by(who: str | int, process_name: str | None, held_bytes: int) -> Phrase | str:
    """A server by its name, or somebody else's process by its pid: "python, pid 71 (30.0 GiB)"."""
    if isinstance(who, int):
        named = Phrase("refused_pid", {"who": process_name or Phrase("refused_elsewhere"), "pid": str(who)})
        return Phrase("refused_holder", {"who": named, "size": gib(held_bytes, 1)}) if held_bytes else named
    return Phrase("refused_holder", {"who": who, "size": gib(held_bytes, 1)}) if held_bytes else who


def _need_facts(need: MemoryNeed) -> dict[str, object]:
    return {
        "weights_bytes": need.weights_bytes,
        "kv_cache_bytes": need.kv_least_bytes,
        "overhead_bytes": need.overhead_bytes,
        "gpu_count": need.gpu_count,
        "basis": need.basis.value,
    }


def _account(device: Device, needed: int, world: World) -> Account:
    here = {server.name: server for server in world.servers if server.held.get(device.key)}
    freeable = sum(server.held[device.key] for server in here.values() if server.may_be_freed)
    kept = {name: server.held[device.key] for name, server in here.items() if not server.may_be_freed}
    others = device.total_bytes - device.free_bytes - freeable - sum(kept.values())
    if others > 0:
        kept[OTHERS] = others
    return Account(
        device=device.index,
        uuid=device.uuid,
        requested_bytes=needed,
        free_bytes=device.free_bytes,
        freeable_bytes=freeable,
        promised_bytes=sum(reserved_bytes(server, device.key) for server in world.servers),
        kept=kept,
        total_bytes=device.total_bytes,
    )


def reserved_bytes(server: UpServer, key: str) -> int:
    """What a server that starts or wakes will still take of a device."""
    return max(0, server.will_hold.get(key, 0) - server.held.get(key, 0)) if server.is_coming else 0


def _doing(name: str, actions: Sequence[Action]) -> Phrase:
    waits = tuple(Phrase(f"plan_{each.reason}", {"server": each.name}) for each in actions if isinstance(each, WaitFor))
    steps = [Phrase("plan_waits", {"name": name, "servers": waits})] if waits else []
    for code, kind in (("plan_sleep", Sleep), ("plan_stop", Stop)):
        servers = tuple(each.name for each in actions if isinstance(each, kind))
        if servers:
            steps.append(Phrase(code if len(servers) == 1 else f"{code}_many", {"servers": servers}))
    facts: dict[str, object] = {"steps": steps[0]}
    if len(steps) == 2:
        facts = {"steps": Phrase("plan_both", {"one": steps[0], "other": steps[1]})}
    elif len(steps) == 3:
        facts = {"steps": Phrase("plan_three", {"one": steps[0], "two": steps[1], "three": steps[2]})}
    return Phrase("plan_does", facts) if waits else Phrase("plan_does_for", {**facts, "name": name})


def _next_step(need: MemoryNeed | None, nearest: Account) -> Phrase:
    if need is None:
        return Phrase("do_stop_holders")
    if nearest.kept.get(OTHERS, 0) >= nearest.missing_bytes:
        return Phrase("do_end_others")
    return Phrase("do_take_smaller")
