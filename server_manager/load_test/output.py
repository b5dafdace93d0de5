"""What the generator prints: how far it is, and why it could not do its work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from server_manager.diagnosis import diagnose
from server_manager.errors import LoadTestError
from server_manager.load_test.run import LevelProgress
from server_manager.load_test.target import no_tokenizer

_BAR = re.compile(r"^\s*\d+%\|.*?\| (\d+)/(\d+) \[")
_WARM_UP, _MAIN = "Warming up with ", "Starting main benchmark run"
_BLOCK_BYTES, _TAIL_BYTES, _LINE_BYTES = 1 << 20, 256 * 1024, 64 * 1024
_MOST_WORDS = 300


class OutputReader:
    """Follows the generator's output file. ``read`` blocks for a moment: to be called in a thread, one at a time."""

    def __init__(self, path: Path, num_prompts: int, num_warmups: int) -> None:
        self._path = path
        self._totals = {"warm-up": num_warmups, "running": num_prompts}
        self._at = 0
        self._rest = b""
        self.progress = LevelProgress("starting", 0, num_prompts)

    def read(self) -> LevelProgress:
        """How far it is now. A file that is not there (yet) says nothing new."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                data = file.read(_BLOCK_BYTES)
        except OSError:
            return self.progress
        self._at += len(data)
        # Its bars end in carriage returns; what has no end yet is perhaps half of a line.
        *lines, self._rest = re.split(rb"[\r\n]", self._rest + data)
        self._rest = self._rest[-_LINE_BYTES:]
        for line in lines:
            self._take(line.decode("utf-8", "replace"))
        self._take_bar(
            self._rest.decode("utf-8", "replace")
        )  # the newest state of a bar has its end only with the next
        return self.progress

    def _take(self, line: str) -> None:
        if line.startswith(_WARM_UP):
            self.progress = LevelProgress("warm-up", 0, self._totals["warm-up"])
        elif line.startswith(_MAIN):
            self.progress = LevelProgress("running", 0, self._totals["running"])
        else:
            self._take_bar(line)

    def _take_bar(self, line: str) -> None:
        phase = self.progress.phase
        found = _BAR.match(line)
        # Other things have bars too: files that are being fetched.
        if found and phase != "starting" and int(found[2]) == self._totals[phase]:
            self.progress = LevelProgress(phase, int(found[1]), int(found[2]))


_TOKENIZER = re.compile(
    r"Can't load tokenizer|is not a local folder and is not a valid model identifier|Repository ?Not ?Found|"
    r"LocalEntryNotFound|Unrecognized model in|does not appear to have a file named|Gated ?Repo|gated repo|"
    r"instantiate the backend tokenizer|HFValidationError|couldn't connect to|Can't load the (?:model|configuration)|"
    r"No tokenizer file found|Failed to load the tokenizer|NotExistError|not a valid JSON file.*tokenizer"
)
_DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded")
_DATASET = re.compile(
    r"JSONL file must contain|custom dataset must contain an 'output_tokens'|Invalid value for 'output_tokens'|"
    r"json\.decoder\.JSONDecodeError|Cannot choose from an empty sequence|Only JSONL format|"
    r"KeyError: '(?:value|prompt)'|ValueError: (?:Expected object|Trailing data|Unmatched)"
)
_FLAG = re.compile(r"error: ((?:unrecognized arguments|argument |ambiguous option).*)")
_MODULE = re.compile(r"(?:No module named '([\w.]+)'|[Pp]lease install (vllm\[\w+\]))")
_TOO_SHORT = re.compile(r"--random-input-len is too small")
_LAST_EXCEPTION = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit)\b.*")


def explain(lines: Sequence[str], returncode: int | None, *, tokenizer: str, dataset: str) -> LoadTestError:
    """Why the generator left no result, from the end of its output."""
    text = "\n".join(lines)
    last = next((line for line in reversed(lines) if _LAST_EXCEPTION.match(line)), "")[:_MOST_WORDS]
    if _DISK_FULL.search(text):
        return LoadTestError(
            "The disk is full: the generator could not write its result.",
            "Free some space on the disk of the state folder.",
            why="disk_full",
        )
    if found := _FLAG.search(text):
        return LoadTestError(
            f"vllm bench serve does not take these flags: {found[1].strip()}.",
            "Correct the further flags; `vllm bench serve --help=all` lists those that it has.",
            why="flags",
            said=found[1].strip(),
        )
    if _TOO_SHORT.search(text):
        return LoadTestError(
            "The prompts are too short for this tokenizer.", "Choose a larger input_len.", why="input_len"
        )
    if dataset and (found := _DATASET.search(text)):
        return LoadTestError(
            f"The dataset {dataset} cannot be used: {last or found[0]}",
            "ShareGPT's is a JSON list of entries with `conversations`; a custom one has a line "
            '{"prompt": "…", "output_tokens": 100} for each request.',
            why="dataset",
            dataset=dataset,
            said=last or found[0],
        )
    if found := _TOKENIZER.search(text):
        return no_tokenizer(tokenizer, _sentence(lines, _TOKENIZER))
    if found := _MODULE.search(text):
        return LoadTestError(
            f"The generator needs a package that vLLM's environment lacks: {found[1] or found[2]}.",
            "Install it there: pip install 'vllm[bench]'.",
            why="package",
            package=found[1] or found[2],
        )
    return _unknown(lines, returncode, last)


def _unknown(lines: Sequence[str], returncode: int | None, last: str) -> LoadTestError:
    if returncode is not None and returncode < 0:
        return LoadTestError(
            f"The generator was ended by signal {-returncode}.",
            "If the machine had no memory left, use fewer or shorter prompts; otherwise somebody ended it.",
            why="signal",
            signal=-returncode,
        )
    if (found := diagnose(lines, returncode=returncode, served=False)) is not None and found.known:
        return LoadTestError(found.title, found.remedy, why=found.cause)
    said = last or next((line for line in reversed(lines) if line.strip()), "")[:_MOST_WORDS]
    return LoadTestError(
        f"The generator failed: {said or 'it said nothing'}", "Its whole output is in the run's folder.",
        why="generator", said=said,
    )  # fmt: skip


def last_lines(path: Path) -> list[str]:
    """The end of the generator's output, as lines; empty where there is none. Blocking."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            data = file.read(_TAIL_BYTES)
    except OSError:
        return []
    return re.split(r"[\r\n]+", data.decode("utf-8", "replace"))


def _sentence(lines: Sequence[str], pattern: re.Pattern[str]) -> str:
    """The last line that matches, without the exception's name."""
    line = next(line for line in reversed(lines) if pattern.search(line))
    return re.sub(r"^(?:\w+\.)*\w+(?:Error|Exception): ", "", line.strip())[:_MOST_WORDS]
