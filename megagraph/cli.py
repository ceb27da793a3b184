"""The command line: start, resume and look at runs."""

from __future__ import annotations

import asyncio
import datetime
import json
import re
import sqlite3
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from megagraph.errors import HomeError, MegagraphError, UsageError

if TYPE_CHECKING:
    from megagraph.limits import Limits
    from megagraph.mega import MegaGraph
    from megagraph.run import Run

# Importing LangGraph takes most of a second: every command does it when it needs it, `--help` never.

app = typer.Typer(
    name="megagraph",
    help="One goal, one boss, and an organisation of agents that grows itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

USAGE = 2
"""The exit code where what was asked for cannot be."""

Home = Annotated[
    Path | None,
    typer.Option("--home", envvar="MEGAGRAPH_HOME", help="The folder that keeps the runs.  [default: .megagraph]"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, as docs/cli.md describes it.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, the beginning of it, or `last`.")]
Model = Annotated[
    str | None,
    typer.Option("--model", help="openai:NAME, or `rehearsal` for a scenario's scripted model."),
]
BaseUrl = Annotated[
    str | None,
    typer.Option("--base-url", envvar="OPENAI_BASE_URL", help="An OpenAI-compatible server."),
]
LimitOptions = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="NAME=VALUE", help="Set a limit, such as calls=200. Repeatable."),
]
Out = Annotated[Path | None, typer.Option("--out", file_okay=False, help="Write the files to this folder.")]
Unsafe = Annotated[
    bool,
    typer.Option("--unsafe-programs", help="Run agents' programs without a sandbox where there is none."),
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for one model call.")]


@app.command()
def run(
    goal: Annotated[
        str, typer.Argument(metavar='SCENARIO|"GOAL"', help="A scenario's name (such as gobang) or folder, or a goal.")
    ],
    model: Model = None,
    base_url: BaseUrl = None,
    limit: LimitOptions = None,
    home: Home = None,
    input: Annotated[
        Path | None,
        typer.Option("--input", exists=True, file_okay=False, help="A folder of material to start from; only read."),
    ] = None,
    out: Out = None,
    unsafe_programs: Unsafe = False,
    timeout: Timeout = 300.0,
    as_json: Json = False,
) -> None:
    """Start a run, show it while it works, and print its verdict."""
    from megagraph.foreground import work
    from megagraph.mega import MegaGraph
    from megagraph.scenario import find_scenario, shipped_scenarios

    scenario = find_scenario(goal)
    # A name that was mistyped must not be taken for a goal, and paid for.
    if scenario is None and re.fullmatch(r"[\w.~/\\-]+", goal, re.ASCII):
        raise UsageError(
            f"there is no scenario `{goal[:80]}`, and one word is no goal.",
            f"Shipped scenarios: {', '.join(shipped_scenarios())}. Or name a folder with a scenario.yaml, or say the "
            "goal in a sentence.",
        )

    async def start(mega: MegaGraph) -> Run:
        return await mega.start(scenario or goal, input=input)

    mega = MegaGraph(
        model,
        limits=_limits(limit, scenario.limits if scenario else None) if limit else None,
        home=home,
        base_url=base_url,
        timeout=timeout,
        unsafe_programs=unsafe_programs,
    )
    sys.exit(work(mega, start, as_json=as_json, out=out))


@app.command()
def resume(
    run_id: RunId = "last",
    model: Model = None,
    base_url: BaseUrl = None,
    limit: LimitOptions = None,
    home: Home = None,
    out: Out = None,
    unsafe_programs: Unsafe = False,
    timeout: Timeout = 300.0,
    as_json: Json = False,
) -> None:
    """Go on with a run where it was left.

    No model call that was answered is made again. Limits, model and server are those of before, but for what is given.
    """
    from megagraph.foreground import work
    from megagraph.limits import Limits
    from megagraph.mega import MegaGraph

    async def start(mega: MegaGraph) -> Run:
        limits = None
        if limit:
            settings = json.loads(mega.home.find(run_id)["settings"])
            limits = _limits(limit, Limits.parse(settings["limits"]))
        return await mega.resume(run_id, limits=limits)

    _must_exist(home)
    mega = MegaGraph(model, home=home, base_url=base_url, timeout=timeout, unsafe_programs=unsafe_programs)
    sys.exit(work(mega, start, as_json=as_json, out=out))


@app.command()
def runs(home: Home = None, as_json: Json = False) -> None:
    """List the runs of the home, newest first."""
    from rich.table import Table

    from megagraph.display import terminal
    from megagraph.foreground import dump_result
    from megagraph.home import home_path, is_home
    from megagraph.run import Run
    from megagraph.scenario import Scenario
    from megagraph.view import clean, one_line

    rows: list[dict[str, Any]] = []
    results = []
    if is_home(home_path(home)):
        with _open(home) as mega:
            rows = mega.home.runs()
            # A list does not need the scenarios, which may have gone or been broken since.
            results = [Run(mega.home, row["run"], Scenario(row["goal"])).outcome() for row in rows]
    if as_json:
        _print_json(
            [
                dump_result(result) | {key: row[key] for key in ("goal", "scenario", "model", "created")}
                for row, result in zip(rows, results, strict=True)
            ]
        )
        return
    if not rows:
        print(f"No runs in {home_path(home)} yet. Start one with `megagraph run`.")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("run", "status", "checks", "scenario or goal", "model", "calls", "started"):
        table.add_column(name, no_wrap=True, overflow="ellipsis", justify="right" if name == "calls" else "left")
    for row, result in zip(rows, results, strict=True):
        passed = sum(verdict.passed for verdict in result.verdicts)
        checks = f"{passed}/{len(result.verdicts)}" if result.verdicts else ""
        status = "incomplete" if result.status == "done" and not result.passed and not checks else result.status
        started = datetime.datetime.fromtimestamp(row["created"]).strftime("%m-%d %H:%M")
        what = clean(row["scenario"]) or one_line(row["goal"], 60)
        table.add_row(result.run[:8], status, checks, what, clean(row["model"]), str(result.calls), started)
    terminal().print(table)


@app.command()
def show(run_id: RunId = "last", home: Home = None, as_json: Json = False) -> None:
    """Show a run: its agents, its report and its verdicts."""
    from megagraph.display import print_run
    from megagraph.foreground import dump_result
    from megagraph.view import View

    with _open(home) as mega:
        opened = mega.open(run_id)
        view, result = View.of(opened.events()), opened.outcome()
        view.credit((file.path, file.last_agent) for file in opened.workspace.files())
        if as_json:
            _print_json(
                dump_result(result)
                | {key: opened.row[key] for key in ("goal", "scenario", "model", "created")}
                | {
                    "agents": [agent.dump() for agent in view.agents.values()],
                    "files": list(opened.files),
                    "questions": opened.questions(),
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

    with _open(home) as mega:
        opened = mega.open(run_id)
        entries = opened.workspace.files()
        if out is not None:
            opened.export(out, overwrite=overwrite)
    if as_json:
        _print_json([{"path": e.path, "bytes": e.size, "agent": e.last_agent} for e in entries])
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

    with _open(home) as mega:
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

    with _open(home) as mega:
        for change in mega.open(run_id).diff(mega.open(other)):
            print(f"{change.status}: {clean(change.path)}")
            for line in change.patch.splitlines():
                print(clean(line))


@app.command()
def pause(run_id: RunId = "last", home: Home = None, as_json: Json = False) -> None:
    """Stop a run that another process works on. Every agent stops at its next step, and nothing is lost."""
    from megagraph.display import home_option
    from megagraph.foreground import dump_result

    with _open(home) as mega:
        opened = mega.open(run_id)
        result = asyncio.run(opened.pause())
        if as_json:
            _print_json(dump_result(result))
            return
        print(f"{result.status}: {result.reason}" if result.reason else result.status)
        if result.status != "done":
            print(f"Go on with: megagraph resume {opened.id[:8]}{home_option(mega.home.path)}")


@app.command()
def answer(
    run_id: RunId,
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="The question's id; without, list the open ones.")
    ] = None,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="The answer.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Answer an agent's question, or list the open ones.

    A run that is at work takes the answer at once; one that waits for it goes on with `resume`.
    """
    from megagraph.display import home_option
    from megagraph.view import one_line

    with _open(home) as mega:
        opened = mega.open(run_id)
        if question is not None:
            if text is None or not text.strip():
                raise UsageError("the answer is missing.", f'Write `megagraph answer {run_id} {question} "…"`.')
            asyncio.run(opened.answer(question, text))
        left, status = opened.questions(), opened.status
    if as_json:
        _print_json(left)
        return
    if question is not None:
        print("Answered.")
    for row in left:
        print(f"{row['id']}  {row['agent']} asks: {one_line(row['question'], 2000)}")
    if question is None and not left:
        print("No open question.")
    if question is not None and status not in ("running", "done"):
        print(f"Go on with: megagraph resume {opened.id[:8]}{home_option(mega.home.path)}")


def main(args: Sequence[str] | None = None) -> None:
    """The program. What a person can mend is told in one line, and the exit code is not 0."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a sign of the tree gets another one instead of an error.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app(args, prog_name="megagraph")
    except MegagraphError as error:
        _fail(error)
    except sqlite3.DatabaseError as error:
        what = f"the database of the home cannot be used ({error})."
        _fail(HomeError(what, "Restore it from a copy, or name another --home."))
    except OSError as error:
        _fail(UsageError(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}."))


def _fail(error: MegagraphError) -> NoReturn:
    print(f"megagraph: {error}", file=sys.stderr)
    sys.exit(USAGE)


def _open(home: Path | None) -> MegaGraph:
    """The home to look at. Looking makes none."""
    _must_exist(home)
    from megagraph.mega import MegaGraph

    return MegaGraph(home=home)


def _must_exist(home: Path | None) -> None:
    from megagraph.home import home_path, is_home

    path = home_path(home)
    if not is_home(path):
        raise HomeError(f"there are no runs in {path}.", "Start one with `megagraph run`, or name another --home.")


def _limits(options: list[str], base: Limits | None) -> Limits:
    from megagraph.limits import Limits

    values = (base or Limits()).model_dump()
    for option in options:
        name, sep, value = option.partition("=")
        if not sep:
            raise UsageError(f"`--limit {option}` is not understood.", "Write it as NAME=VALUE.")
        values[name.strip()] = value.strip()
    return Limits.parse(values)


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, default=str))
