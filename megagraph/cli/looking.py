"""Commands that show what has happened in runs."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megagraph.cli.options import Home, Json, Out, RunId, app, open_home, print_json
from megagraph.errors import UsageError

if TYPE_CHECKING:
    from rich.tree import Tree

    from megagraph.run import Result


@app.command()
def runs(
    tree: Annotated[bool, typer.Option("--tree", help="Show each run below the one that it is a branch of.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List the runs of the home, newest first."""
    from rich.table import Table

    from megagraph.approvals import dollars
    from megagraph.display import terminal
    from megagraph.foreground import dump_result
    from megagraph.home import home_path, is_home
    from megagraph.run import Run
    from megagraph.scenario import Scenario
    from megagraph.view import clean, one_line

    rows: list[dict[str, Any]] = []
    results = []
    if is_home(home_path(home)):
        with open_home(home) as mega:
            rows = mega.home.runs()
            # A list does not need the scenarios, which may have gone or been broken since.
            results = [Run(mega.home, row["run"], Scenario(row["goal"])).outcome() for row in rows]
    if as_json:
        print_json(
            [
                dump_result(result)
                | {key: row[key] for key in ("goal", "scenario", "model", "created", "parent", "at")}
                for row, result in zip(rows, results, strict=True)
            ]
        )
        return
    if not rows:
        print(f"No runs in {home_path(home)} yet. Start one with `megagraph run`.")
        return
    if tree:
        for picture in _families(rows, results):
            terminal().print(picture)
        return
    table = Table(box=None, pad_edge=False)
    for name in ("run", "status", "checks", "scenario or goal", "model", "calls", "cost", "started"):
        right = name in ("calls", "cost")
        table.add_column(name, no_wrap=True, overflow="ellipsis", justify="right" if right else "left")
    for row, result in zip(rows, results, strict=True):
        status, checks = _status(result), _checks(result)
        started = datetime.datetime.fromtimestamp(row["created"]).strftime("%m-%d %H:%M")
        what = clean(row["scenario"]) or one_line(row["goal"], 60)
        cost = dollars(result.cost_usd) if result.cost_usd else ""
        table.add_row(result.run[:8], status, checks, what, clean(row["model"]), str(result.calls), cost, started)
    terminal().print(table)


def _checks(result: Result) -> str:
    passed = sum(verdict.passed for verdict in result.verdicts)
    return f"{passed}/{len(result.verdicts)}" if result.verdicts else ""


def _status(result: Result) -> str:
    return "incomplete" if result.status == "done" and not result.passed and not result.verdicts else result.status


def _families(rows: list[dict[str, Any]], results: list[Result]) -> Iterator[Tree]:
    """A tree for each run that is no branch of one that is there, the newest first."""
    from rich.text import Text
    from rich.tree import Tree

    from megagraph.view import clean, one_line

    nodes = {}
    for row, result in zip(rows, results, strict=True):
        checks = f"  {_checks(result)}" if result.verdicts else ""
        cost = "" if result.cost_usd is None else f"  ${result.cost_usd:.4f}"
        where = f"at {clean(row['at'])}" if row["at"] else one_line(row["goal"], 60)
        calls = f"{result.calls} call{'' if result.calls == 1 else 's'}"
        nodes[row["run"]] = Tree(Text(f"{row['run'][:8]}  {_status(result)}{checks}  {calls}{cost}  {where}"))
    for row in reversed(rows):
        if row["parent"] in nodes:
            nodes[row["parent"]].children.append(nodes[row["run"]])
    yield from (nodes[row["run"]] for row in rows if row["parent"] not in nodes)


@app.command()
def show(run_id: RunId = "last", home: Home = None, as_json: Json = False) -> None:
    """Show a run: its agents, its report and its verdicts."""
    from megagraph.display import print_run
    from megagraph.foreground import dump_result
    from megagraph.view import View

    with open_home(home) as mega:
        opened = mega.open(run_id)
        view, result = View.of(opened.events()), opened.outcome()
        view.credit((file.path, file.last_agent) for file in opened.workspace.files())
        if as_json:
            print_json(
                dump_result(result)
                | {key: opened.row[key] for key in ("goal", "scenario", "model", "created", "parent", "at")}
                | {
                    "agents": [agent.dump() for agent in view.agents.values()],
                    "files": list(opened.files),
                    "questions": opened.questions(),
                    "evidence": [item.dump() for item in result.evidence],
                }
            )
            return
        print(f"run {opened.id}")
        now = time.time() if result.status == "running" else None
        print_run(opened, result, view, mega.home.path, now)


@app.command()
def files(
    run_id: RunId = "last",
    out: Out = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files there that differ.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List a run's files, or write them to a folder."""
    from megagraph.view import clean

    with open_home(home) as mega:
        opened = mega.open(run_id)
        entries = opened.workspace.files()
        if out is not None:
            opened.export(out, overwrite=overwrite)
    if as_json:
        print_json([{"path": e.path, "bytes": e.size, "agent": e.last_agent} for e in entries])
    elif out is not None:
        print(f"{len(entries)} files written to {out}")
    elif not entries:
        print("No files yet.")
    else:
        for entry in entries:
            print(f"{entry.size:>9,}  {entry.last_agent:<20} {clean(entry.path)}")


@app.command()
def log(
    run_id: RunId = "last",
    agent: Annotated[str | None, typer.Argument(metavar="AGENT", help="Only this agent.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Print what happened in a run, a line per event."""
    from megagraph.view import plain_line

    with open_home(home) as mega:
        opened = mega.open(run_id)
        events = opened.events(agent)
        names = [spec.name for spec, _, _ in mega.home.ledger(opened.id).agents()]
    if agent is not None and agent not in names:
        raise UsageError(f"run {opened.id[:8]} has no agent `{agent}`.", f"It has: {', '.join(names)}.")
    for event in events:
        if as_json:
            print(json.dumps(event.dump(), default=str))
        elif line := plain_line(event):
            print(line)


@app.command()
def diff(run_id: RunId, other: Annotated[str, typer.Argument(metavar="OTHER")], home: Home = None) -> None:
    """Show how the files of a run differ from those of another run: what leads from OTHER to RUN."""
    from megagraph.view import clean

    with open_home(home) as mega:
        for change in mega.open(run_id).diff(mega.open(other)):
            print(f"{change.status}: {clean(change.path)}")
            for line in change.patch.splitlines():
                print(clean(line))
