"""A model that reviews one version of the files by its own looking: it may list, read and run, and change nothing.

Its verdict counts only if it cites what it has run or read, and the ledger has it so. Its calls and what it looked
at are rows like those of agents, under a name with dots that no agent can have, and are not made again after a crash.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage, ToolMessage
from pydantic import Field, ValidationError

from megagraph.asking import Sent, ask_model, reserve
from megagraph.checks import ReviewCheck
from megagraph.conversation import note, requests_of, says_something
from megagraph.errors import BranchStopped, LimitReached, ModelError, ToolError
from megagraph.file_tools import ListFiles, ReadFile, shown_entries, shown_lines
from megagraph.files.workspace import Workspace
from megagraph.gate import Left
from megagraph.inspection import Bench, Finding, run_apart
from megagraph.journal import CallRow, ToolRow
from megagraph.organisation import Organisation
from megagraph.program_tools import RunProgram
from megagraph.prompts import ToolText
from megagraph.specs import BOSS
from megagraph.tokens import counted
from megagraph.tools import Args, Result, Tool
from megagraph.turns import Request

ROUNDS = 12
"""Model calls of one review."""
_MOST_CALLS = 10
"""Tool calls of one turn of it."""


class GiveVerdict(Args):
    """Arguments of `give_verdict`."""

    passed: bool
    reason: str = Field(min_length=1)
    evidence: list[str] = []


@dataclass(frozen=True)
class _Review:
    """One review: what it is of, and the name that its rows have."""

    org: Organisation
    check: ReviewCheck
    bench: Bench
    agent: str
    name: str
    may_ask: bool
    """Whether the agent's own loop waits for it, and can wait for a person."""

    @property
    def workspace(self) -> Workspace:
        return self.bench.workspace


async def _list_files(of: Any, args: ListFiles, effect: str) -> Result:
    entries = await asyncio.to_thread(of.workspace.files, args.pattern, of.bench.version)
    return Result(shown_entries(entries, args.pattern))


async def _read_file(of: Any, args: ReadFile, effect: str) -> Result:
    read = await asyncio.to_thread(of.workspace.read, args.path, of.bench.version)
    return Result(shown_lines(read, args), effects={"versions": {read.path: read.version}})


async def _run_program(of: Any, args: RunProgram, effect: str) -> Result:
    outcome = await run_apart(of.bench, args.path, tuple(args.args), args.stdin)
    return Result(outcome.text(), effects={"saw": of.bench.version})


async def _give_verdict(of: Any, args: GiveVerdict, effect: str) -> Result:
    confirmed = await of.org.ledger.confirmed(of.name, args.evidence, of.bench.version, of.check.files)
    unconfirmed = [id_ for id_ in args.evidence if id_ not in confirmed]
    if unconfirmed or not args.evidence:
        cited = ", ".join(unconfirmed)[:200] or "nothing"
        why = f"the verdict does not count: it cites {cited}, and not what was run or read in this version."
        return Result(f"{why} It was: {args.reason}", effects={"verdict": False})
    return Result(f"{args.reason} (seen: {', '.join(args.evidence)})", effects={"verdict": args.passed})


_TOOLS = {
    tool.name: tool
    for tool in (
        Tool("list_files", ListFiles, _list_files),
        Tool("read_file", ReadFile, _read_file),
        Tool("run_program", RunProgram, _run_program),
        Tool("give_verdict", GiveVerdict, _give_verdict),
    )
}


def reviewer_schemas(texts: Mapping[str, ToolText]) -> list[dict[str, Any]]:
    """The tools of a reviewer, as OpenAI functions."""
    return [tool.schema(texts[name]) for name, tool in _TOOLS.items()]


async def review(
    org: Organisation, check: ReviewCheck, bench: Bench, *, id_: str, agent: str, may_ask: bool = True
) -> Finding:
    """The verdict of a model on an agent's work. Raises what parks the run where it cannot be had now.

    Raises `CostNotApproved` where a person is to be asked and the agent `may_ask` nobody: whoever waits for the review
    asks, and begins it again. What was paid of it by then is not paid again.
    """
    of = _Review(org, check, bench, agent, _name_of(agent, id_, bench.version), may_ask)
    try:
        return await _review(of)
    except (BranchStopped, ModelError) as error:
        if isinstance(error, ModelError) and error.everyone:
            org.failed = org.failed or error.kind != "down"
            org.stop(str(error))
            raise org.park() from error
        return False, f"not reviewed: {error}"
    except LimitReached as error:
        org.stop(error.message)
        raise org.park() from error
    except Left as error:
        raise org.park() from error


