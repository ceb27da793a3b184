"""The command line: start, resume and look at runs."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

import typer

from megagraph.errors import MegagraphError, UsageError

if TYPE_CHECKING:
    from megagraph.limits import Limits
    from megagraph.mega import MegaGraph
    from megagraph.run import Result, Run

# Importing LangGraph takes most of a second: every command does it when it needs it, `--help` never.

app = typer.Typer(
    name="megagraph",
    help="One goal, one boss, and an organisation of agents that grows itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

OK, FAILED_CHECKS, USAGE, NOT_DONE, INTERRUPTED = 0, 1, 2, 3, 130

Home = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads the annotation at run time
    typer.Option("--home", envvar="MEGAGRAPH_HOME", help="The folder that keeps the runs. [default: .megagraph]"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, as described in docs/cli.md.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, the beginning of it, or `last`.")]
Model = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--model", help="openai:NAME, or `rehearsal` for a scenario's scripted model."),
]
BaseUrl = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--base-url", envvar="OPENAI_BASE_URL", help="An OpenAI-compatible server."),
]
LimitOption = Annotated[
    list[str],
    typer.Option("--limit", metavar="NAME=VALUE", help="Set a limit, such as calls=200. Repeatable."),
]
Unsafe = Annotated[
    bool,
    typer.Option("--unsafe-programs", help="Run agents' programs without a sandbox where there is none."),
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for one model call.")]


@app.command()
def run(
    goal: Annotated[str, typer.Argument(metavar='SCENARIO|"GOAL"', help="A scenario's name or folder, or a goal.")],
    model: Model = None,
    base_url: BaseUrl = None,
    limit: LimitOption = [],  # noqa: B006
    home: Home = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="Write the files to this folder at the end."),
    ] = None,
    unsafe_programs: Unsafe = False,
    timeout: Timeout = 300.0,
    as_json: Json = False,
) -> None:
    """Start a run, show it while it works, and print its verdict."""
    from megagraph.mega import MegaGraph
    from megagraph.scenario import find_scenario

    async def start(mega: MegaGraph) -> Run:
        return await mega.start(goal)

    scenario = find_scenario(goal)
    base = scenario.limits if scenario else None
    mega = MegaGraph(
        model,
        limits=_limits(limit, base) if limit else None,
        home=home,
        base_url=base_url,
        timeout=timeout,
        unsafe_programs=unsafe_programs,
    )
    _work(mega, start, as_json, out)


@app.command()
def resume(
    run_id: RunId = "last",
    model: Model = None,
    base_url: BaseUrl = None,
    limit: LimitOption = [],  # noqa: B006
    home: Home = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="Write the files to this folder at the end."),
    ] = None,
    unsafe_programs: Unsafe = False,
    timeout: Timeout = 300.0,
    as_json: Json = False,
) -> None:
    """Go on with a run where it was left. No finished model call is paid twice."""
    from megagraph.limits import Limits
    from megagraph.mega import MegaGraph

    async def start(mega: MegaGraph) -> Run:
        limits = None
        if limit:
            settings = json.loads(mega.home.find(run_id)["settings"])
            limits = _limits(limit, Limits.parse(settings["limits"]))
        return await mega.resume(run_id, limits=limits)

    mega = MegaGraph(model, home=home, base_url=base_url, timeout=timeout, unsafe_programs=unsafe_programs)
    _work(mega, start, as_json, out)


@app.command()
def runs(home: Home = None, as_json: Json = False) -> None:
    """List the runs of the home, newest first."""
    from rich.table import Table

    mega = _open(home)
    results = [(run.row, run.outcome()) for run in mega.runs()]
    if as_json:
        _print_json([_result(result) | {"goal": row["goal"], "created": row["created"]} for row, result in results])
        return
    table = Table("run", "status", "scenario or goal", "model", "calls", "started", box=None, pad_edge=False)
    for row, result in results:
        what = row["scenario"] or " ".join(row["goal"].split())[:60]
        table.add_row(result.run[:8], _status(result), what, row["model"], str(result.calls), _date(row["created"]))
    _console().print(table if results else f"No runs in {mega.home.path} yet. Start one with `megagraph run`.")


@app.command()
def show(run_id: RunId = "last", home: Home = None, as_json: Json = False) -> None:
    """Show a run: the tree of agents with their state, calls and tokens, the files, and the verdict."""
    from megagraph.view import View

    opened = _open(home).open(run_id)
    view, result = View.of(opened.events()), opened.outcome()
    if as_json:
        _print_json(
            _result(result)
            | {
                "goal": opened.row["goal"],
                "agents": [agent.dump() for agent in view.agents.values()],
                "files": list(opened.files),
                "questions": opened.questions(),
            }
        )
        return
    console = _console()
    console.print(f"run {opened.id}")
    console.print(view.tree(console.width))
    console.print(view.totals())
    _print_outcome(opened, result)


@app.command()
def files(
    run_id: RunId = "last",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", help="Write the files to this folder."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files there that differ.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List a run's files, or write them to a folder."""
    opened = _open(home).open(run_id)
    entries = opened.workspace.files()
    if out is not None:
        opened.export(out, overwrite=overwrite)
    if as_json:
        _print_json([{"path": e.path, "bytes": e.size, "agent": e.last_agent} for e in entries])
        return
    for entry in entries:
        print(f"{entry.size:>9}  {entry.last_agent:<20} {entry.path}")
    if out is not None:
        print(f"{len(entries)} files written to {out}")


