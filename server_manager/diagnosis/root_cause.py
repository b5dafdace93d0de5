"""Which of the exceptions in a log is the cause.

vLLM ends every failed start with "Engine core initialization failed. See root cause above", far below the cause. The
rule: what a worker or the engine's core logged first is the cause; without that it is the last exception that is not
such a wrapper. ``EngineDeadError`` is a wrapper too: it only says that the engine has gone. What follows from another
process's end (connections that break, a cancelled task) counts only where there is nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from server_manager.diagnosis.exceptions import Chain, Raised
from server_manager.diagnosis.story import Story

WRAPPER = re.compile(
    r"WorkerProc initialization failed|Engine core initialization failed|See root cause above|EngineDeadError|"
    r"EngineCore encountered an issue|Frontend process failed|Engine process failed to start|"
    r"EngineCore failed to start\. See|ChildFailedError|^SystemExit|check the stack trace above for the root cause|"
    r"Executor failed\.$|Ray workers have not started|MQEngineDeadError|^(?:\w+\.)*AsyncEngineDeadError"
)
_AFTERMATH = re.compile(
    r"^(?:asyncio\.(?:exceptions\.)?)?CancelledError|BrokenPipeError|ConnectionResetError|EOFError|"
    r"Connection closed by peer|Connection reset by peer|^RuntimeError: cancelled$|^(?:zmq\.error\.)?ContextTerminated|"
    r"ray\.exceptions\.(?:RayActorError|ActorDiedError)|_queue\.Empty|ProcessLookupError|"
    r"^GeneratorExit|^StopAsyncIteration|^KeyboardInterrupt"
)
_FATAL_HEAD = re.compile(
    r"failed to start|hit an exception|encountered a fatal error|EngineCore hit|Error executing method|"
    r"Exception in worker|WorkerProc|Engine process failed"
)
_MOST_CHAINS = 400


def candidates(story: Story, *, served: bool) -> list[Chain]:
    """The chains that may hold the cause, the likeliest first; wrappers are left out."""
    begin = story.ready.number if served and story.ready else 0
    asked_first = story.stop is not None and (story.crash is None or story.stop.number < story.crash.number)
    end = story.stop.number if served and story.stop is not None and asked_first else None
    within = [
        chain for chain in story.chains if chain[0].line.number > begin and (end is None or chain[0].line.number < end)
    ]
    if len(within) > _MOST_CHAINS:  # of a log full of errors: where they begin and where it ends
        within = [*within[: _MOST_CHAINS // 2], *within[-_MOST_CHAINS // 2 :]]
    chains = [bare for chain in within if (bare := _bare(chain))]
    fatal = [chain for chain in chains if chain[0].of_engine and _FATAL_HEAD.search(chain[0].head)]
    engine = fatal or [chain for chain in chains if chain[0].of_engine]
    if served and not engine and story.crash is None and story.ready is not None:
        return []  # a request that failed, not the server
    others = [chain for chain in reversed(chains) if chain not in engine]
    if others and not served:
        # What the API server went on after was no more than logged.
        progress = story.last_progress()
        others = [chain for chain in others if chain[0].of_engine or chain[-1].line.number > progress]
    if others and others[0][-1].text.startswith("KeyboardInterrupt"):
        others = others[:1]  # it was interrupted; what it handled before that does not matter
    return sorted(engine + others, key=_is_aftermath)


def first_exception(chains: Sequence[Chain]) -> Raised | None:
    """The exception to show where no rule knows better.

    Of the engine's own chain the first, which is where the trouble began; of the API server's the last, since it
    handles many on its way.
    """
    if not chains:
        return None
    chain = chains[0]
    return chain[0] if chain[0].of_engine else chain[-1]


def _bare(chain: Chain) -> Chain:
    return [raised for raised in chain if not WRAPPER.search(raised.text)]


def _is_aftermath(chain: Chain) -> bool:
    return all(_AFTERMATH.search(raised.text) for raised in chain)
