"""How the events of a run are followed: live in the process that works on it, by the database from any other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import aclosing

from megagraph.control import Tap
from megagraph.events import TOKENS, Event, EventKind
from megagraph.home import Home

POLL = 0.25
"""Seconds between two looks at the database for what another process has written."""


class Listener:
    """One who follows a run in the process that works on it. Iterate over it; `close` it."""

    def __init__(self, agent: str | None = None, kinds: Collection[EventKind] | None = None) -> None:
        self.agent = agent
        self.kinds = kinds
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()

    def wants(self, kind: EventKind, agent: str) -> bool:
        """Whether it is to be told this. Tokens are only for those who ask for them by name."""
        chosen = kind not in TOKENS if self.kinds is None else kind in self.kinds
        return chosen and self.agent in (None, agent)

    def tell(self, event: Event) -> None:
        self._queue.put_nowait(event)

    def close(self) -> None:
        """Let the iteration end after what has been told."""
        self._queue.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[Event]:
        while (event := await self._queue.get()) is not None:
            yield event


class Stream:
    """The listeners of one run. Without any, sending an event costs nothing here."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._ended = False

    def send(self, event: Event) -> None:
        for listener in self._listeners:
            if listener.wants(event.kind, event.agent):
                listener.tell(event)

    def wants_tokens(self, agent: str) -> bool:
        """Whether anybody has asked for the tokens of this agent."""
        return any(listener.wants("token", agent) for listener in self._listeners)

    @property
    def listened(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listeners)

    def token_wishes(self) -> list[str | None]:
        """Of which agents somebody wants the tokens; None is all of them."""
        wishes = {listener.agent for listener in self._listeners if listener.wants("token", listener.agent or "")}
        if None in wishes:
            return [None]
        return sorted(wishes, key=str)

    def replace(self, listeners: Sequence[Listener]) -> None:
        """Have these listeners and no others."""
        self._listeners = list(listeners)

    def listen(self, agent: str | None = None, kinds: Collection[EventKind] | None = None) -> Listener:
        """A listener to what happens from now on, which ends when the stream does."""
        listener = Listener(agent, kinds)
        if self._ended:
            listener.close()
        else:
            self._listeners.append(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)
            listener.close()

    def end(self) -> None:
        self._ended = True
        for listener in list(self._listeners):
            self.leave(listener)


async def follow_here(
    home: Home, run: str, stream: Stream, after: int, agent: str | None, kinds: Collection[EventKind] | None
) -> AsyncIterator[Event]:
    """Events after number `after`, then the live ones until this process's work on the run has ended."""
    listener = stream.listen(agent, kinds)
    try:
        # An empty write returns when all that was sent before it is durable, and so readable.
        await home.database.write()
        past, last = await asyncio.to_thread(_read, home, run, after, agent, kinds)
        for event in past:
            yield event
        async for event in listener:
            if event.kind in TOKENS or event.seq > last:
                yield event
    finally:
        stream.leave(listener)


async def follow_from_afar(
    home: Home, run: str, after: int, agent: str | None, kinds: Collection[EventKind] | None
) -> AsyncIterator[Event]:
    """Events after number `after`, and those that another process writes until its work on the run has ended.

    The working process is not asked for anything: SQLite says by a number in shared memory whether there is
    something new. Tokens, which are not kept, come from that process by its socket, to those who want them.
    """
    wants_tokens, seen = kinds is not None and not TOKENS.isdisjoint(kinds), -1
    async with aclosing(Tap(run, agent)) as tap:
        while True:
            # Looked at before the events are read: what a process has written, it has written before it lets go.
            working = await asyncio.to_thread(home.locked, run)
            [(version,)] = await home.database.read_async("PRAGMA data_version")
            if version != seen or not working:
                events, after = await asyncio.to_thread(_read, home, run, after, agent, kinds)
                seen = version
                for event in events:
                    yield event
            if not working:
                return
            if wants_tokens:
                async for line in tap.lines(POLL):
                    yield Event.load(line)
            else:
                await asyncio.sleep(POLL)


def _read(
    home: Home, run: str, after: int, agent: str | None, kinds: Collection[EventKind] | None
) -> tuple[list[Event], int]:
    """The events that are wanted, and the number up to which all were looked at."""
    ledger = home.ledger(run)
    last = max(after, ledger.last_event())
    return ledger.events(after, agent, kinds, last), last
