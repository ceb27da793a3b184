"""What a tool is, the table of all of them, and how one call is carried out.

A tool returns a `Result`: the text for the model, what changes in the agent's own state, and the rows that
belong to it. The rows, the call's own row and the events that tell of them are committed together, before the
result is used.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langgraph.errors import GraphBubbleUp
from pydantic import BaseModel, ConfigDict, ValidationError

from megagraph.approvals import Matter
from megagraph.database import Statement
from megagraph.errors import SandboxUnavailable, ToolError, UsageError
from megagraph.events import TOLD, News, news_of_letters, shortened
from megagraph.journal import ToolRow
from megagraph.organisation import Organisation
from megagraph.outside_tools import OutsideTool, arguments_of, plain
from megagraph.prompts import ToolText
from megagraph.questions import approve
from megagraph.specs import AgentSpec, Letter
from megagraph.tracing import tool_span
from megagraph.turns import Done, Request, contradiction, groups


class Args(BaseModel):
    """The arguments of a tool; a subclass's docstring is what the model reads about the tool."""

    model_config = ConfigDict(extra="forbid", str_max_length=2_000_000)


@dataclass
class Caller:
    """Who calls, and what of its state the tools need. Effects of earlier calls of the turn are in it."""

    org: Organisation
    spec: AgentSpec
    step: int
    versions: dict[str, str]
    """The version of each file that the agent has last read or written."""
    todo: dict[str, list[str]]
    told: bool
    """Whether it has been told once what is missing from its work."""
    wave: int
    """How many teams it has opened already, one inside the other."""


@dataclass(frozen=True)
class Result:
    """What a tool call came to."""

    text: str
    ok: bool = True
    effects: Mapping[str, Any] = field(default_factory=dict)
    """Changes to the agent's state: `versions`, `todo`, `told`, `plan` (its recruits), `report`. `unfit`: the
    call was not one that could be tried. `saw`: the version of the files that it looked at, for branches."""
    statements: Sequence[Statement] = ()
    news: Sequence[News] = ()
    """What those who watch are told of it, but for its letters and its end."""
    letters: Sequence[Letter] = ()
    """What it sends."""
    after: Callable[[], None] | None = None
    """What follows in memory once the rows are durable, before its letters are delivered."""


@dataclass(frozen=True)
class Shown:
    """What a person is asked to approve. `what` tells one content of it from another."""

    question: str
    what: str = ""


@dataclass(frozen=True)
class Permit:
    """What a person may want to be asked about before a tool is used."""

    matter: Matter
    show: Callable[[Caller, Any], Awaitable[Shown | None]]
    """What they are shown; None where there is nothing to ask. Raises `ToolError` where the call cannot be anyway."""

    async def objection(self, caller: Caller, args: BaseModel, effect: str) -> str:
        """Why a person does not want it; empty where they do, or need not be asked. Waits for their answer."""
        if not getattr(caller.org.approve, self.matter):
            return ""
        while (shown := await self.show(caller, args)) is not None:
            if why := await approve(caller.org, caller.spec.name, effect, self.matter, shown.question, shown.what):
                return why
            if await self.show(caller, args) in (shown, None):
                break
        return ""


@dataclass(frozen=True)
class Tool:
    """One tool: its name, its arguments, and what it does."""

    name: str
    args: type[BaseModel]
    run: Callable[[Caller, Any, str], Awaitable[Result]]
    """Given the caller, the checked arguments, and an id that is the same again after a crash."""
    permit: Permit | None = None

    def schema(self, text: ToolText) -> dict[str, Any]:
        """The tool as an OpenAI function, described as in `text`."""
        parameters = plain(self.args.model_json_schema())
        parameters.pop("description", None)
        for path, description in text.arguments.items():
            _argument(parameters, path.split("."))["description"] = description
        return {
            "type": "function",
            "function": {"name": self.name, "description": text.description, "parameters": parameters},
        }


