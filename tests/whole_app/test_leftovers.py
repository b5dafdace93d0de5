"""An app is killed with its guardians: the next one, or the command line, finds what its servers hold."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from deck_app import DeckApp, Place, eventually

from .conftest import Run


def kill_all_but_servers(app: DeckApp) -> None:
    app.process.send_signal(signal.SIGSTOP)  # so that it does not start another guardian
    for pid in [pid for pid, command in app.place.processes().items() if "launchers.guardian" in command]:
        os.kill(pid, signal.SIGKILL)
    app.process.kill()
    app.close()


@pytest.fixture
def other(tmp_path: Path) -> Place:
    """The folders of a second app on this machine."""
    return Place(tmp_path / "other")


def test_leftovers_of_another_state_folder_are_offered_and_reclaimed(run: Run, place: Place, other: Place) -> None:
    first = run()
    first.start("quick")
    second = DeckApp(other).wait_until_up()
    try:
        assert not [left for left in second.post("/api/leftovers/scan")["leftovers"] if left["name"] == "quick"]
        kill_all_but_servers(first)
        pids = set(place.processes())
        found = second.post("/api/leftovers/scan")["leftovers"]
        (left,) = [left for left in found if set(left["pids"]) & pids]
        assert left["name"] == "quick"
        assert set(left["pids"]) == pids
        assert left["rss_bytes"] > 0
        assert left["age_s"] >= 0
        assert place.processes(), "found, and not touched"
        (owner,) = [
            owner
            for owner in second.get("/api/snapshot")["ledger"]["host"]["owners"]
            if owner["leftover_id"] == left["id"]
        ]
        assert owner["kind"] == "leftover"
        receipt = second.post(f"/api/leftovers/{left['id']}/reclaim")
        assert set(receipt["ended_pids"]) == pids
        assert receipt["left_pids"] == []
        assert not place.processes()
        error = second.post(f"/api/leftovers/{left['id']}/reclaim", status=404)["error"]
        assert error["code"] == "unknown_leftover"
    finally:
        second.close()
        other.close()


def test_the_next_app_of_the_same_folder_takes_its_servers_over(run: Run, place: Place) -> None:
    first = run()
    pid = first.start("quick")["pid"]
    kill_all_but_servers(first)
    second = run()
    eventually(lambda: second.server("quick")["state"] == "ready", "it is adopted")
    assert second.server("quick")["pid"] == pid
    assert second.server("quick")["memory"]["kv_cache_tokens"] == 46_592, "its log is read again from its beginning"
    assert not [left for left in second.post("/api/leftovers/scan")["leftovers"] if pid in left["pids"]]


def test_command_line_finds_them_without_an_app(run: Run, place: Place) -> None:
    place.add_model("left-by-cli")
    first = run()
    first.start("left-by-cli")
    kill_all_but_servers(first)
    looked = place.command("leftovers", "left-by-cli")
    assert looked.returncode == 1, looked.stderr
    assert "left over  left-by-cli" in looked.stdout
    assert place.processes()
    reclaimed = place.command("leftovers", "left-by-cli", "--reclaim")
    assert reclaimed.returncode == 0, reclaimed.stderr
    assert "left-by-cli: freed" in reclaimed.stdout
    assert "nothing left" in reclaimed.stdout
    assert not place.processes()
