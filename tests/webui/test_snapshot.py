"""What a guest is not told."""

from __future__ import annotations

import msgspec

from server_manager.telemetry.base import DeviceProcess, DeviceSnapshot
from server_manager.telemetry.ledger import device_ledgers
from webui.snapshot import without_user_names

GIB = 2**30


def test_names_of_this_machines_users_are_not_for_guests() -> None:
    stranger = DeviceProcess(4711, 20 * GIB, "python3", user="alice", started_at=1.0)
    device = DeviceSnapshot(0, "GPU-0", "H100", 80 * GIB, 20 * GIB, 60 * GIB, processes=(stranger,))
    document = msgspec.to_builtins({"devices": (device,), "ledger": device_ledgers((device,), (), may_hide=False)})
    assert str(document).count("alice") == 2
    shown = without_user_names(document)
    assert "alice" not in str(shown)
    assert str(shown).count("'name': 'python3'") == 2
    assert shown["devices"][0]["processes"][0]["used_gpu_memory_bytes"] == 20 * GIB