@dataclass(frozen=True)
class _Ready:
    """A call that can be tried."""

    tool: Tool
    args: BaseModel


class Toolbox:
    """The tools an organisation's agents have."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = {tool.name: tool for tool in tools}

    @property
    def names(self) -> list[str]:
        return list(self._tools)

    def schemas(self, texts: Mapping[str, ToolText]) -> list[dict[str, Any]]:
        """The tools that are described, as OpenAI functions. Raises `UsageError` for a text without its tool."""
        if unknown := sorted(texts.keys() - self._tools.keys()):
            raise UsageError(f"tools.yaml describes {', '.join(unknown)}, and there is no such tool.")
        return [tool.schema(texts[name]) for name, tool in self._tools.items() if name in texts]

    async def perform(self, caller: Caller, requests: Sequence[Request], done: Mapping[int, ToolRow]) -> list[ToolRow]:
        """Carry out the calls of one turn, those in `done` excepted; neighbours of one tool at the same time."""
        rows: list[ToolRow] = []
        for group in groups(requests):
            ended = [Done(row.tool, row.ok, "report" in row.effects) for row in rows]
            # A person is asked one thing after the other.
            ready = [
                None if r.index in done else await self._permitted(caller, r, _why_not(caller, r, requests, ended))
                for r in group
            ]
            calls = [
                self._one(caller, request, call) if call is not None else _done(done[request.index])
                for request, call in zip(group, ready, strict=True)
            ]
            # Most turns ask for one thing, which needs no task of its own.
            finished = [await calls[0]] if len(calls) == 1 else await asyncio.gather(*calls)
            for row in finished:
                _apply(caller, row.effects)
            rows += finished
        return rows

    async def _one(self, caller: Caller, request: Request, ready: _Ready | Result) -> ToolRow:
        org, name = caller.org, caller.spec.name
        started, clock = time.time(), time.monotonic()
        call = {"tool": request.tool, "step": caller.step, "index": request.index}
        org.emit("tool_started", name, **call, args={key: shortened(value) for key, value in request.args.items()})
        result = await (self._traced if org.traced else self._result)(caller, request, ready)
        row = ToolRow(name, caller.step, request.index, request.tool, result.ok, result.text, result.effects)
        seconds = time.monotonic() - clock
        told = {**call, "ok": result.ok, "seconds": round(seconds, 3), "result": result.text[:TOLD]}
        await org.ledger.database.write(
            *result.statements,
            *map(org.ledger.letter, result.letters),
            org.ledger.tool_call(row, args=request.args, started=started, seconds=seconds, version=org.version),
            *org.event_rows([*result.news, *news_of_letters(result.letters), News("tool", name, told)]),
        )
        if result.after is not None:
            result.after()
        for letter in result.letters:
            org.mailroom.deliver(letter)
        return row

    async def _traced(self, caller: Caller, request: Request, ready: _Ready | Result) -> Result:
        """`_result` as a span."""
        span = await tool_span(caller.org.ledger.run, caller.spec.name, caller.step, request.tool, request.args)
        try:
            result = await self._result(caller, request, ready)
        except BaseException as error:
            await span.on_tool_error(error)
            raise
        await (span.on_tool_end(result.text) if result.ok else span.on_tool_error(ToolError(result.text)))
        return result

    async def _permitted(self, caller: Caller, request: Request, contradicted: str) -> _Ready | Result:
        """The call, ready to be made; or why it is not, be it by a person's word."""
        ready = self._ready(caller, request)
        if contradicted and not isinstance(ready, Result):
            return _refusal(caller, request, contradicted)
        if isinstance(ready, Result) or ready.tool.permit is None:
            return ready
        try:
            why = await ready.tool.permit.objection(caller, ready.args, _effect(caller, request))
        except ToolError as error:
            return Result(f"Error: {error}", ok=False)
        return Result(f"Error: not carried out, since a person did not approve it: {why}", ok=False) if why else ready

    def _ready(self, caller: Caller, request: Request) -> _Ready | Result:
        if request.problem:
            return _refusal(caller, request, request.problem)
        described, outside = caller.org.prompts.tools, caller.org.outside
        tool = self._tools.get(request.tool) if request.tool in described else None
        if tool is None:
            theirs = caller.org.outside_of(caller.spec.name)
            if request.tool in theirs and (brought := outside.get(request.tool)) is not None:
                tool = _as_tool(brought, request.args)
            elif request.tool in outside.gone:
                why = "was given to this run before, and is not given any more. Do without it."
                return Result(f"Error: `{request.tool}` {why}", ok=False)
            else:
                has = ", ".join((*described, *theirs))
                return _refusal(caller, request, f"there is no tool `{request.tool}`. Your tools: {has}.")
        try:
            return _Ready(tool, tool.args.model_validate(request.args))
        except ValidationError as error:
            return _refusal(caller, request, f"wrong arguments for `{tool.name}`: {_problems(error)}")

    async def _result(self, caller: Caller, request: Request, ready: _Ready | Result) -> Result:
        if isinstance(ready, Result):
            return ready
        tool = ready.tool
        try:
            return await tool.run(caller, ready.args, _effect(caller, request))
        except (ToolError, SandboxUnavailable) as error:
            return Result(f"Error: {error}", ok=False)
        except GraphBubbleUp:
            raise
        except Exception as error:
            # A fault of a tool is the model's to work around: the run goes on.
            caller.org.emit("failed", caller.spec.name, tool=tool.name, error=repr(error)[:500])
            return Result(f"Error: `{tool.name}` failed: {type(error).__name__}: {error}"[:2000], ok=False)


