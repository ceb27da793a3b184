"""A picture that follows a run while it works.

It is painted from the loop of `portal`, by what the database says: so it moves wherever the run is at work, in this
cell's loop, in the background or in another process, and while a cell blocks.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from megagraph.errors import HomeError
from megagraph.notebook.shown import bundle, bundle_of, head
from megagraph.portal import start
from megagraph.report.timeline import Timeline

if TYPE_CHECKING:
    from megagraph.run import Run

FRAME = 0.3
"""Seconds between two pictures."""
REST = 20
"""How many times as long as a picture takes, none is made after it."""


class Handle(Protocol):
    """IPython's handle of an output."""

    def update(self, obj: Any, **kwargs: Any) -> None: ...


def show(run: Run) -> Future[None]:
    """Show the run below the cell, and let the picture follow it until the work on it has ended."""
    from IPython.display import display

    handle = display(bundle(run), raw=True, display_id=True)  # type: ignore[no-untyped-call]
    return start(_follow(run, handle))


async def _follow(run: Run, handle: Handle) -> None:
    told = Timeline()
    # The home may be closed before the run has ended; the last picture stays then.
    with suppress(HomeError, sqlite3.ProgrammingError):
        over = await asyncio.to_thread(head, run)
        reader = asyncio.create_task(_read(run, told))
        try:
            while not (await asyncio.wait({reader}, timeout=FRAME))[0]:
                begun = time.thread_time()
                told.until(time.time())
                handle.update(bundle_of(told, over, whole=False), raw=True)
                # However large the organisation, little of the processor goes into its picture.
                await asyncio.sleep(REST * (time.thread_time() - begun))
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        handle.update(await asyncio.to_thread(bundle, run), raw=True)


async def _read(run: Run, told: Timeline) -> None:
    async for event in run:
        told.apply(event)
