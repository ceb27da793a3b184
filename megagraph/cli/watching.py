"""The command that follows a run that another process works on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from typing import TYPE_CHECKING

from megagraph.cli.options import Home, Json, RunId, app, ended_by_interrupt, open_home

if TYPE_CHECKING:
    from megagraph.run import Run


@app.command()
@ended_by_interrupt()
def watch(run_id: RunId = "last", home: Home = None, as_json: Json = False) -> None:
    """Follow a run until it ends, wherever it is at work.

    Ctrl-C only leaves: the run goes on. Of a run that is not at work, it shows how it stands.
    """
    from megagraph.display import follow, print_run
    from megagraph.view import View

    async def look(run: Run) -> View | None:
        """What has been seen to the end; None where the person has left before."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            if not as_json:
                return await follow(run)
            async for event in run:
                print(json.dumps(event.dump()), flush=True)
        return None

    with open_home(home) as mega:
        run = mega.open(run_id)
        view = asyncio.run(look(run))
        if view is not None:
            result = run.outcome()
            view.credit((file.path, file.last_agent) for file in run.workspace.files())
            print_run(run, result, view, mega.home.path, time.time() if result.status == "running" else None)
        elif not as_json:
            print(f"Left run {run.id[:8]}: it is {run.status}.")
