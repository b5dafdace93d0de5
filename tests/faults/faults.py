"""What can go wrong, one function each: whatever dies and however."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable

import httpx
from deck_app import LOCAL_HTTP

from faults.world import Tree, World
from server_manager.launchers.guardian import LOOK_SECONDS

Fault = Callable[[World, random.Random], str | None]
"""Does something to the world and says what in few words; ``None`` where it makes no sense just now."""


def start(world: World, chance: random.Random) -> str | None:
    """And the browser's tab is closed before it is up: nobody waits for it."""
    if world.app is None:
        return None
    name = some_model(world, chance)
    world.post(f"/api/servers/{name}/start")
    return "start"


def start_and_wait(world: World, chance: random.Random) -> str | None:
    if world.app is None:
        return None
    name = some_model(world, chance)
    ask(world, name, "hello", seconds=world.start_seconds)
    return "start and chat"


def stop(world: World, chance: random.Random) -> str | None:
    if world.app is None or not (tree := some_tree(world, chance)):
        return None
    world.post(f"/api/servers/{tree.name}/stop")
    return "stop"


def closed_tab_during_a_start(world: World, chance: random.Random) -> str | None:
    """A question starts the server; the connection is cut while it waits or while the answer comes."""
    if world.app is None:
        return None
    ask(world, some_model(world, chance), "hello", seconds=chance.choice([0.1, 0.5, 2]))
    return "tab closed"


def start_in_the_middle_of_a_stop(world: World, chance: random.Random) -> str | None:
    if world.app is None or not (tree := some_tree(world, chance)):
        return None
    name = tree.name
    stopping = threading.Thread(target=world.post, args=(f"/api/servers/{name}/stop",))
    stopping.start()
    world.post(f"/api/servers/{name}/start")
    stopping.join()
    return "start during stop"


def fault_during_a_stop(world: World, chance: random.Random) -> str | None:
    if world.app is None or not (tree := some_tree(world, chance)):
        return None
    stopping = threading.Thread(target=world.post, args=(f"/api/servers/{tree.name}/stop",))
    stopping.start()
    world.kill([chance.choice(tree.members)])
    stopping.join()
    return "kill during stop"


def api_server_killed(world: World, chance: random.Random) -> str | None:
    if not (tree := some_tree(world, chance)) or tree.leader is None:
        return None
    world.kill([tree.leader])
    return "API server killed"


def engine_killed(world: World, chance: random.Random) -> str | None:
    if not (tree := some_tree(world, chance)) or not (others := tree.others()):
        return None
    world.kill([chance.choice(others)])
    return "engine or worker killed"


def whole_tree_killed(world: World, chance: random.Random) -> str | None:
    if not (tree := some_tree(world, chance)):
        return None
    world.kill(tree.members)
    return "whole tree killed"


def group_terminated(world: World, chance: random.Random) -> str | None:
    """SIGTERM to all of it, as systemd or a shutdown does: vLLM's API server hangs then."""
    if not (tree := some_tree(world, chance)):
        return None
    world.kill(tree.members, signal.SIGTERM)
    return "SIGTERM to the tree"


def frozen_and_stopped(world: World, chance: random.Random) -> str | None:
    if world.app is None or not (tree := some_tree(world, chance)):
        return None
    world.kill(tree.members, signal.SIGSTOP)
    world.post(f"/api/servers/{tree.name}/stop")
    return "stop of a frozen server"


def guardian_killed(world: World, chance: random.Random) -> str | None:
    """With the app up it gets another; with the app gone too, only the next app can tidy up."""
    if not (tree := some_tree(world, chance)) or not tree.guardians:
        return None
    if world.app is None:
        return None
    world.kill(tree.guardians)
    return "guardian killed"


def app_killed(world: World, chance: random.Random) -> str | None:
    if world.app is None:
        return None
    world.lose_app(signal.SIGKILL)
    return "app killed, servers kept" if world.keeps else "app killed"


def app_terminated(world: World, chance: random.Random) -> str | None:
    if world.app is None:
        return None
    world.lose_app(chance.choice([signal.SIGTERM, signal.SIGINT]))
    return "app ended, servers kept" if world.keeps else "app ended"


def app_killed_while_it_ends(world: World, chance: random.Random) -> str | None:
    if world.app is None:
        return None
    world.app.process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        world.app.process.wait(chance.choice([0.0, 0.1, 0.5]))
    world.lose_app(signal.SIGKILL)
    return "app killed while it ends"