@app.command()
def log(
    run_id: RunId = "last",
    agent: Annotated[Optional[str], typer.Argument(help="Only this agent.")] = None,  # noqa: UP045
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Print what happened in a run, a line per event."""
    from megagraph.view import plain_line

    opened = _open(home).open(run_id)
    events = opened.events(agent)
    if agent is not None and not events:
        known = ", ".join(spec.name for spec, _, _ in _open(home).home.ledger(opened.id).agents())
        raise UsageError(f"run {opened.id[:8]} has no agent `{agent}`.", f"It has: {known}.")
    for event in events:
        if as_json:
            print(json.dumps(event.dump(), ensure_ascii=False, default=str))
        elif line := plain_line(event):
            print(line)


@app.command()
def answer(
    run_id: RunId,
    question: Annotated[Optional[str], typer.Argument(help="The question's id; without, list them.")] = None,  # noqa: UP045
    text: Annotated[Optional[str], typer.Argument(help="The answer.")] = None,  # noqa: UP045
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Answer an agent's question to you, or list the open ones. `resume` then goes on with the run."""
    mega = _open(home)
    opened = mega.open(run_id)
    if question is not None and text is not None:
        asyncio.run(opened.answer(question, text))
    open_ = opened.questions()
    if as_json:
        _print_json(open_)
    elif open_:
        for row in open_:
            print(f"{row['id']}  {row['agent']} asks: {row['question']}")
    else:
        print(f"No open question. `megagraph resume {opened.id[:8]}` goes on.")


def main() -> None:
    """The program. Errors a person can mend are one line and a non-zero exit."""
    try:
        app(standalone_mode=True)
    except MegagraphError as error:
        _fail(error)
    except BrokenPipeError:
        sys.exit(OK)


def _fail(error: MegagraphError) -> NoReturn:
    print(f"megagraph: {error}", file=sys.stderr)
    sys.exit(USAGE)


def _open(home: Path | None) -> MegaGraph:
    from megagraph.mega import MegaGraph

    return MegaGraph(home=home)


def _limits(options: list[str], base: Limits | None) -> Limits:
    from megagraph.limits import Limits

    values = (base or Limits()).model_dump()
    for option in options:
        name, sep, value = option.partition("=")
        if not sep:
            raise UsageError(f"`--limit {option}` is not understood.", "Write it as NAME=VALUE.")
        values[name.strip()] = value.strip()
    return Limits.parse(values)


def _work(
    mega: MegaGraph,
    start: Callable[[MegaGraph], Coroutine[Any, Any, Run]],
    as_json: bool,
    out: Path | None,
) -> NoReturn:
    """Let a run work to its end in the foreground, and exit with what came of it."""
    with mega:
        opened, result, stopped = asyncio.run(_follow(mega, start, as_json))
        if out is not None and result.status == "done":
            opened.export(out)
        if as_json:
            _print_json(_result(result))
        else:
            _print_outcome(opened, result)
            if out is not None and result.status == "done":
                print(f"The files are in {out}")
    if stopped:
        sys.exit(INTERRUPTED)
    if result.status != "done":
        sys.exit(NOT_DONE)
    sys.exit(OK if result.passed else FAILED_CHECKS)


async def _follow(
    mega: MegaGraph, start: Callable[[MegaGraph], Coroutine[Any, Any, Run]], as_json: bool
) -> tuple[Run, Result, bool]:
    from megagraph.display import follow

    opened = await start(mega)
    loop, signals = asyncio.get_running_loop(), 0

    def on_signal() -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            print("\nStopping at the next safe point; once more stops at once.", file=sys.stderr)
            opened.stop("stopped by a signal")
        else:
            stopping.append(loop.create_task(opened.abort()))

    stopping: list[asyncio.Task[Result]] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    await follow(opened, quiet=as_json)
    try:
        result = await opened.result()
    except asyncio.CancelledError:
        result = opened.outcome()
    return opened, result, signals > 0


def _print_outcome(opened: Run, result: Result) -> None:
    from rich.text import Text

    from megagraph.run import REHEARSAL_NOTE

    console = _console()
    if result.report is not None:
        console.print("\n[bold]Report[/]")
        console.print(Text(result.report.text()))
    if result.rehearsal:
        console.print(Text(REHEARSAL_NOTE, style="italic"))
    for verdict in result.verdicts:
        mark, style = ("✓", "green") if verdict.passed else ("✗", "bold red")
        console.print(Text.assemble((f"{mark} {verdict.check}", style), (f"  {verdict.detail}"[:300], "dim")))
    console.print(
        Text.assemble(
            (f"\n{_status(result)}", "bold"),
            f" · {result.calls} calls · {result.input_tokens:,} + {result.output_tokens:,} tokens"
            f" · {result.seconds:.1f} s" + (f" · {result.reason}" if result.reason else ""),
        )
    )
    short = result.run[:8]
    for question in opened.questions():
        console.print(Text(f"{question['agent']} asks: {question['question']}", style="yellow"))
        console.print(f'  megagraph answer {short} {question["id"]} "…"')
    if result.status != "done":
        console.print(f"Go on with: megagraph resume {short}")
    elif opened.scenario.play:
        console.print(f"Use it: megagraph files {short} --out result && cd result && {opened.scenario.play}")


def _result(result: Result) -> dict[str, Any]:
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
        "seconds": round(result.seconds, 3),
        "rehearsal": result.rehearsal,
    }


def _status(result: Result) -> str:
    if result.status != "done":
        return result.status
    if result.passed:
        return f"done, all {len(result.verdicts)} checks passed" if result.verdicts else "done"
    failed = sum(not verdict.passed for verdict in result.verdicts)
    return f"done, {failed} of {len(result.verdicts)} checks failed" if failed else "done, incomplete"


def _date(seconds: float) -> str:
    import datetime

    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def _print_json(data: Any) -> None:
    print(json.dumps(data, ensure_ascii=False, indent=2, default=str))


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)
