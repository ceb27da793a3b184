"""Commands that look at what happened step by step, and go on from there another way."""

from __future__ import annotations

import asyncio
import datetime
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megagraph.cli.options import (
    BaseUrl,
    Home,
    Json,
    Model,
    Out,
    RunId,
    Timeout,
    Unsafe,
    app,
    limits_of,
    must_exist,
    open_home,
    print_json,
)
from megagraph.errors import UsageError

if TYPE_CHECKING:
    from megagraph.branches.comparison import Comparison
    from megagraph.branches.edits import Edits
    from megagraph.branches.many import Ranked
    from megagraph.branches.plan import BranchPlan
    from megagraph.mega import MegaGraph
    from megagraph.run import Run

_MOST_LINES = 20

SETTABLE = (
    "Known: instructions, model, model:AGENT, goal, todo, plan, message:NUMBER, letter:ID, file:PATH, limit:NAME."
    " A value that begins with @ is read from that file."
)


@app.command()
def history(
    run_id: RunId = "last",
    agent: Annotated[str | None, typer.Argument(metavar="AGENT", help="Only this agent.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List what every agent did, step by step. Each step has an address at which `branch` can begin."""
    from rich.table import Table

    from megagraph.display import terminal
    from megagraph.view import one_line

    with open_home(home) as mega:
        steps = mega.open(run_id).history(agent)
    if as_json:
        print_json([step.dump() for step in steps])
        return
    table = Table(box=None, pad_edge=False)
    for name in ("step", "time", "seconds", "cost", "commit", "what"):
        justify = "right" if name in ("seconds", "cost") else "left"
        table.add_column(name, no_wrap=True, overflow="ellipsis", justify=justify)  # type: ignore[arg-type]
    for step in steps:
        notes = [f"read {len(step.read)} letters" if len(step.read) > 1 else "read a letter"] if step.read else []
        notes += ["reported"] if step.reported else []
        table.add_row(
            step.address,
            datetime.datetime.fromtimestamp(step.time).strftime("%H:%M:%S.%f")[:-3],
            "" if step.seconds is None else f"{step.seconds:.2f}",
            "" if step.cost_usd is None else f"${step.cost_usd:.4f}",
            step.commit[:8],
            one_line(step.what + (f"  ({', '.join(notes)})" if notes else ""), 120),
        )
    terminal().print(table)


@app.command()
def branch(
    run_id: RunId,
    at: Annotated[
        str,
        typer.Option("--at", help="A step (boss:think#2), a checkpoint's id, @SECONDS since the start, @TIME, or now."),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="What is otherwise, such as instructions=@new.txt. Repeatable."
        ),
    ] = None,
    delete: Annotated[
        list[str] | None, typer.Option("--delete", metavar="PATH", help="Begin without this file. Repeatable.")
    ] = None,
    many: Annotated[
        Path | None,
        typer.Option(
            "--many", exists=True, dir_okay=False, help="A YAML or JSON list of changes: a branch for each, at once."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be kept.")] = False,
    start: Annotated[bool, typer.Option("--run", help="Let the branch work at once.")] = False,
    model: Model = None,
    base_url: BaseUrl = None,
    home: Home = None,
    out: Out = None,
    unsafe_programs: Unsafe = False,
    timeout: Timeout = 300.0,
    as_json: Json = False,
) -> None:
    """Go on from any moment of a run in a new one, with something changed. The run itself stays as it is."""
    from megagraph.mega import MegaGraph

    must_exist(home)
    mega = MegaGraph(model, home=home, base_url=base_url, timeout=timeout, unsafe_programs=unsafe_programs)
    opened = mega.open(run_id)
    edits = edits_of(changes or [], delete or [], json.loads(opened.row["settings"])["limits"])
    if many is not None:
        with mega:
            ranked = asyncio.run(mega.branch_many(opened.id, at, _many(many, edits, opened)))
            _print_ranked(ranked, as_json)
        return
    if not start:
        with mega:
            asyncio.run(_branch(opened, at, edits, dry_run=dry_run, as_json=as_json))
        return
    if dry_run:
        raise UsageError("`--dry-run` and `--run` do not go together.", "Leave one of them out.")
    from megagraph.foreground import work

    async def begin(mega: MegaGraph) -> Run:
        plan = await opened.plan_branch(at, edits)
        await mega.check_branch(opened, plan)
        if not as_json:
            _print_plan(plan)
        return await mega.resume((await opened.branch(at, edits)).id)

    sys.exit(work(mega, begin, as_json=as_json, out=out))


@app.command()
def compare(
    run_id: RunId,
    other: Annotated[str, typer.Argument(metavar="OTHER", help="The run to compare it with.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show two runs side by side: verdicts, cost and time, and the agents and files that differ."""
    with open_home(home) as mega:
        comparison = mega.open(run_id).compare(mega.open(other))
    if as_json:
        print_json(comparison.dump())
    else:
        _print_comparison(comparison)


def edits_of(changes: list[str], delete: list[str], limits: dict[str, Any]) -> Edits:
    """What `--set` and `--delete` say. Raises `UsageError` for what cannot be set."""
    from megagraph.branches.edits import Edits
    from megagraph.limits import Limits

    given: dict[str, Any] = {"files": dict.fromkeys(delete)} if delete else {}
    of_limits: list[str] = []
    for change in changes:
        name, sep, value = change.partition("=")
        kind, _, which = name.strip().partition(":")
        if not sep:
            raise UsageError(f"`--set {change}` is not understood.", f"Write it as NAME=VALUE. {SETTABLE}")
        match kind, bool(which):
            case "instructions" | "goal", False:
                given[kind] = _text(value)
            case "model", False:
                given[kind] = value
            case "model", True:
                given.setdefault("model", {})
                if not isinstance(given["model"], dict):
                    raise UsageError("give either model=NAME or model:AGENT=NAME.")
                given["model"][which] = value
            case "todo", False:
                given[kind] = [line.strip() for line in _text(value).splitlines() if line.strip()]
            case "plan", False:
                given[kind] = _plan(_text(value))
            case "message", True:
                given.setdefault("messages", {})[_number(which)] = _text(value)
            case "letter", True:
                given.setdefault("letters", {})[which] = _text(value)
            case "file", True:
                given.setdefault("files", {})[which] = _bytes(value)
            case "limit", True:
                of_limits.append(f"{which}={value}")
            case _:
                raise UsageError(f"`{name}` cannot be set.", SETTABLE)
    if of_limits:
        given["limits"] = limits_of(of_limits, Limits.parse(limits))
    return Edits.of(None, given)


def _many(file: Path, common: Edits, run: Run) -> list[Edits]:
    """The changes of each branch, on top of those that all have."""
    import yaml

    from megagraph.branches.edits import Edits
    from megagraph.limits import Limits

    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is no YAML: {' '.join(str(error).split())[:200]}.") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{file} must be a list with the changes of each branch.", "Such as `- model: openai:NAME`.")
    found = []
    for entry in entries:
        changes = dict(entry)
        if "plan" in changes:
            changes["plan"] = _plan(json.dumps(changes["plan"]))
        if "limits" in changes:
            before = json.loads(run.row["settings"])["limits"]
            changes["limits"] = Limits.parse({**before, **changes["limits"]})
        if "messages" in changes:
            changes["messages"] = {_number(str(key)): text for key, text in changes["messages"].items()}
        found.append(Edits.of(common, changes))
    return found


def _plan(text: str) -> Any:
    from megagraph.branches.edits import PlanEdit

    try:
        data = json.loads(text)
        return PlanEdit(**data)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"the plan is not understood ({error}).",
            'Write JSON: {"add": [{"name": …, "role": …, "instructions": …}], "drop": ["NAME"],'
            ' "change": {"NAME": {"instructions": …}}}',
        ) from error


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(
            f"`message:{text}` is not understood.", "Messages are numbered from 0; -1 is the last."
        ) from None


def _text(value: str) -> str:
    return _bytes(value).decode(errors="replace")


def _bytes(value: str) -> bytes:
    return Path(value[1:]).read_bytes() if value.startswith("@") else value.encode()


async def _branch(run: Run, at: str, edits: Edits, *, dry_run: bool, as_json: bool) -> None:
    from megagraph.view import clean

    plan = await run.plan_branch(at, edits)
    made = None if dry_run else await run.branch(at, edits)
    if as_json:
        print_json({**plan.dump(), "branch": made.id if made else None})
        return
    _print_plan(plan)
    if made is not None:
        print(f"branch {made.id}\nGo on with: megagraph resume {made.id[:8]}{_home(run)}")
    elif plan.edits.dump():
        print(f"With: {clean(', '.join(plan.edits.dump()))}")


def _home(run: Run) -> str:
    from megagraph.display import home_option

    return home_option(run.home)


def _print_plan(plan: BranchPlan) -> None:
    about = plan.dump()
    kept, gone = about["kept"], about["left_out"]
    print(f"A branch of {plan.run[:8]} at {plan.at}")
    print(f"  kept:     {_sums(kept)}")
    print(f"  left out: {_sums(gone)}, {gone['changes_of_files']} changes of files")
    again = [f"{step}  ({plan.why[agent]})" for agent, step in plan.again.items() if step]
    for line in again[:_MOST_LINES]:
        print(f"  again:    {line}")
    if len(again) > _MOST_LINES:
        print(f"            … and {len(again) - _MOST_LINES} other agents (--json names them)")
    if plan.removed:
        more = f" and {len(plan.removed) - _MOST_LINES} others" if len(plan.removed) > _MOST_LINES else ""
        print(f"  not yet recruited: {', '.join(plan.removed[:_MOST_LINES])}{more}")


def _sums(part: dict[str, Any]) -> str:
    cost = "" if part["cost_usd"] is None else f", ${part['cost_usd']:.4f}"
    return f"{part['agents']} agents, {part['calls']} calls, {part['tokens']:,} tokens{cost}"


def _print_ranked(ranked: list[Ranked], as_json: bool) -> None:
    from rich.table import Table

    from megagraph.display import terminal
    from megagraph.view import one_line

    if as_json:
        print_json([each.dump() for each in ranked])
        return
    table = Table(box=None, pad_edge=False)
    for name in ("rank", "run", "status", "checks", "calls", "cost", "changes"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for place, each in enumerate(ranked, 1):
        result = each.result
        cost = "" if result.cost_usd is None else f"${result.cost_usd:.4f}"
        checks = f"{each.passed}/{len(result.verdicts)}" if result.verdicts else ""
        changes = one_line(json.dumps(each.edits.dump(), ensure_ascii=False, default=str), 80)
        table.add_row(str(place), result.run[:8], result.status, checks, str(result.calls), cost, changes)
    terminal().print(table)


def _print_comparison(comparison: Comparison) -> None:
    from rich.table import Table

    from megagraph.display import standing, terminal
    from megagraph.view import clean, clock

    one, other = comparison.runs
    table = Table(box=None, pad_edge=False)
    for name in ("", one.run[:8], other.run[:8]):
        table.add_column(name)
    table.add_row("status", standing(one), standing(other))
    table.add_row(
        "calls", *(_calls(r.calls, kept) for r, kept in zip(comparison.runs, comparison.kept_calls, strict=True))
    )
    table.add_row("tokens", *(f"{r.input_tokens + r.output_tokens:,}" for r in comparison.runs))
    table.add_row("cost", *("?" if r.cost_usd is None else f"${r.cost_usd:.4f}" for r in comparison.runs))
    table.add_row("time", *(clock(r.seconds) for r in comparison.runs))
    marks = {True: "passed", False: "failed", None: "not judged"}
    for check, was, now in comparison.verdicts:
        table.add_row(clean(check), marks[was], marks[now])
    terminal().print(table)
    print(f"\nAgents that differ ({comparison.same_agents} are the same):")
    for agent in comparison.agents:
        print(f"  {agent.name}: {', '.join(agent.what)}  ({agent.calls[0]} and {agent.calls[1]} calls)")
    print(f"\nFiles that differ, from {one.run[:8]} to {other.run[:8]}:")
    for path, status in comparison.files:
        print(f"  {status}: {clean(path)}")


def _calls(calls: int, kept: int) -> str:
    return f"{calls} ({kept} kept)" if kept else str(calls)