def _why_not(caller: Caller, request: Request, requests: Sequence[Request], ended: Sequence[Done]) -> str:
    """Why a call is not carried out, although it could be; empty where it is."""
    if caller.org.mailroom.closed(caller.spec.name):
        return "not carried out: you have been dismissed."
    return contradiction(request, requests, ended)


class _Anything(BaseModel):
    """Arguments that somebody else checks."""


def _as_tool(outside: OutsideTool, args: Mapping[str, Any]) -> Tool:
    """A tool from outside as one of ours, for one call."""

    async def run(caller: Caller, _: BaseModel, effect: str) -> Result:
        text, ok = await outside.call(args, effect)
        return Result(text if ok else f"Error: {text}", ok)

    return Tool(outside.name, arguments_of(outside.langchain) or _Anything, run)


def _effect(caller: Caller, request: Request) -> str:
    """The id of what a call does; the same again after a crash."""
    return f"{caller.spec.name}/{caller.step}/{request.index}"


async def _done(row: ToolRow) -> ToolRow:
    return row


def _refusal(caller: Caller, request: Request, why: str) -> Result:
    caller.org.emit("bad_answer", caller.spec.name, step=caller.step, tool=request.tool, why=why[:300])
    return Result(f"Error: {why}", ok=False, effects={"unfit": True})


def _apply(caller: Caller, effects: Mapping[str, Any]) -> None:
    caller.versions.update(effects.get("versions", {}))
    caller.todo.update(effects.get("todo", {}))
    caller.told = effects.get("told", caller.told)


def _problems(error: ValidationError) -> str:
    return "; ".join(
        f"`{'.'.join(map(str, problem['loc'])) or 'arguments'}`: {problem['msg']}" for problem in error.errors()[:8]
    )


def _argument(parameters: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """The schema of an argument, or of an argument of the objects in a list. Raises `UsageError` if none is there."""
    node: dict[str, Any] = {"items": parameters}
    for name in path:
        node = node.get("items", {}).get("properties", {}).get(name)
        if node is None:
            raise UsageError(f"tools.yaml describes the argument {'.'.join(path)}, and there is no such argument.")
    return node
