"""A run as a notebook shows it: plain text, an SVG picture and a sandboxed frame, from the same events."""

from __future__ import annotations

import time
from dataclasses import replace
from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console

from megagraph.display import standing
from megagraph.notebook import pictures
from megagraph.notebook.frame import frame
from megagraph.notebook.pictures import Head
from megagraph.notebook.svg import Picture
from megagraph.outline import tree
from megagraph.report.timeline import Timeline
from megagraph.view import clean, one_line

if TYPE_CHECKING:
    from megagraph.run import Run

LINES = 40
"""Lines of the plain text."""


def timeline(run: Run) -> Timeline:
    """What the run's events tell so far. Blocks."""
    return Timeline(run.events(), time.time() if run.at_work else None)


def head(run: Run) -> Head:
    """What stands over each picture of the run. Blocks."""
    result = run.outcome()
    if run.at_work:
        # Its row says so a moment later.
        result = replace(result, status="running", reason="")
    passed = result.passed if result.status == "done" else None
    rehearsal = "a rehearsal: no language model was called" if result.rehearsal else ""
    reason = clean(result.reason) if result.status not in ("done", "running") else ""
    asked = [f"{question['agent']} asks: {one_line(question['question'])}" for question in run.questions()]
    note = " · ".join(filter(None, (f"run {run.id[:8]}", reason, *asked[:1], rehearsal)))
    return Head(run.scenario.title or run.row["goal"], standing(result), passed, note)


def bundle(run: Run) -> dict[str, str]:
    """The run as it stands, for whichever front end. Blocks."""
    return bundle_of(timeline(run), head(run), whole=True)


def bundle_of(told: Timeline, over: Head, *, whole: bool) -> dict[str, str]:
    """The same of a run that is known already. One that is not `whole` is quick to make, and has no frame."""
    shown = {"text/plain": plain(told, over), "image/svg+xml": pictures.outline(told, over).text}
    return shown | ({"text/html": frame(told, over)} if whole else {})


def plain(told: Timeline, over: Head) -> str:
    """The organisation as a tree of text."""
    out = StringIO()
    console = Console(
        file=out, force_jupyter=False, width=100, highlight=False, markup=False, emoji=False, color_system=None
    )
    console.print(f"{one_line(over.goal, 90)}\n{one_line(f'{over.standing} · {over.note}')}", soft_wrap=True)
    console.print(tree(told.view, 100, most=LINES))
    console.print(told.view.totals(told.end / 1000), soft_wrap=True)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def time_picture(run: Run, most: int) -> Picture:
    return pictures.time(timeline(run), head(run), most)


def cost_picture(run: Run, by: pictures.By) -> Picture:
    used = run.ledger.used_by()
    priced = bool(run.ledger.cost())
    return pictures.cost(timeline(run).view, used, head(run), priced=priced, by=by)