def app_and_server_killed(world: World, chance: random.Random) -> str | None:
    if world.app is None or not (tree := some_tree(world, chance)):
        return None
    victims = chance.sample(tree.members, chance.randint(1, len(tree.members)))
    world.kill(victims)
    world.lose_app(signal.SIGKILL)
    return "app and part of a server killed"


def app_and_guardian_killed(world: World, chance: random.Random) -> str | None:
    if world.app is None or not (tree := some_tree(world, chance)):
        return None
    os.kill(world.app.process.pid, signal.SIGSTOP)  # it would give the server another
    # What nobody has ever looked at cannot be known to be the server's, if all who could tell die at once.
    time.sleep(4 * LOOK_SECONDS)
    world.kill(tree.guardians)
    if whole := chance.random() < 0.5:
        world.kill(tree.members)
    world.lose_app(signal.SIGKILL)
    world.unguarded = True
    return "app, guardian and server killed" if whole else "app and guardian killed"


def everything_terminated(world: World, chance: random.Random) -> str | None:
    """As at the machine's shutdown."""
    if world.app is None:
        return None
    for pid in world.place.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    world.lose_app(signal.SIGTERM)
    return "SIGTERM to everything"


def second_app(world: World, chance: random.Random) -> str | None:
    """Two of them at once: the second must refuse, and harm nothing."""
    if world.app is None:
        return None
    second = world.place.command("--no-start", "--port", "1")
    assert second.returncode == 1
    assert "is up already" in second.stderr, second.stderr
    return "second app"


def full_disk(world: World, chance: random.Random) -> str | None:
    """The state folder takes nothing any more: a start is refused or goes well, and leaves nothing behind."""
    if world.app is None or not os.path.ismount(world.place.state_dir):
        return None
    filler = world.place.state_dir / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(64 * 1024))
            file.flush()
    name = chance.choice(world.models)
    world.post(f"/api/servers/{name}/start")
    world.settle("start on a full disk")
    filler.unlink()
    return "full disk"


def next_app(world: World, chance: random.Random) -> str | None:
    """Adopts what was kept, ends what was not."""
    if world.app is not None:
        return None
    world.before_next_app()
    kept = {tree.name: tree.leader.pid for tree in world.trees() if tree.leader} if world.keeps else {}
    world.start_app(keep=chance.random() < 0.5)
    assert world.app is not None
    for name, pid in kept.items():
        status = world.app.server(name)
        alive = any(tree.leader and tree.leader.pid == pid for tree in world.trees())
        assert not alive or status["pid"] == pid, f"{name} was kept with pid {pid} and is not adopted: {status}"
    return "next app"


FAULTS: dict[Fault, int] = {
    start: 10,
    start_and_wait: 10,
    stop: 6,
    closed_tab_during_a_start: 4,
    start_in_the_middle_of_a_stop: 3,
    fault_during_a_stop: 4,
    api_server_killed: 6,
    engine_killed: 6,
    whole_tree_killed: 4,
    group_terminated: 4,
    frozen_and_stopped: 2,
    guardian_killed: 3,
    app_killed: 3,
    app_terminated: 2,
    app_killed_while_it_ends: 1,
    app_and_server_killed: 2,
    app_and_guardian_killed: 1,
    everything_terminated: 1,
    second_app: 1,
    full_disk: 1,
    next_app: 12,
}
"""With their weights: much has to be up for there to be something to break."""


def some_tree(world: World, chance: random.Random) -> Tree | None:
    trees = [tree for tree in world.trees() if world.target in (None, tree.name)]
    return chance.choice(trees) if trees else None


def some_model(world: World, chance: random.Random) -> str:
    return world.target or chance.choice(world.models)


def ask(world: World, name: str, text: str, seconds: float) -> str:
    """The answer to a question, or as much of it as came in so many seconds; then the connection is cut."""
    assert world.app is not None
    body = {"conversation": f"conversation-{name}", "model": name, "text": text}
    deadline = time.monotonic() + seconds
    found = ""
    with (
        contextlib.suppress(httpx.HTTPError),
        httpx.Client(**LOCAL_HTTP, timeout=seconds) as client,
        client.stream("POST", f"{world.app.url}/api/chat", json=body) as response,
    ):
        for line in response.iter_lines():
            found += json.loads(line).get("content", "")
            if time.monotonic() > deadline:
                break
    return found