def _name_of(agent: str, id_: str, version: str) -> str:
    """The name of a review's rows: whose work it looks at, what for, and the version."""
    return f"{agent}.review.{id_.partition('/')[2].replace('/', '.')}.{version[:12]}"


def occasion_of(name: str) -> str:
    """What a review was for, as the ids of evidence say it, by the name of its rows."""
    agent, _, *what, _ = name.split(".")
    return "/".join((agent, *what))


async def _review(of: _Review) -> Finding:
    prompts = of.org.prompts
    messages: list[BaseMessage] = [SystemMessage(prompts.reviewer(of.agent))]
    heard = prompts.review(of.org.goal, of.check.review, of.check.files)
    for step in range(1, ROUNDS + 1):
        if heard:
            messages.append(HumanMessage(heard))
        row = await _turn(of, step, messages, heard)
        messages.append(row.answer)
        heard = ""
        if not (row.answer.tool_calls or row.answer.invalid_tool_calls):
            if not says_something(row.answer):
                messages.pop()
            heard = note("You called no tool. Look at the files, then call `give_verdict`.")
            continue
        done = await of.org.ledger.finished(of.name, step)
        for request in requests_of(messages, _MOST_CALLS):
            result = done.get(request.index) or await _look(of, step, request)
            if "verdict" in result.effects:
                return bool(result.effects["verdict"]), result.result
            messages.append(ToolMessage(result.result, tool_call_id=request.id))
    return False, f"the reviewer came to no verdict in {ROUNDS} turns"


async def _turn(of: _Review, step: int, messages: Sequence[BaseMessage], heard: str) -> CallRow:
    org = of.org
    # It may have been begun before, by whoever was to wait for it then, in this process or another.
    if (row := await org.ledger.kept(of.name, step)) is not None:
        return row
    known, more = counted(messages)
    tokens = (org.meter.overhead if known is None else known) + more
    claim = None if _is_over(of) else await reserve(org, of.name, step, tokens, of.agent, may_ask=of.may_ask)
    if claim is not None and _is_over(of):
        org.meter.release(claim)
        claim = None
    if claim is None:
        raise org.park() if org.stopped else BranchStopped("the work it reviews is over")
    sent = Sent(messages, [heard] if heard else [])
    asker = replace(org.asker(org.spec(of.agent).lead or BOSS), outside=(), gone=lambda: False)
    return await ask_model(org, claim, org.reviewers, asker, sent, shown_as=of.agent)


def _is_over(of: _Review) -> bool:
    """Whether what is reviewed is nobody's any more. Of the boss's work there are reviews when it is over."""
    return of.agent != BOSS and of.org.mailroom.closed(of.agent)


async def _look(of: _Review, step: int, request: Request) -> ToolRow:
    """Carry out one call of a reviewer's. What it returns begins with the id by which it can be cited."""
    started, clock = time.time(), time.monotonic()
    result = await _result(of, request)
    text = f"[evidence id {step}/{request.index}]\n{result.text}" if _evident(result) else result.text
    row = ToolRow(of.name, step, request.index, request.tool, result.ok, text, result.effects)
    seconds, ledger = time.monotonic() - clock, of.org.ledger
    statement = ledger.tool_call(row, args=request.args, started=started, seconds=seconds, version=of.bench.version)
    await ledger.database.write(statement)
    return row


def _evident(result: Result) -> bool:
    return "saw" in result.effects or "versions" in result.effects


async def _result(of: _Review, request: Request) -> Result:
    tool = _TOOLS.get(request.tool)
    if request.problem or tool is None:
        return Result(f"Error: {request.problem or 'your tools are: ' + ', '.join(_TOOLS)}.", ok=False)
    try:
        # What reviewers' tools are given stands in the caller's place.
        return await tool.run(of, tool.args.model_validate(request.args), "")  # type: ignore[arg-type]
    except (ToolError, ValidationError) as error:
        return Result(f"Error: {error}", ok=False)
