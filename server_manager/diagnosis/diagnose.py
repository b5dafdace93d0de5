"""From a log to the cause: the root-cause rule picks the exception, a rule of the table explains it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from string import Formatter

from server_manager.diagnosis.exceptions import Chain, Raised
from server_manager.diagnosis.log_lines import LogLine, parse_line
from server_manager.diagnosis.report import Diagnosis, Fix
from server_manager.diagnosis.root_cause import WRAPPER, candidates, first_exception
from server_manager.diagnosis.rule import Clues, Rule, facts_of
from server_manager.diagnosis.rules import RULES, STRAY_RULES
from server_manager.diagnosis.story import Story, read_stories

_MAX_EVIDENCE_CHARS = 600
_MAX_FACT_CHARS = 300
_MOST_COMPLAINT_LINES = 4
_SIGNALS = {
    2: "SIGINT",
    15: "SIGTERM",
    4: "SIGILL",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL",
    11: "SIGSEGV",
}

_OF_SHELLS = (130, 134, 137, 139, 143)
"""128 + the signal's number, as shells and container engines report it."""


def diagnose(
    lines: Sequence[str],
    *,
    returncode: int | None = None,
    served: bool | None = None,
    options: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
) -> Diagnosis | None:
    """Why vLLM ended, or ``None`` where the log tells of no failure. Pure; 100,000 lines take under a second.

    ``lines`` are those of a log file, of any vLLM from 0.25 on, with whatever a container engine puts in front.
    ``returncode`` and ``served`` (whether it was ready before) help where they are known; ``options`` and ``env`` are
    those of the start, by default what the log says of them: fixes are computed from them.
    """
    for story in reversed(read_stories(lines)):
        ready = story.ready is not None if served is None else served
        found = _explain(story, returncode, ready, options, env)
        if found or ready or not story.is_empty:
            return found
    return None


def _explain(
    story: Story,
    returncode: int | None,
    served: bool,
    options: Mapping[str, object] | None,
    env: Mapping[str, str] | None,
) -> Diagnosis | None:
    clues = Clues({}, story, story.arguments if options is None else options, env or {}, served=served)
    if story.complaint is not None and not served:
        complaint = _complaint(story, story.complaint)
        return _by_rules([[complaint]], clues) or _unknown(complaint)
    if served and not _crashed(story, returncode):
        return _stopped_by_others(story) if story.stop is not None and returncode is not None else None
    chains = candidates(story, served=served)
    if found := _by_rules(chains, clues):
        return found
    first = first_exception(chains)
    aftermath = first is not None and not _by_itself(first)
    if first is None or aftermath:
        if found := _by_strays(story, clues):
            return found
        if found := _by_signal(returncode, served):
            return found
    if first is not None:
        return _unknown(first)
    if returncode is not None:
        return _silent(returncode)
    return None


def _crashed(story: Story, returncode: int | None) -> bool:
    """Whether a server that was ready has ended by itself. Its exit code does not tell: it is 0 for a dead engine."""
    if story.crash is not None:
        return story.stop is None or story.crash.number < story.stop.number
    return story.stop is None and returncode is not None


def _by_rules(chains: Sequence[Chain], clues: Clues) -> Diagnosis | None:
    """The rule for the likeliest chain; for the next ones only as long as none before it tells anything by itself."""
    weak: Diagnosis | None = None
    for chain in chains:
        for raised in reversed(chain):
            found = _first_match(raised, replace(clues, raised=raised, chain=chain))
            if found is None:
                continue
            rule, match, full = found
            diagnosis = _filled(rule, full, _line_of(raised, match), known=True)
            if not rule.weak:
                return diagnosis
            weak = weak or diagnosis
            break
        else:
            if _by_itself(chain[-1]):
                break
    return weak


def _by_itself(raised: Raised) -> bool:
    """Whether an exception that no rule knows must be taken for a cause all the same."""
    return not re.match(r"^(?:asyncio\.(?:exceptions\.)?)?(?:CancelledError|KeyboardInterrupt)", raised.text)


def _by_strays(story: Story, clues: Clues) -> Diagnosis | None:
    begin = story.ready.number if clues.served and story.ready else 0
    for rule in STRAY_RULES:
        for line in story.strays:
            if line.number > begin and (match := rule.pattern.search(line.text)):
                full = _with_facts(clues, rule, match)
                if rule.when is None or rule.when(full):
                    return _filled(rule, full, line, known=True)
    return None


def _first_match(raised: Raised, clues: Clues) -> tuple[Rule, re.Match[str], Clues] | None:
    message = raised.message
    for rule in RULES:
        if match := rule.pattern.search(message):
            full = _with_facts(clues, rule, match)
            if rule.when is None or rule.when(full):
                return rule, match, full
    return None


