"""What the smoke test says, in English; other languages have the same codes (``webui/locales/smoke.*.yaml``)."""

from __future__ import annotations

from server_manager.phrases import Phrase, Sentence

ENGLISH = {
    "list_comma": ", ",
    "list_and": " and ",
    # why it failed
    "smoke_error": "It answers {count} of {all} prompts with an error: {message}",
    "smoke_not_numbers": "The probabilities that it computes are no numbers (NaN): "
    "its weights, or their copy in memory, are damaged.",
    "smoke_fails_with_logprobs": "It fails as soon as it has to tell probabilities ({message}). "
    "They are probably no numbers (NaN): its weights, or their copy in memory, are damaged.",
    "smoke_prompt_perplexity": "It does not know plain English: its perplexity over the prompts is {value}. "
    "Models that work stay far below {limit}.",
    "smoke_answer_perplexity": "It picks its words nearly at random: its perplexity over its own answers is {value}. "
    "Models that work stay far below {limit}.",
    "smoke_same": "It says the same whatever it is given.",
    "smoke_odd": "{count} of {all} answers are odd: {what}.",
    "smoke_what_empty": "empty",
    "smoke_what_repeats": "repeating themselves",
    "smoke_what_broken": "with broken characters",
    # what is odd about one answer
    "smoke_empty": "It is empty.",
    "smoke_repeats": "It repeats itself.",
    "smoke_broken": "It has broken characters (�).",
    "smoke_one_error": "An error came instead: {message}",
    # what could not be judged
    "smoke_no_logprobs": "The server tells no probabilities, so only the text was judged: "
    "nonsense that does not repeat itself goes unnoticed.",
    "smoke_no_prompt_logprobs": "The server does not tell how likely it finds the prompts (vLLM does): "
    "nonsense that it is sure of goes unnoticed unless it repeats itself.",
}


def said(code: str, **facts: object) -> Sentence:
    """In English."""
    return Sentence.of((Phrase(code, facts),), ENGLISH)


def rounded(value: float) -> str:
    """A perplexity for people: "4.2", "312", "49,152", "1e+09"."""
    if value < 100:
        return f"{value:.1f}"
    return f"{value:,.0f}" if value < 1e6 else f"{value:.0e}"
