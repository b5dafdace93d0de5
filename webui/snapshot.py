"""What the page shows live, as one JSON document that is made once and read by every tab."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from server_manager import LedgerBook, MetricsPoller, Reading, ServerManager, ServerStatus, StartPhase
from webui.failure_view import for_operators, in_words, translated, without_proof


def without_command(status: dict[str, Any]) -> dict[str, Any]:
    """The same for somebody who is no operator: flags and variables are not theirs to see."""
    return status | {"command": "", "exit": without_proof(status["exit"])}


def without_user_names(found: Any) -> Any:
    """A document without the names of those whose processes stand in it: a guest need not know this machine's users."""
    if isinstance(found, dict):
        return {key: None if key == "user" else without_user_names(value) for key, value in found.items()}
    return [without_user_names(each) for each in found] if isinstance(found, list | tuple) else found


def status_dict(status: ServerStatus, now: float | None = None) -> dict[str, Any]:
    """A status for JSON: without the log's tail, with ``elapsed_s``, the seconds in this state (or start)."""
    now = time.time() if now is None else now
    found: dict[str, Any] = msgspec.to_builtins(status)
    since = status.started_at if status.state == "starting" and status.started_at else status.since
    found["elapsed_s"] = round(now - since, 1) if since else None
    if found["exit"]:
        found["exit"].pop("log_tail")
        if (why := found["exit"]["diagnosis"]) and status.exit is not None and status.exit.diagnosis is not None:
            del why["title_phrases"], why["remedy_phrases"]
            why["translations"] = translated(status.exit.diagnosis)
    found["detail_translations"] = in_words(status.detail_phrases)
    del found["detail_phrases"]
    found["phase_index"] = list(StartPhase).index(status.phase) if status.phase else None
    return found


class Snapshot:
    """The newest document, made at most twice a second however many tabs ask."""

    def __init__(
        self, manager: ServerManager, poller: MetricsPoller, ledger: LedgerBook, notices: Sequence[str] = ()
    ) -> None:
        """``notices`` are shown as they stand, with the model files that cannot be read."""
        self._manager = manager
        self._poller = poller
        self._ledger = ledger
        self._notices = notices
        self._made_at = 0.0
        self._for_operators = self._for_users = b""

    def json(self, reading: Reading | None, *, operator: bool) -> bytes:
        """Time, host, devices, and each server with its memory and vLLM's own figures. On the event loop only."""
        now = time.monotonic()
        if now - self._made_at > 0.5:
            self._made_at = now
            document = self._document(reading)
            self._for_operators = msgspec.json.encode(document)
            document["servers"] = [without_command(server) for server in document["servers"]]
            self._for_users = msgspec.json.encode(without_user_names(msgspec.to_builtins(document)))
        return self._for_operators if operator else self._for_users

    def _document(self, reading: Reading | None) -> dict[str, Any]:
        now = time.time()
        trusting = {spec.name for spec in self._manager.catalogue.specs() if spec.trust_remote_code}
        ledger = self._ledger.of(reading)
        servers = []
        statuses = self._manager.statuses()
        switching = self._manager.switch_views.of(statuses)
        for name, status in statuses.items():
            metrics = self._poller.latest.get(name)
            servers.append(
                for_operators(status_dict(status, now), status, self._manager.catalogue)
                | {
                    "rss_bytes": reading.rss_bytes.get(name) if reading else None,
                    "gpu_bytes": reading.gpu_bytes.get(name) if reading else None,
                    "gpu_estimate_bytes": ledger.estimate_of(name),
                    "pids": reading.pids.get(name, ()) if reading else (),
                    "metrics": metrics,
                    "trust_remote_code": name in trusting,
                    "switch_cost": switching[name].cost,
                    "moving": switching[name].moving,
                    "planned_bytes": switching[name].planned_bytes,
                }
            )
        return {
            "time": now,
            "reading_time": reading.time if reading else None,
            "host": reading.host if reading else None,
            "devices": reading.devices if reading else [],
            "devices_error": reading.devices_error if reading else None,
            "ledger": ledger,
            "servers": servers,
            "default_model": self._manager.default_name(cpu_only=not (reading and reading.devices)),
            "phases": list(StartPhase),
            "notices": list(self._notices),
            "problems": [*self._notices, *map(str, self._manager.catalogue.problems)],
        }
