"""The search for the highest concurrency that keeps a limit: doubled until one is too high, then halved in between."""

from __future__ import annotations

from dataclasses import replace

from server_manager.load_test.run import SlaResult, SlaTry
from server_manager.load_test.settings import Sla

_PRECISION = 0.05
"""Where both ends differ by no more than this share, noise decides and not the server."""


class SlaSearch:
    """Knows what was tried. Assumes that a higher load is never faster."""

    def __init__(self, sla: Sla) -> None:
        self._most = sla.max_concurrency
        self.result = SlaResult(sla.ttft_p99_ms)

    def next(self) -> int | None:
        """The concurrency to be tried; ``None`` when the search is over."""
        highest, too_high = self.result.highest, self.result.too_high
        if too_high is None:
            wanted = 1 if highest is None else min(2 * highest, self._most)
            return wanted if wanted != highest else None
        low = highest or 0
        if too_high - low <= max(1, int(_PRECISION * low)):
            return None
        return (low + too_high) // 2

    def tell(self, concurrency: int, p99_ttft_ms: float | None, *, all_answered: bool) -> None:
        """What a try gave. One with failed requests does not keep the limit, however fast the others were."""
        found = self.result
        ok = all_answered and p99_ttft_ms is not None and p99_ttft_ms <= found.ttft_p99_ms
        self.result = replace(
            found,
            tried=(*found.tried, SlaTry(concurrency, p99_ttft_ms, ok)),
            highest=concurrency if ok else found.highest,
            too_high=found.too_high if ok else concurrency,
        )

    def finish(self) -> SlaResult:
        """The outcome, in words too."""
        highest, too_high, limit = self.result.highest, self.result.too_high, f"{self.result.ttft_p99_ms:g} ms"
        if highest is None:
            words = f"Not even one request at a time has its first token within {limit} (p99)."
        elif too_high is None:
            words = f"{highest} requests at a time keep p99 TTFT under {limit}; more were not tried."
        else:
            words = f"{highest} requests at a time keep p99 TTFT under {limit}; {too_high} do not."
        self.result = replace(self.result, words=words)
        return self.result
