"""Commands that start a run, go on with it, or have a word with one that is at work."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megagraph.cli.options import (
    Approvals,
    BaseUrl,
    Fallback,
    Home,
    Json,
    Leads,
    Leaves,
    LimitOptions,
    Mcp,
    Model,
    Out,
    RunId,
    SetOptions,
    Timeout,
    Unsafe,
    Workers,
    app,
    ended_by_interrupt,
    limits_of,
    must_exist,
    open_home,
    pairs_of,
    print_json,
    rules_of,
)
from megagraph.errors import UsageError

if TYPE_CHECKING:
    from megagraph.mega import MegaGraph
    from megagraph.run import Run


@app.command()
@ended_by_interrupt()
def run(
    goal: Annotated[
        str, typer.Argument(metavar='SCENARIO|"GOAL"', help="A scenario's name (such as gobang) or folder, or a goal.")
    ],
    model: Model = None,
    leads: Leads = None,
    leaves: Leaves = None,
    fallback: Fallback = None,
    base_url: BaseUrl = None,
    limit: LimitOptions = None,
    set_: SetOptions = None,
    approve: Approvals = None,
    mcp: Mcp = None,
    home: Home = None,
    input: Annotated[
        Path | None,
        typer.Option("--input", exists=True, file_okay=False, help="A folder of material to start from; only read."),
    ] = None,
    out: Out = None,
    unsafe_programs: Unsafe = False,
    timeout: Timeout = 300.0,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Start a run, show it while it works, and print its verdict."""
    from megagraph.foreground import work
    from megagraph.mega import MegaGraph
    from megagraph.scenario import find_scenario, shipped_scenarios

    parameters = pairs_of("--set", set_ or [])
    scenario = find_scenario(goal, parameters)
    # A name that was mistyped must not be taken for a goal, and paid for.
    if scenario is None and re.fullmatch(r"[\w.~/\\-]+", goal, re.ASCII):
        raise UsageError(
            f"there is no scenario `{goal[:80]}`, and one word is no goal.",
            f"Shipped scenarios: {', '.join(shipped_scenarios())}. Or name a folder with a scenario.yaml, or say the "
            "goal in a sentence.",
        )
    if scenario is None and parameters:
        raise UsageError("a goal in words has no parameters.", "`--set` goes with a scenario that declares some.")

    async def start(mega: MegaGraph) -> Run:
        return await mega.start(scenario or goal, input=input)

    mega = MegaGraph(
        model,
        limits=limits_of(limit, scenario.limits if scenario else None) if limit else None,
        home=home,
        base_url=base_url,
        timeout=timeout,
        unsafe_programs=unsafe_programs,
        models=rules_of(leads, leaves, fallback),
        approve=approve or None,
        mcp=mcp,
        workers=workers,
    )
    sys.exit(work(mega, start, as_json=as_json, out=out))


@app.command()
@ended_by_interrupt()
def resume(
    run_id: RunId = "last",
    model: Model = None,
    leads: Leads = None,
    leaves: Leaves = None,
    fallback: Fallback = None,
    base_url: BaseUrl = None,
    limit: LimitOptions = None,
    approve: Approvals = None,
    mcp: Mcp = None,
    home: Home = None,
    out: Out = None,
    unsafe_programs: Unsafe = False,
    timeout: Timeout = 300.0,
    workers: Workers = None,
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
            limits = limits_of(limit, Limits.parse(settings["limits"]))
        return await mega.resume(run_id, limits=limits)

    must_exist(home)
    mega = MegaGraph(
        model,
        home=home,
        base_url=base_url,
        timeout=timeout,
        unsafe_programs=unsafe_programs,
        models=rules_of(leads, leaves, fallback),
        approve=approve or None,
        mcp=mcp,
        workers=workers,
    )
    sys.exit(work(mega, start, as_json=as_json, out=out))


@app.command()
def pause(run_id: RunId = "last", home: Home = None, as_json: Json = False) -> None:
    """Stop a run that another process works on. Every agent stops at its next step, and nothing is lost."""
    from megagraph.display import home_option, program
    from megagraph.foreground import dump_result

    with open_home(home) as mega:
        opened = mega.open(run_id)
        result = asyncio.run(opened.pause())
        if as_json:
            print_json(dump_result(result))
            return
        print(f"{result.status}: {result.reason}" if result.reason else result.status)
        if result.status != "done":
            print(f"Go on with: {program()} resume {opened.id[:8]}{home_option(mega.home.path)}")


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
    """Answer an agent's question or approve what it is about to do, or list what is open.

    An approval is answered by `yes`, by `yes, always` for the rest of the run, or by `no: REASON`.

    A run that is at work takes the answer at once; one that waits for it goes on with `resume`.
    """
    from megagraph.display import home_option, program
    from megagraph.view import clean, one_line

    with open_home(home) as mega:
        opened = mega.open(run_id)
        if question is not None:
            if text is None or not text.strip():
                raise UsageError("the answer is missing.", f'Write `megagraph answer {run_id} {question} "…"`.')
            asyncio.run(opened.answer(question, text))
        left, status = opened.questions(), opened.status
    if as_json:
        print_json(left)
        return
    if question is not None:
        print("Answered.")
    for row in left:
        if row["kind"] == "approval":
            # What is to be approved has lines, such as a program's.
            print(f"{row['id']}  {row['agent']} waits for an approval:\n{clean(row['question'])}")
        else:
            print(f"{row['id']}  {row['agent']} asks: {one_line(row['question'], 2000)}")
    if question is None and not left:
        print("No open question.")
    if question is not None and status not in ("running", "done"):
        print(f"Go on with: {program()} resume {opened.id[:8]}{home_option(mega.home.path)}")
