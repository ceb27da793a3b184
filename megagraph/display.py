"""A run in a terminal: a living tree or plain lines while it works, and how it stands."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from megagraph.home import home_path
from megagraph.outline import foot, tree
from megagraph.run import Result, Run
from megagraph.session import REHEARSAL_NOTE
from megagraph.specs import BOSS, Evidence
from megagraph.view import View, clean, one_line, plain_line

FRAME = 0.25
"""Seconds between two pictures."""
REST = 100
"""How many times as long as a picture takes, none is made after it."""


def terminal() -> Console:
    """Standard output. What agents wrote is shown as it is: no markup, no emoji codes."""
    # Nobody reads a pipe at 80 columns: rows stay whole for `grep` and the like.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200
    return Console(highlight=False, markup=False, emoji=False, width=width)


async def follow(run: Run, *, since: float = 0.0, quiet: bool = False) -> View:
    """Show the run until the work on it has ended; what happened before `since` is not told again."""
    view, console = View(), terminal()
    if not quiet:
        row = run.row
        headline = REHEARSAL_NOTE if row["rehearsal"] else f"Model: {clean(row['model'])}"
        console.print(Text(headline, style="italic"))
        console.print(f"run {run.id}")
    if quiet or not console.is_terminal:
        async for event in run:
            view.apply(event)
            if not quiet and event.time >= since and (line := plain_line(event)):
                print(line, flush=True)
        return view
    async with painted(console, view, run.id):
        async for event in run:
            view.apply(event)
    return view


@asynccontextmanager
async def painted(console: Console, view: View, run: str) -> AsyncIterator[None]:
    """Show the run on a terminal as `view` has it, again and again."""
    with Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop") as live:
        painter = asyncio.create_task(_paint(live, view, run))
        try:
            yield
        finally:
            painter.cancel()
            await asyncio.gather(painter, return_exceptions=True)


async def _paint(live: Live, view: View, run: str) -> None:
    while True:
        begun = time.thread_time()
        live.update(picture(view, run, live.console.width, live.console.height), refresh=True)
        # However large the organisation, little of the processor goes into its picture.
        await asyncio.sleep(max(FRAME, REST * (time.thread_time() - begun)))


def picture(view: View, run: str, width: int, height: int) -> Group:
    """The run as it stands, on a screen of this size."""
    below = foot(view, time.time(), width)
    below.stylize("bold")
    if view.judging:
        below.append("\nThe checks are running.")
    elif view.asking:
        below.append(f"\nAnswer with: megagraph answer {run[:8]}", style="yellow")
    # The line of the cursor is left free.
    room = height - 1 - len(below.split())
    return Group(tree(view, width, most=max(1, room)), below)


def print_run(run: Run, result: Result, view: View, home: Path, now: float | None = None) -> None:
    """How a run stands: its tree, its report, the verdict of every check, and what can be done next.

    `now` is given where it is at work, or was until now.
    """
    console = terminal()
    # On a screen the end of a large run is folded, too; a pipe gets every agent.
    console.print(tree(view, console.width, most=max(20, console.height - 12) if console.is_terminal else None))
    if result.report is not None:
        console.print("\nReport", style="bold")
        console.print(Text(clean(result.report.text())))
    if result.not_done:
        console.print("\nNot done", style="bold")
    for line in result.not_done:
        console.print(Text(one_line(line, 300)))
    if shown := _accepted_on(result):
        console.print("\nAccepted on", style="bold")
    for text in shown:
        console.print(text)
    if result.rehearsal:
        console.print(Text(REHEARSAL_NOTE, style="italic"))
    if result.verdicts:
        console.print("\nChecks", style="bold")
    for verdict in result.verdicts:
        mark, style = ("✓", "green") if verdict.passed else ("✗", "bold red")
        detail = one_line(verdict.detail, 300)
        console.print(
            Text.assemble((f"{mark} {clean(verdict.check)}", style), (f"  {detail}" if detail else "", "dim"))
        )
    console.print(Text.assemble("\n", (standing(result), "bold"), f": {clean(result.reason)}" if result.reason else ""))
    # A process that was killed has left no time, and one that was stopped at once no last event.
    console.print(view.totals(view.seconds(now) if now else max(result.seconds, view.seconds())))
    for line in _next_steps(run, result, home):
        # Never broken in two, so that it can be copied.
        console.print(line, soft_wrap=True)


def _accepted_on(result: Result) -> list[Text]:
    """A line for each agent whose work was looked at: what was found the last time, and in which version."""
    last: dict[str, dict[str, list[Evidence]]] = {}
    for item in result.evidence:
        if not item.id.startswith(f"{BOSS}/end/"):
            place, _, _ = item.id.rpartition("/")
            last.setdefault(item.agent, {}).setdefault(place, []).append(item)
    lines = []
    for agent, times in last.items():
        found = list(times.values())[-1]
        failed = [item for item in found if not item.passed]
        mark, style = ("✗", "bold red") if failed else ("✓", "green")
        said = ", ".join(item.check for item in failed or found)
        what = f"  {'failed: ' if failed else ''}{one_line(said, 160)}  in version {found[0].version[:12]}"
        lines.append(Text.assemble((f"{mark} {agent}", style), (what, "dim")))
    return lines


def _next_steps(run: Run, result: Result, home: Path) -> list[str]:
    short, where = run.id[:8], home_option(home)
    if result.status == "done":
        play = f" && cd result && {clean(run.scenario.play)}" if run.scenario.play else ""
        return [f"Use it: {program()} files {short}{where} --out result{play}"]
    steps = []
    for question in run.questions():
        if question["kind"] == "approval":
            steps.append(f"{question['agent']} waits for an approval:\n{clean(question['question'])}")
            steps.append(f"  megagraph answer {short} {question['id']} yes{where}")
            continue
        steps.append(f"{question['agent']} asks: {one_line(question['question'], 2000)}")
        steps.append(f'  {program()} answer {short} {question["id"]} "…"{where}')
    if result.status != "running":
        limit = re.match(r"limit reached: (\w+)=", result.reason)
        more = f" --limit {limit[1]}=…" if limit else ""
        steps.append(f"Go on with: {program()} resume {short}{more}{where}")
    return steps


def standing(result: Result) -> str:
    """How a run stands, in a few words."""
    if result.status != "done":
        return result.status
    if result.passed:
        return f"done, all {len(result.verdicts)} checks passed" if result.verdicts else "done"
    failed = sum(not verdict.passed for verdict in result.verdicts)
    return f"done, {failed} of {len(result.verdicts)} checks failed" if failed else "done, incomplete"


def program() -> str:
    """How to call this program here: by its name where the shell finds it, else as it was called (`make demo`)."""
    called = sys.argv[0]
    if shutil.which("megagraph") or Path(called).name != "megagraph":
        return "megagraph"
    return shlex.quote(min(called, os.path.relpath(called), key=len))


def home_option(home: Path) -> str:
    """What a command needs to find this home again: nothing where it is the default."""
    return "" if home == home_path() else f" --home {shlex.quote(str(home))}"
