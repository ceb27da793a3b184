"""A run while it works, in a terminal: a living tree, or plain lines where there is no terminal."""

from __future__ import annotations

import asyncio
import sys
import time

from rich.console import Console
from rich.live import Live

from megagraph.run import Run
from megagraph.view import View, plain_line

_FRAME = 0.125
"""Seconds between two pictures."""


async def follow(run: Run, *, quiet: bool = False) -> View:
    """Show the run until this process's work on it has ended."""
    view = View()
    console = Console(highlight=False)
    if quiet or not console.is_terminal:
        async for event in run:
            view.apply(event)
            if not quiet and (line := plain_line(event)):
                print(line, flush=True)
        return view
    first = True
    with Live(console=console, auto_refresh=False, transient=True) as live:
        drawn = 0.0
        async for event in run:
            view.apply(event)
            if first and view.headline:
                live.console.print(f"[italic]{view.headline}[/]  run {run.id[:8]}")
                first = False
            if time.monotonic() - drawn > _FRAME:
                live.update(view.live(console.width, console.height), refresh=True)
                drawn = time.monotonic()
                await asyncio.sleep(0)
    console.print(view.tree(console.width))
    sys.stdout.flush()
    return view
