"""A notebook's kernel: whether this process is one, and what Ctrl-C in a cell does to a run."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from megagraph.run import Run


def in_kernel() -> bool:
    """Whether this process is a notebook's kernel, which can show and update pictures."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


@dataclass
class _Interrupts:
    """How often Ctrl-C has come."""

    came: int = 0


@asynccontextmanager
async def pausing(run: Run) -> AsyncIterator[None]:
    """In a cell: Ctrl-C, which cancels what the cell awaits, pauses the run, and a line says how to go on.

    Other cancellations, such as a time-out, leave the run at work.
    """
    if not in_kernel() or threading.current_thread() is not threading.main_thread():
        yield
        return
    with _noticed() as interrupts:
        try:
            yield
        except asyncio.CancelledError:
            if interrupts.came:
                await run.pause("stopped by Ctrl-C")
                say_how_to_go_on(run)
            raise


@contextmanager
def _noticed() -> Iterator[_Interrupts]:
    """Count the Ctrl-C, and let them have the effect that they have."""
    interrupts, before = _Interrupts(), signal.getsignal(signal.SIGINT)

    def notice(number: int, frame: Any) -> None:
        interrupts.came += 1
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGINT, notice)
    try:
        yield interrupts
    finally:
        if signal.getsignal(signal.SIGINT) is notice:
            signal.signal(signal.SIGINT, before)


def say_how_to_go_on(run: Run) -> None:
    """A line for whoever has stopped a run in a notebook."""
    if run.status != "done":
        print(f'The run is {run.status}; nothing is lost. Go on with: run = await mega.resume("{run.id[:8]}")')
