"""Servers that nobody uses: asleep after a time, stopped after a longer one, if so set."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from server_manager.server_state import ServerState, ServerStatus, SleepView
from server_manager.switching.idle import IdleTimer, Patience

READY, ASLEEP = ServerState.READY, ServerState.ASLEEP
NOW = 10_000.0
CAN_SLEEP = SleepView(frees_memory=True)


@dataclass
class Servers:
    """One server ``m`` and what is asked of it."""

    status: ServerStatus
    used: float | None
    asked: list[str] = field(default_factory=list)

    def statuses(self) -> dict[str, ServerStatus]:
        return {"m": self.status}

    def idle_since(self, name: str) -> float | None:
        return self.used

    async def sleep(self, name: str, level: int = 1) -> None:
        self.asked.append("sleep")

    async def end_idle(self, name: str) -> None:
        self.asked.append("stop")


@pytest.mark.parametrize(
    ("status", "used", "patience", "asked"),
    [
        (ServerStatus("m", READY, sleep=CAN_SLEEP), NOW - 61, Patience(60, 600), ["sleep"]),
        (ServerStatus("m", READY, sleep=CAN_SLEEP), NOW - 59, Patience(60, 600), []),
        (ServerStatus("m", READY, sleep=CAN_SLEEP), NOW - 601, Patience(60, 600), ["stop"]),
        (ServerStatus("m", ASLEEP, sleep=CAN_SLEEP), NOW - 61, Patience(60, 600), []),
        (ServerStatus("m", ASLEEP, sleep=CAN_SLEEP), NOW - 601, Patience(60, 600), ["stop"]),
        (ServerStatus("m", READY), NOW - 61, Patience(60, 600), []),
        (ServerStatus("m", READY), NOW - 601, Patience(60, 600), ["stop"]),
        (ServerStatus("m", READY, sleep=CAN_SLEEP), NOW - 9_000, Patience(), []),
        (ServerStatus("m", READY, sleep=CAN_SLEEP), None, Patience(60, 600), []),
        (ServerStatus("m", READY, sleep=CAN_SLEEP, ready_at=NOW - 30), 0.0, Patience(60, 600), []),
        (ServerStatus("m", READY, attached=True), 0.0, Patience(60, 600), []),
        (ServerStatus("m", ServerState.STARTING), 0.0, Patience(60, 600), []),
    ],
)
async def test_idle_server(status: ServerStatus, used: float | None, patience: Patience, asked: list[str]) -> None:
    servers = Servers(status, used)
    await IdleTimer(servers, lambda name: patience, 1.0, clock=lambda: NOW).look()
    assert servers.asked == asked
