"""How many calls may be in flight at one provider, found out by trying.

The limit grows with every answer and halves when the provider says that it is too much. Nobody starts a call
before the moment that the provider named in `Retry-After`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from types import TracebackType
from typing import Self

_START = 256.0
_MOST = 2048.0


class Gate:
    """An adaptive limit on calls in flight; `async with gate:` around each call.

    It grows by one per answer until the provider first refuses, then by one per round trip of all in flight.
    """

    def __init__(self, start: float = _START) -> None:
        self.limit = start
        self.in_flight = 0
        self.peak = 0
        self._refused = False
        self._closed_until = 0.0
        self._last_cut = 0.0
        self._queue: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> Self:
        if self._queue or self.in_flight >= int(self.limit):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queue.append(future)
            try:
                await future
            except asyncio.CancelledError:
                if future.done() and not future.cancelled():
                    self._leave()
                raise
        else:
            self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            if (delay := self._closed_until - time.monotonic()) > 0:
                await asyncio.sleep(delay)
        except asyncio.CancelledError:
            self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.limit = min(_MOST, self.limit + (1 / self.limit if self._refused else 1))
        self._leave()

    def refused(self, retry_after: float | None) -> None:
        """The provider says that it is too much, and perhaps for how many seconds."""
        now = time.monotonic()
        self._refused = True
        if retry_after is not None:
            self._closed_until = max(self._closed_until, now + retry_after)
        # All calls of one burst are refused together; they count as one refusal.
        if now - self._last_cut > 1.0:
            self._last_cut = now
            self.limit = max(1.0, min(self.limit, self.in_flight) / 2)

    def _leave(self) -> None:
        self.in_flight -= 1
        while self._queue and self.in_flight < int(self.limit):
            future = self._queue.popleft()
            if not future.done():
                self.in_flight += 1
                future.set_result(None)
