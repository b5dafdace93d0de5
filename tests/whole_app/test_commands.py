"""``app.py status``, ``start``, ``stop`` and ``logs``, which talk to the app that is running."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys

import pytest
from deck_app import ROOT, Place

from whole_app.conftest import Run

pytestmark = pytest.mark.slow


def test_commands_talk_to_the_app(place: Place, run: Run) -> None:
    app = run()
    assert place.command("status").stdout == f"vLLM Deck: {app.url}/\n"
    started = place.command("start", "quick")
    assert (started.returncode, started.stdout) == (0, "quick: starting\n")
    app.wait_for("quick")
    assert "quick" in place.command("status").stdout
    assert "ready" in place.command("status").stdout
    logs = place.command("logs", "quick", "--tail", "3")
    assert logs.stdout == app.get("/api/servers/quick/logs?tail=3") or len(logs.stdout.splitlines()) == 3
    stopped = place.command("stop", "quick")
    assert (stopped.returncode, stopped.stdout) == (0, "quick: stopped\n")
    unknown = place.command("start", "nosuch")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "There is no model 'nosuch'" in unknown.stderr
    assert "quick" in unknown.stderr
    assert "Traceback" not in unknown.stderr


def test_output_that_nobody_reads_to_its_end_is_no_failure(place: Place) -> None:
    """As with `… | head -1`."""
    nobody, pipe = os.pipe()
    os.close(nobody)
    arguments = place.arguments("explain", str(ROOT / "tests" / "vllm_logs" / "err_bad_arch.log"))
    done = subprocess.run(arguments, cwd=ROOT, env=place.env, stdout=pipe, stderr=subprocess.PIPE, check=False)
    os.close(pipe)
    assert (done.returncode, done.stderr) == (0, b"")


def test_state_folder_may_stand_behind_the_command(place: Place, run: Run) -> None:
    app = run()
    done = subprocess.run(
        [sys.executable, "app.py", "status", "--state-dir", str(place.state_dir)],
        env=place.env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert app.url in done.stdout


def test_commands_without_an_app_say_so(place: Place, run: Run) -> None:
    for command in (("status",), ("start", "quick"), ("stop", "quick"), ("logs", "quick")):
        done = place.command(*command)
        assert (done.returncode, done.stdout) == (1, "")
        assert str(place.state_dir) in done.stderr
        assert "Traceback" not in done.stderr


def test_commands_do_not_trust_what_a_killed_app_left(place: Place, run: Run) -> None:
    """Whoever listens on its port now must not be sent its token."""
    app = run()
    app.process.kill()
    app.process.wait()
    heard: list[bytes] = []
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", app.port))
        listener.listen()
        listener.settimeout(0.1)
        done = place.command("status")
        with contextlib.suppress(TimeoutError):
            heard.append(listener.accept()[0].recv(4096))
    assert done.returncode == 1
    assert not heard
    assert run().get("/healthz")  # and the next app begins all the same
