"""What happens in a run, as one stream of typed events: live to whoever listens, and kept as rows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

EventKind = Literal[
    "run_started",
    "run_resumed",
    "run_paused",
    "branched",
    "run_ended",
    "recruited",
    "waiting",
    "thinking",
    "thought",
    "tool",
    "letter",
    "reported",
    "reminded",
    "sent_back",
    "accepted",
    "withdrawn",
    "asking",
    "answered",
    "retry",
    "bad_answer",
    "failed",
    "limit",
    "unpriced",
    "guard",
    "closed",
    "check",
]


@dataclass(frozen=True)
class Event:
    """One thing that happened. `agent` is empty for what concerns the whole run."""

    seq: int
    """Its place among the events of the run, from 1."""
    time: float
    """Seconds since the epoch."""
    kind: EventKind
    agent: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def dump(self) -> dict[str, Any]:
        return asdict(self)


class Stream:
    """The listeners of one run. Without any, sending an event costs nothing here."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[Event | None]] = set()
        self._ended = False

    def send(self, event: Event) -> None:
        for queue in self._queues:
            queue.put_nowait(event)

    def listen(self) -> asyncio.Queue[Event | None]:
        """A queue of what happens from now on; `None` says that the stream has ended."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        if self._ended:
            queue.put_nowait(None)
        else:
            self._queues.add(queue)
        return queue

    def leave(self, queue: asyncio.Queue[Event | None]) -> None:
        with contextlib.suppress(KeyError):
            self._queues.remove(queue)

    def end(self) -> None:
        self._ended = True
        for queue in self._queues:
            queue.put_nowait(None)
        self._queues.clear()
