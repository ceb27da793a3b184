"""A run in the foreground: shown while it works, stopped by signals, its outcome an exit code."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from megagraph.display import follow, print_run
from megagraph.mega import MegaGraph
from megagraph.run import Result, Run
from megagraph.view import View

OK, FAILED, USAGE, NOT_DONE, STOPPED = 0, 1, 2, 3, 130
"""The exit codes of the program, as docs/cli.md tells them."""

Start = Callable[[MegaGraph], Awaitable[Run]]


def work(mega: MegaGraph, start: Start, *, as_json: bool, out: Path | None) -> int:
    """Let a run work until it is done or stopped, show it, and write its files to `out`; the exit code."""
    with mega:
        run, result, view, stopped = asyncio.run(_work(mega, start, quiet=as_json))
        if as_json:
            print(json.dumps(dump_result(result), indent=2))
        else:
            view.credit((file.path, file.last_agent) for file in run.workspace.files())
            print_run(run, result, view, mega.home.path, time.time())
        if out is not None and result.status == "done":
            run.export(out)
            if not as_json:
                print(f"The files are in {out}")
    if result.status == "done":
        return OK if result.passed else FAILED
    return STOPPED if stopped else NOT_DONE


async def _work(mega: MegaGraph, start: Start, *, quiet: bool) -> tuple[Run, Result, View, bool]:
    run: Run | None = None
    signals = 0
    aborting: list[asyncio.Task[Result]] = []

    def on_signal() -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            print("\nStopping at the next safe point. Ctrl-C again stops at once.", file=sys.stderr)
            if run is not None:
                run.stop("stopped by a signal")
        elif run is not None and not aborting:
            aborting.append(loop.create_task(run.abort()))

    loop, since = asyncio.get_running_loop(), time.time()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    run = await start(mega)
    if signals:
        run.stop("stopped by a signal")
    view = await follow(run, since=since, quiet=quiet)
    try:
        result = await run.result()
    except asyncio.CancelledError:
        result = await asyncio.to_thread(run.outcome)
    return run, result, view, signals > 0


def dump_result(result: Result) -> dict[str, Any]:
    """How a run stands, as docs/cli.md describes it."""
    return {
        "run": result.run,
        "status": result.status,
        "reason": result.reason,
        "passed": result.passed,
        "report": result.report.dump() if result.report else None,
        "verdicts": [verdict.dump() for verdict in result.verdicts],
        "calls": result.calls,
        "input_tokens": result.input_tokens,
        "output_tokens": result.output_tokens,
        "cost_usd": result.cost_usd,
        "not_done": list(result.not_done),
        "seconds": round(result.seconds, 3),
        "rehearsal": result.rehearsal,
    }
