"""How the app begins, and what it says where it cannot."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from deck_app import Place, eventually, free_port

from whole_app.conftest import Run

pytestmark = pytest.mark.slow


def test_says_where_it_is_and_nothing_else(run: Run) -> None:
    app = run(forked=False)
    app.get("/")
    assert app.end() == 0
    assert app.process.stdout is not None
    assert app.process.stdout.read() == f"vLLM Deck is at {app.url}/\n"
    assert "Traceback" not in app.stderr
    assert "Warning" not in app.stderr


def test_starts_the_model_asked_for(run: Run) -> None:
    app = run("--start", "quick", start=True)
    assert app.wait_for("quick")["state"] == "ready"


def test_starts_the_model_used_last(run: Run) -> None:
    app = run()
    app.start("quick")
    app.close()
    assert run(start=True).wait_for("quick")["state"] == "ready"


def test_unknown_model_to_start_is_said_on_the_page_too(run: Run) -> None:
    app = run("--start", "nosuch", start=True)
    (problem,) = eventually(lambda: app.get("/api/snapshot")["problems"], "the problem")
    assert "There is no model 'nosuch'" in app.stderr
    assert "There is no model 'nosuch'" in problem
    assert "quick" in problem
    assert app.get("/")


def test_unreadable_model_file_is_said_and_the_others_are_there(place: Place, run: Run) -> None:
    (place.models_dir / "wrong.yaml").write_text("model: x\nmax-model-len: [\n")
    app = run()
    for path in ("/api/models", "/api/snapshot"):
        (problem,) = app.get(path)["problems"]
        assert "models/wrong.yaml line 3" in problem
    assert app.start("quick")["state"] == "ready"


def test_second_app_with_the_same_state_names_the_first(place: Place, run: Run) -> None:
    first = run()
    second = place.command("--port", str(free_port()), "--no-start")
    assert (second.returncode, second.stdout) == (1, "")
    assert f"{first.url}/" in second.stderr
    assert "--state-dir" in second.stderr
    assert "Traceback" not in second.stderr
    assert first.get("/healthz")


def test_taken_port_is_said(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = place.command("--port", str(port), "--no-start")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"port {port} cannot be used: Address already in use" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--attach", "remote"), "NAME=URL"),
        (("--attach", "=http://127.0.0.1:1"), "name"),
        (("--attach", "a/b=http://127.0.0.1:1"), "name"),
        (("--attach", "remote=ftp://127.0.0.1"), "NAME=URL"),
        (("--attach", "remote=http://"), "NAME=URL"),
        (("--attach", "remote=http://127.0.0.1:99999"), "NAME=URL"),
        (("--port", "0"), "port"),
        (("--port", "http"), "port"),
        (("--start", "a", "--no-start"), "not allowed with"),
        (("logs", "quick", "--tail", "0"), "number from 1"),
        (("restart", "quick"), "invalid choice"),
    ],
)
def test_mistake_on_the_command_line_is_said(place: Place, arguments: tuple[str, ...], said: str) -> None:
    done = place.command(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_name_attached_twice_is_refused(place: Place) -> None:
    done = place.command("--attach", "a=http://127.0.0.1:1", "--attach", "a=http://127.0.0.1:2")
    assert done.returncode == 1
    assert "twice" in done.stderr


# The state folder


def test_state_folder_that_is_no_folder_is_said(place: Place) -> None:
    place.state_dir.write_text("")
    done = place.command("--no-start")
    assert done.returncode == 1
    assert str(place.state_dir) in done.stderr
    assert "--state-dir" in done.stderr
    assert "Traceback" not in done.stderr


def test_state_folder_that_cannot_be_written_is_said(place: Place) -> None:
    """/proc takes no new folder, from root neither."""
    place.state_dir = Path("/proc/vllm-deck")
    done = place.command("--no-start")
    assert done.returncode == 1
    assert "/proc/vllm-deck" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB; only root can make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk_is_said_and_leaves_no_weak_key(place: Place, small_disk: Path) -> None:
    place.state_dir = small_disk / "state"
    place.state_dir.mkdir()
    with pytest.raises(OSError, match="No space"):
        (small_disk / "filler").write_bytes(bytes(70_000))
    done = place.command("--no-start")
    assert done.returncode == 1
    assert str(place.state_dir) in done.stderr
    assert "Free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (place.state_dir / "session-key").exists()


def test_empty_key_is_made_anew(place: Place, run: Run) -> None:
    """Anybody could sign with it."""
    place.state_dir.mkdir()
    (place.state_dir / "lock").touch()
    (place.state_dir / "session-key").touch()
    run().close()
    assert len((place.state_dir / "session-key").read_bytes()) == 32


def test_folder_of_others_keeps_its_mode(place: Place, run: Run) -> None:
    """--state-dir /tmp, typed by root, must not close /tmp."""
    place.state_dir.mkdir()
    place.state_dir.chmod(0o755)
    (place.state_dir / "something").touch()
    app = run()
    assert place.state_dir.stat().st_mode & 0o777 == 0o755
    for path in place.state_dir.iterdir():
        assert path.name in ("something", "last-model") or path.stat().st_mode & 0o077 == 0
    app.close()
