"""What a smoke test found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from server_manager.phrases import Sentence


@dataclass(frozen=True, slots=True)
class Perplexity:
    """1 or more; ``None`` where the server does not tell what it is computed from, or that is no number."""

    prompt: float | None = None
    """Over the words of the prompt, as the model foresaw them."""
    answer: float | None = None

    def as_dict(self) -> dict[str, float | None] | None:
        """``None`` where neither is known."""
        return None if self == Perplexity() else {"prompt": self.prompt, "answer": self.answer}


@dataclass(frozen=True, slots=True)
class PromptResult:
    """One prompt and its answer."""

    prompt: str
    text: str | None = None
    """``None`` where an error came instead."""
    tokens: int | None = None
    """How many the answer has; ``None`` where the server does not say."""
    findings: tuple[Sentence, ...] = ()
    """What is odd about it. One odd answer alone fails nobody."""
    repetition: float | None = None
    """0 to 1, see ``figures.repetition``."""
    perplexity: Perplexity = Perplexity()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "prompt": self.prompt,
            "text": self.text,
            "tokens": self.tokens,
            "ok": not self.findings,
            "reasons": [str(finding) for finding in self.findings],
            "repetition": self.repetition,
            "perplexity": self.perplexity.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class SmokeResult:
    """The verdict, and what it rests on."""

    model: str
    reasons: tuple[Sentence, ...]
    """Why it failed; empty where it passed."""
    prompts: tuple[PromptResult, ...]
    perplexity: Perplexity
    """Over all prompts together."""
    not_judged: tuple[Sentence, ...]
    """What the server does not let one see."""
    seconds: float
    """For the answers, without the start."""

    @property
    def passed(self) -> bool:
        return not self.reasons

    def as_dict(self) -> dict[str, Any]:
        """For JSON, in English."""
        return {
            "model": self.model,
            "verdict": "pass" if self.passed else "fail",
            "reasons": [str(reason) for reason in self.reasons],
            "prompts": [prompt.as_dict() for prompt in self.prompts],
            "perplexity": self.perplexity.as_dict(),
            "not_judged": [str(note) for note in self.not_judged],
            "seconds": self.seconds,
        }
