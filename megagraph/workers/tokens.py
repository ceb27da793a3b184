"""Tokens and events for those who follow a run in its first process, while its agents work in others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from megagraph.events import TOKENS, Event
from megagraph.home import Home
from megagraph.stream import Listener, Stream

if TYPE_CHECKING:
    from megagraph.workers.office import Office

_SECONDS = 0.1
"""Seconds between two looks at what was written."""


class _Passing(Listener):
    """One who is told tokens here for somebody in the first process."""

    def __init__(self, office: Office, agent: str | None) -> None:
        super().__init__(agent, TOKENS)
        self._office = office

    def tell(self, event: Event) -> None:
        self._office.link.tell("token", event.agent, event.time, dict(event.data))


def pass_on(office: Office, agents: Sequence[str | None]) -> None:
    """From now on, let the first process have the tokens of these agents; None is all of them."""
    office.stream.replace([_Passing(office, agent) for agent in agents])


class Retelling:
    """Tells those who listen in the first process what all processes write, in the order of the database."""

    def __init__(
        self, home: Home, run: str, stream: Stream, wish: Callable[[Sequence[str | None]], None], after: int
    ) -> None:
        self._home = home
        self._run = run
        self._stream = stream
        self._wish = wish
        self._after = after
        """The number of the last event that was told, or need not be."""
        self._task = asyncio.create_task(self._retell())

    async def aclose(self) -> None:
        """Tell what is left."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._home.database.write()
        await self._tell()

    async def _retell(self) -> None:
        ledger = self._home.ledger(self._run)
        while True:
            latest = await asyncio.to_thread(ledger.last_event)
            if not self._stream.listened:
                # Whoever comes later reads what was before from the database.
                self._after = latest
            elif latest > self._after:
                await self._tell()
            self._wish(self._stream.token_wishes())
            await asyncio.sleep(_SECONDS)

    async def _tell(self) -> None:
        for event in await asyncio.to_thread(self._home.ledger(self._run).events, self._after):
            self._after = event.seq
            self._stream.send(event)
