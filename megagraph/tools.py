"""What a tool is, the table of all of them, and how one call is carried out.

A tool returns a `Result`: the text for the model, what changes in the agent's own state, and the rows that
belong to it. The rows and the call's own row are committed together, before the result is used.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from langgraph.errors import GraphBubbleUp
from pydantic import BaseModel, ConfigDict, ValidationError

from megagraph.database import Statement
from megagraph.errors import SandboxUnavailable, ToolError, UsageError
from megagraph.ledger import ToolRow
from megagraph.organisation import Organisation
from megagraph.prompts import ToolText
from megagraph.specs import AgentSpec
from megagraph.tracing import tool_span

_TOLD = 200
"""Characters of an argument or a result that those who watch are told."""


class Args(BaseModel):
    """The arguments of a tool; a subclass's docstring is what the model reads about the tool."""

    model_config = ConfigDict(extra="forbid", str_max_length=400_000)


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
    after: Callable[[], None] | None = None
    """What follows in memory once the rows are durable."""


@dataclass(frozen=True)
class Tool:
    """One tool: its name, its arguments, and what it does."""

    name: str
    args: type[Args]
    run: Callable[[Caller, Any, str], Awaitable[Result]]
    """Given the caller, the checked arguments, and an id that is the same again after a crash."""

    def schema(self, text: ToolText) -> dict[str, Any]:
        """The tool as an OpenAI function, described as in `text`."""
        parameters = _plain(self.args.model_json_schema())
        parameters.pop("description", None)
        for path, description in text.arguments.items():
            _argument(parameters, path.split("."))["description"] = description
        return {
            "type": "function",
            "function": {"name": self.name, "description": text.description, "parameters": parameters},
        }


@dataclass(frozen=True)
class Request:
    """One tool call of a turn as the model wrote it. `problem` says why it cannot even be tried."""

    index: int
    id: str
    tool: str
    args: Mapping[str, Any]
    problem: str = ""


class Toolbox:
    """The tools an organisation's agents have."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self._tools = {tool.name: tool for tool in tools}

    def schemas(self, texts: Mapping[str, ToolText]) -> list[dict[str, Any]]:
        """The tools that are described, as OpenAI functions. Raises `UsageError` for a text without its tool."""
        if unknown := sorted(texts.keys() - self._tools.keys()):
            raise UsageError(f"tools.yaml describes {', '.join(unknown)}, and there is no such tool.")
        return [tool.schema(texts[name]) for name, tool in self._tools.items() if name in texts]

    async def perform(self, caller: Caller, requests: Sequence[Request], done: Mapping[int, ToolRow]) -> list[ToolRow]:
        """Carry out the calls of one turn, those in `done` excepted; neighbours of one tool at the same time."""
        rows: list[ToolRow] = []
        for group in _groups(requests):
            why = ""
            if any("report" in row.effects for row in rows):
                why = "not carried out: with `finish` your turn was over."
            elif caller.org.mailroom.closed(caller.spec.name):
                why = "not carried out: you have been dismissed."
            if why:
                group = [replace(request, problem=request.problem or why) for request in group]
            finished = await asyncio.gather(*(self._one(caller, request, done.get(request.index)) for request in group))
            for row in finished:
                _apply(caller, row.effects)
            rows += finished
        return rows

    async def _one(self, caller: Caller, request: Request, done: ToolRow | None) -> ToolRow:
        if done is not None:
            return done
        org, name = caller.org, caller.spec.name
        started, clock = time.time(), time.monotonic()
        call = {"tool": request.tool, "step": caller.step, "index": request.index}
        org.emit("tool_started", name, **call, args={key: _shortened(value) for key, value in request.args.items()})
        result = await (self._traced(caller, request) if org.traced else self._result(caller, request))
        row = ToolRow(name, caller.step, request.index, request.tool, result.ok, result.text, result.effects)
        seconds = time.monotonic() - clock
        statement = org.ledger.tool_call(row, args=request.args, started=started, seconds=seconds, version=org.version)
        await org.ledger.database.write(*result.statements, statement)
        if result.after is not None:
            result.after()
        org.emit("tool", name, **call, ok=result.ok, seconds=round(seconds, 3), result=result.text[:_TOLD])
        return row

    async def _traced(self, caller: Caller, request: Request) -> Result:
        """`_result` as a span."""
        span = await tool_span(caller.org.ledger.run, caller.spec.name, caller.step, request.tool, request.args)
        try:
            result = await self._result(caller, request)
        except BaseException as error:
            await span.on_tool_error(error)
            raise
        await (span.on_tool_end(result.text) if result.ok else span.on_tool_error(ToolError(result.text)))
        return result

    async def _result(self, caller: Caller, request: Request) -> Result:
        described = caller.org.prompts.tools
        tool = self._tools.get(request.tool) if request.tool in described else None
        if request.problem:
            return _refusal(caller, request, request.problem)
        if tool is None:
            return _refusal(caller, request, f"there is no tool `{request.tool}`. Your tools: {', '.join(described)}.")
        try:
            args = tool.args.model_validate(request.args)
        except ValidationError as error:
            return _refusal(caller, request, f"wrong arguments for `{tool.name}`: {_problems(error)}")
        try:
            return await tool.run(caller, args, f"{caller.spec.name}/{caller.step}/{request.index}")
        except (ToolError, SandboxUnavailable) as error:
            return Result(f"Error: {error}", ok=False)
        except GraphBubbleUp:
            raise
        except Exception as error:
            # A fault of a tool is the model's to work around: the run goes on.
            caller.org.emit("failed", caller.spec.name, tool=tool.name, error=repr(error)[:500])
            return Result(f"Error: `{tool.name}` failed: {type(error).__name__}: {error}"[:2000], ok=False)


def _refusal(caller: Caller, request: Request, why: str) -> Result:
    caller.org.emit("bad_answer", caller.spec.name, step=caller.step, tool=request.tool, why=why[:300])
    return Result(f"Error: {why}", ok=False, effects={"unfit": True})


def _shortened(value: Any) -> Any:
    """A value as those who watch are told it."""
    if isinstance(value, bool | int | float | None):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text[:_TOLD]


def _groups(requests: Sequence[Request]) -> list[list[Request]]:
    """Runs of neighbouring calls that may go on at the same time: one tool, different paths."""
    groups: list[list[Request]] = []
    for request in requests:
        last = groups[-1] if groups else []
        same = bool(last) and last[0].tool == request.tool
        if (
            same
            and request.tool not in _ONE_BY_ONE
            and all(
                other.args.get("path") != request.args.get("path") or request.tool == "run_program" for other in last
            )
        ):
            last.append(request)
        else:
            groups.append([request])
    return groups


_ONE_BY_ONE = frozenset(
    {
        "ask_human",
        "dismiss",
        "finish",
        "list_files",
        "recruit",
        "send_input",
        "start_program",
        "stop_program",
        "talk",
        "update_todo",
    }
)
"""Tools whose calls build on one another: order is kept, and a second one sees what the first one did."""


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


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON Schema without references and titles, which not every server understands."""
    definitions = schema.pop("$defs", {})

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return walk(definitions[node["$ref"].rsplit("/", 1)[-1]])
        return {key: walk(value) for key, value in node.items() if not (key == "title" and isinstance(value, str))}

    plain: dict[str, Any] = walk(schema)
    return plain
