"""What the planner looks at: the devices, the servers that are up, and the rules to keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from server_manager.memory_plan.chosen import VLLM_DEFAULT_SHARE
from server_manager.server_state import ServerState
from server_manager.telemetry.base import DeviceSnapshot, HostSnapshot
from server_manager.telemetry.ledger import MemoryLedger, OwnerKind

GIB = 1 << 30
MIB = 1 << 20
HOST_KEY = "host"


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU, or on a machine without one the machine's own memory."""

    key: str
    """Its UUID; "index:N" where the driver gives none."""
    index: int
    total_bytes: int
    """What CUDA offers: without what driver and firmware keep."""
    free_bytes: int
    name: str | None = None
    on_host: bool = False

    @property
    def uuid(self) -> str | None:
        return None if self.key == HOST_KEY or self.key.startswith("index:") else self.key

    @property
    def words(self) -> str:
        return "this machine" if self.on_host else f"GPU {self.index}"


def device_key(device: DeviceSnapshot) -> str:
    """What the bytes of servers on this device are filed under."""
    return device.uuid or f"index:{device.index}"


def devices_of(snapshots: Sequence[DeviceSnapshot]) -> tuple[Device, ...]:
    """The GPUs of a reading; those that give no figures are left out: nothing can be planned for them.

    CUDA's total is NVML's less what is reserved: 79.18 of 79.65 GiB on an H100. Where the driver does not tell that
    apart the total is a little too high, which errs on the safe side.
    """
    return tuple(
        Device(
            device_key(each),
            each.index,
            each.memory_total_bytes - (each.memory_reserved_bytes or 0),
            max(0, each.memory_free_bytes),
            each.name,
        )
        for each in snapshots
        if each.error is None and each.memory_total_bytes and each.memory_free_bytes is not None
    )


def held_by_server(ledgers: Sequence[MemoryLedger], snapshots: Sequence[DeviceSnapshot]) -> dict[str, dict[str, int]]:
    """What each server holds by device, as the ledgers of these GPUs tell it; a server that is missing: not known."""
    keys = {each.index: device_key(each) for each in snapshots}
    held: dict[str, dict[str, int]] = {}
    for ledger in ledgers:
        key = None if ledger.index is None else keys.get(ledger.index)
        for owner in ledger.owners:
            if key and owner.name and owner.kind is OwnerKind.SERVER and owner.held_bytes:
                held.setdefault(owner.name, {})[key] = owner.held_bytes
    return held


def host_device(host: HostSnapshot) -> Device:
    """The machine's memory as the only device of vLLM's CPU build."""
    return Device(HOST_KEY, 0, host.memory_total_bytes, host.memory_available_bytes, on_host=True)


@dataclass(frozen=True, slots=True)
class UpServer:
    """A server that holds memory or is about to. Bytes by ``Device.key``."""

    name: str
    state: ServerState
    held: Mapping[str, int] = field(default_factory=dict)
    """What it holds now."""
    will_hold: Mapping[str, int] = field(default_factory=dict)
    """What it will hold once it is up: of a start or a wake that is on, and of a sleeping server once it is awake."""
    residue: Mapping[str, int] = field(default_factory=dict)
    """What it will keep while it sleeps; a device that is missing counts as kept altogether."""
    last_used: float = 0.0
    """Unix time in seconds."""
    in_use: bool = False
    """Whether somebody is being answered, or has it reserved."""
    is_waking: bool = False
    """Whether it is taking its memory back just now, or has been told to."""
    is_falling_asleep: bool = False
    """Whether it is giving its memory back just now; ``held`` is what it holds still."""
    may_be_freed: bool = True
    """Whether it may be put to sleep or stopped for another one."""
    sleep_levels: tuple[int, ...] = ()
    """At which it can sleep, in order of preference: 1, 2, both or none."""
    host_bytes: int | None = None
    """Of the machine's memory that level 1 would take; ``None``: not known, at most what it gives back."""

    @property
    def is_coming(self) -> bool:
        """Whether it is on its way to holding ``will_hold``."""
        return self.state is ServerState.STARTING or self.is_waking

    @property
    def is_going(self) -> bool:
        """Whether memory of it is coming free without our doing."""
        return self.state is ServerState.STOPPING or self.is_falling_asleep

    def on(self, key: str) -> bool:
        """Whether it holds or will hold memory of this device; nothing known of a server that comes: it may."""
        if self.held.get(key) or (self.is_coming and self.will_hold.get(key)):
            return True
        return self.is_coming and not self.will_hold and not self.held

    def freed_by_going(self) -> dict[str, int]:
        """What comes free, by device, once it has ended or fallen asleep."""
        return dict(self.held) if self.state is ServerState.STOPPING else self.freed_asleep()

    def freed_asleep(self) -> dict[str, int]:
        """What comes free, by device, when it is put to sleep."""
        return {key: max(0, held - self.residue.get(key, held)) for key, held in self.held.items()}


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules. Bytes are per device."""

    alone_share: float = VLLM_DEFAULT_SHARE
    """Of a GPU, for a server that has it to itself and whose flags say nothing."""
    spare_bytes: int = 256 * MIB
    """Left free beside everything that is planned: other processes come and go, and figures are rounded."""
    host_spare_bytes: int = 2 * GIB
    """Of the machine's memory, that sleeping servers do not take."""
    sleepers: int = 2
    """For how many sleeping servers room is left on a GPU that one server has to itself, so that a switch back needs
    no stop. Room that the model itself needs is not left."""
    sleeper_bytes: int = 2 * GIB
    """What one of them keeps."""
    strangers_bytes: int = GIB
    """When other people's processes hold more than this, they count as neighbours that may grow or shrink."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything as it is at one moment."""

    devices: tuple[Device, ...]
    servers: tuple[UpServer, ...] = ()
    host_available_bytes: int | None = None
    """``None``: not known, then nothing sleeps at level 1."""

    def host_has_room(self, pinned_bytes: int, policy: Policy) -> bool:
        """Whether a server may sleep at level 1 that will take so much of the machine's memory (its weights)."""
        return pinned_bytes <= (self.host_available_bytes or 0) - policy.host_spare_bytes

    def device(self, key: str) -> Device | None:
        return next((device for device in self.devices if device.key == key), None)

    def without(self, name: str) -> tuple[UpServer, ...]:
        """All others, by name."""
        return tuple(sorted((each for each in self.servers if each.name != name), key=lambda each: each.name))
