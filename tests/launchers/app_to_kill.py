"""An app to be killed: launches one server, prints its record, and holds it.

Usage: ``python app_to_kill.py STATE_DIR PORT MODE``, with MODE one of hold, survive, stopping, leave (ends without a
word), no-pid (dies between the start and telling the pid), no-server (dies when there is only a guardian).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from dataclasses import asdict
from pathlib import Path

from server_manager.launchers import local
from server_manager.launchers.base import LaunchRequest
from server_manager.settings import Settings

FAKE_VLLM = Path(__file__).resolve().parents[1] / "fake_vllm.py"


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def main(state_dir: Path, port: int, mode: str) -> None:
    settings = Settings(state_dir=state_dir, models_dir=state_dir, vllm_command=(sys.executable, str(FAKE_VLLM)))
    name = state_dir.name
    request = LaunchRequest(
        name=name,
        argv=(*settings.vllm_command, "serve", "smol", "--port", str(port)),
        env={},
        log_path=settings.logs_dir / f"{name}.log",
        port=port,
    )
    # As the app's own: a descriptor that no child may hold.
    listener = socket.create_server(("127.0.0.1", 0))
    if mode == "no-pid":
        local.GuardianProcess.say = die  # type: ignore[method-assign]
    if mode == "no-server":
        local.make_tmpdir = die
    handle = await local.create_launcher(settings).launch(request)
    facts = {**asdict(handle.record), "listener": listener.getsockname()[1]}
    if mode == "survive":
        handle.release()
    facts["guardian"] = handle.guardian_pid
    while mode == "stopping" and handle.poll() is None and not log_has(request.log_path, "startup complete"):  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    if mode == "stopping":
        handle.terminate()
    print(json.dumps(facts), flush=True)
    while mode != "leave":
        handle.processes()
        await asyncio.sleep(0.1)


def log_has(path: Path, text: str) -> bool:
    return text in path.read_text(errors="replace")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
