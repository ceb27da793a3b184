"""How fast a run goes: calls and tokens of the last half minute, and what is left, where that can be said."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

WINDOW = 30.0
"""Seconds over which calls and tokens are counted."""
_SURE = 8
"""Reports accepted within the window of an estimate from which on it means something."""


class Speed:
    """Told what happened when; times are seconds since the epoch, and grow."""

    def __init__(self) -> None:
        self._calls: deque[tuple[float, int]] = deque()
        self._tokens = 0
        self._accepted: list[float] = []
        self._recruited = 0.0

    def called(self, time: float, tokens: int) -> None:
        self._calls.append((time, tokens))
        self._tokens += tokens
        self._forget(time)

    def accepted(self, time: float) -> None:
        self._accepted.append(time)

    def recruited(self, time: float) -> None:
        self._recruited = time

    def words(self, now: float, begun: float, *, tokens: bool) -> list[str]:
        """Calls a second or a minute, and with `tokens` what was written; nothing where nothing came of late."""
        self._forget(now)
        seconds = min(WINDOW, now - begun)
        if not self._calls or seconds < 1:
            return []
        calls, written = len(self._calls) / seconds, self._tokens / seconds
        pace = f"{calls:.1f} calls/s" if calls >= 1 else f"{calls * 60:.0f} calls/min"
        return [pace, f"{written:,.0f} tokens/s"] if tokens and written >= 1 else [pace]

    def rest(self, left: int, now: float, begun: float) -> float | None:
        """Seconds until `left` more reports are accepted at the pace of late.

        None where that would be a guess: while the organisation grows, or after too few reports.
        """
        window = max(WINDOW, (now - begun) / 4)
        if not left or now - self._recruited < window:
            return None
        late = len(self._accepted) - bisect_left(self._accepted, now - window)
        return left * window / late if late >= _SURE else None

    def _forget(self, now: float) -> None:
        while self._calls and self._calls[0][0] < now - WINDOW:
            self._tokens -= self._calls.popleft()[1]