def _with_facts(clues: Clues, rule: Rule, match: re.Match[str]) -> Clues:
    facts = {**rule.defaults, **facts_of(match)}
    full = replace(clues, facts=facts)
    return replace(full, facts={**facts, **rule.more(full)}) if rule.more is not None else full


def _line_of(raised: Raised, match: re.Match[str]) -> LogLine:
    """The line of the message in which the match begins; the one that names the exception, if it is the first."""
    index = raised.message.count("\n", 0, match.start())
    line = raised.lines[min(index, len(raised.lines) - 1)]
    return raised.line if line.number <= raised.line.number else line


def _filled(rule: Rule, clues: Clues, line: LogLine | None, *, known: bool) -> Diagnosis:
    shown = {key: _short(value) for key, value in clues.facts.items()}
    fixes: dict[str, Fix] = {}
    for fix in rule.fixes(clues):
        fixes.setdefault(fix.id, fix)
    return Diagnosis(
        cause=rule.cause,
        title=fill(rule.title, shown),
        evidence=_evidence(clues.raised, line),
        line=line.number if line else None,
        remedy=fill(rule.remedy, shown),
        facts=shown,
        fixes=tuple(fixes.values()),
        known=known,
    )


def fill(text: str, facts: Mapping[str, object]) -> str:
    """``text`` with its placeholders replaced; "?" where the log does not tell."""
    names = {name for _, name, _, _ in Formatter().parse(text) if name}
    return text.format(**{name: facts.get(name, "?") for name in names})


def _short(value: object) -> object:
    return value[:_MAX_FACT_CHARS] if isinstance(value, str) else value


def _evidence(raised: Raised | None, line: LogLine | None) -> str:
    if line is None:
        return ""
    text = raised.text if raised is not None and line is raised.line else line.text.strip().split(" [type=")[0]
    return text if len(text) <= _MAX_EVIDENCE_CHARS else text[: _MAX_EVIDENCE_CHARS - 1] + "…"


def _complaint(story: Story, line: LogLine) -> Raised:
    """What the command line's parser says; of a value that pydantic checks the mistake follows on the next lines."""
    following = [
        more
        for index in range(line.number, min(line.number + _MOST_COMPLAINT_LINES, story.end))
        for more in parse_line(story.lines[index], index + 1)
    ]
    return Raised(line, line.text, [line, *following])


def _unknown(raised: Raised) -> Diagnosis:
    return Diagnosis(
        cause="unknown",
        title="vLLM ended with an error that this app does not know.",
        evidence=_evidence(raised, raised.line),
        line=raised.line.number,
        remedy="Read the line above and the log around it; searching vLLM's issues for that line usually helps.",
        known=False,
    )


def _by_signal(returncode: int | None, served: bool) -> Diagnosis | None:
    if returncode is None or (returncode >= 0 and returncode not in _OF_SHELLS):
        return None
    number = -returncode if returncode < 0 else returncode - 128
    name = _SIGNALS.get(number)
    if name is None:
        return None
    when = "while it served" if served else "while it started"
    if number in (2, 15):
        return Diagnosis(
            "terminated",
            f"Another program asked vLLM to end {when} ({name}).",
            remedy="vLLM itself did not fail; start it again when you want it.",
            facts={"signal": name},
        )
    if number == 9:
        return Diagnosis(
            "killed",
            f"vLLM was killed from outside {when} (SIGKILL), which leaves no message.",
            remedy="Somebody did it, or the kernel when the machine ran out of memory: look with `dmesg`.",
            facts={"signal": name},
        )
    return Diagnosis(
        "died_of_signal",
        f"vLLM crashed {when} with {name}, which leaves no message of its own.",
        remedy="That is a fault in native code (PyTorch, CUDA, a kernel) or memory running out: look at the last lines "
        "of the log and at `dmesg`.",
        facts={"signal": name},
    )


def _stopped_by_others(story: Story) -> Diagnosis:
    """Of a server whose owner did not ask for its end, but somebody did."""
    assert story.stop is not None
    return Diagnosis(
        "stopped_by_others",
        "Another program asked vLLM to stop while it served, and it did.",
        story.stop.text,
        story.stop.number,
        "vLLM itself did not fail; start it again when you want it.",
    )


def _silent(returncode: int) -> Diagnosis:
    return Diagnosis(
        cause="no_reason",
        title=f"vLLM ended with exit code {returncode}, and its log names no reason.",
        remedy="A process that is killed leaves none: look with `dmesg` whether the kernel ran out of memory.",
        facts={"returncode": returncode},
        known=False,
    )


def is_wrapper(text: str) -> bool:
    """Whether an exception only points to another one."""
    return bool(WRAPPER.search(text))
