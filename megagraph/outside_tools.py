"""Tools that are brought from outside: any LangChain tool, with whom it is for, a time-out and a longest output.

An outside tool may do anything anywhere, so its calls of one turn are made one by one. A call that has finished is
never made again; one that a kill met in the middle is made once more on resume.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import re
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.tools import Tool as SimpleTool
from langchain_core.tools import tool as make_tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel

from megagraph.errors import ToolError, UsageError

SECONDS = 60.0
"""How long a call may take, where nothing else is said."""
CHARACTERS = 20_000
"""How much of a result the model is shown, where nothing else is said."""

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True)
class OutsideTool:
    """A LangChain tool, or a function to make one of, and what holds for it.

    OutsideTool(search, agents=("leads", "*_tester"), seconds=20, characters=5_000)
    """

    tool: BaseTool | Callable[..., Any]
    agents: Sequence[str] = ()
    """Who has it: names or patterns of names, `leads` (whoever has recruited), `leaves`. Without, everybody."""
    seconds: float = SECONDS
    """The longest that a call may take. The agent is told, and goes on."""
    characters: int = CHARACTERS
    """The most of a result that the agent is shown."""

    @property
    def langchain(self) -> BaseTool:
        assert isinstance(self.tool, BaseTool)
        return self.tool

    @property
    def name(self) -> str:
        return self.langchain.name

    def is_for(self, agent: str, *, leads: bool) -> bool:
        group = "leads" if leads else "leaves"
        return not self.agents or any(who == group or fnmatchcase(agent, who) for who in self.agents)

    async def call(self, args: Mapping[str, Any], id_: str) -> tuple[str, bool]:
        """The result as the model reads it, and whether the tool counts it as a success. Raises `ToolError`."""
        call = {"name": self.name, "args": dict(args), "id": id_, "type": "tool_call"}
        try:
            async with asyncio.timeout(self.seconds):
                said = await (_in_thread(self.langchain, call) if _blocks(self.langchain) else self._ainvoke(call))
        except TimeoutError:
            raise ToolError(f"`{self.name}` has not answered in {self.seconds:g} seconds.") from None
        if not isinstance(said, ToolMessage):
            raise ToolError(f"`{self.name}` gave no text but a {type(said).__name__}.")
        return self._cut(_text(said.content)), said.status != "error"

    async def _ainvoke(self, call: dict[str, Any]) -> Any:
        return await self.langchain.ainvoke(call)

    def _cut(self, text: str) -> str:
        if len(text) <= self.characters:
            return text or "(nothing)"
        return f"{text[: self.characters]}\n(cut: the first {self.characters:,} of {len(text):,} characters)"


Given: TypeAlias = OutsideTool | BaseTool | Callable[..., Any]
"""What `MegaGraph(tools=[…])` takes."""


class OutsideTools:
    """The outside tools of one run. `gone` are those it began with and that are given no more."""

    def __init__(
        self,
        tools: Sequence[OutsideTool] = (),
        *,
        gone: Collection[str] = (),
        close: Callable[[], Awaitable[None]] | None = None,
        mcp: Any = None,
    ) -> None:
        self.mcp = mcp
        """The MCP servers that they are from, as they were given: another process can ask these for its own."""
        self._tools = {tool.name: tool for tool in tools}
        self._schemas = {name: _schema(tool.langchain) for name, tool in self._tools.items()}
        self._close = close
        self.gone = frozenset(gone) - self._tools.keys()

    @property
    def names(self) -> list[str]:
        return list(self._tools)

    def of(self, agent: str, *, leads: bool) -> tuple[str, ...]:
        """The names of those that this agent has."""
        return tuple(name for name, tool in self._tools.items() if tool.is_for(agent, leads=leads))

    def get(self, name: str) -> OutsideTool | None:
        return self._tools.get(name)

    def schemas(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """The tools as OpenAI functions."""
        return [self._schemas[name] for name in names]

    def tokens(self, names: Iterable[str]) -> int:
        """About how many tokens their descriptions add to a call."""
        return tokens_of(self.schemas(names))

    async def aclose(self) -> None:
        if self._close is not None:
            await self._close()


def tokens_of(schemas: Sequence[Mapping[str, Any]]) -> int:
    """About how many tokens the descriptions of tools are."""
    return sum(len(json.dumps(schema, ensure_ascii=False)) for schema in schemas) // 4


def accepted(given: Sequence[Given], own: Collection[str]) -> list[OutsideTool]:
    """What a user has given, as outside tools. Raises `UsageError` where one of them cannot be had.

    `own` are the names of megagraph's own tools.
    """
    tools = [_accepted(one) for one in given]
    for tool in tools:
        if not _NAME.fullmatch(tool.name):
            raise UsageError(
                f"the tool `{tool.name[:80]}` has a name that models do not take.",
                "Give it one of letters, digits, _ and -, at most 64.",
            )
        if tool.name in own:
            raise UsageError(f"the tool `{tool.name}` has the name of one of megagraph's own.", "Give it another.")
        if tool.seconds <= 0 or tool.characters <= 0:
            raise UsageError(f"the tool `{tool.name}`: `seconds` and `characters` must be above 0.")
    names = [tool.name for tool in tools]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"the tool `{twice}` is given twice.", "Give one of them another name.")
    return tools


def _accepted(given: Given) -> OutsideTool:
    outside = given if isinstance(given, OutsideTool) else OutsideTool(given)
    if isinstance(outside.agents, str):
        outside = OutsideTool(outside.tool, (outside.agents,), outside.seconds, outside.characters)
    if isinstance(outside.tool, BaseTool):
        return outside
    try:
        made = make_tool(outside.tool)
        assert isinstance(made, BaseTool)
        return OutsideTool(made, outside.agents, outside.seconds, outside.characters)
    except Exception as error:
        # LangChain says with errors of many kinds what a function lacks: a docstring, above all.
        what = getattr(outside.tool, "__name__", repr(outside.tool))[:80]
        raise UsageError(f"no tool can be made of `{what}` ({' '.join(str(error).split())[:200]}).") from error


def _schema(tool: BaseTool) -> dict[str, Any]:
    try:
        return plain(convert_to_openai_tool(tool))
    except Exception as error:
        # A schema comes from types of the user's, of which not all can be written as JSON Schema.
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"the tool `{tool.name}` cannot be described to a model ({reason}).") from error


def plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON Schema without references and titles, which not every server understands."""
    definitions: dict[str, Any] = {}

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            for key in ("$defs", "definitions"):
                if isinstance(node.get(key), dict):
                    definitions.update(node.pop(key))
            for value in node.values():
                collect(value)

    def walk(node: Any, inside: tuple[str, ...] = ()) -> Any:
        if isinstance(node, list):
            return [walk(item, inside) for item in node]
        if not isinstance(node, dict):
            return node
        if isinstance(reference := node.get("$ref"), str):
            name = reference.rsplit("/", 1)[-1]
            # What contains itself is described once, and is any value further down.
            return {} if name in inside else walk(definitions.get(name, {}), (*inside, name))
        return {key: walk(value, inside) for key, value in node.items() if not _is_title(key, value)}

    schema = json.loads(json.dumps(schema))
    collect(schema)
    walked: dict[str, Any] = walk(schema)
    return walked


def _is_title(key: str, value: Any) -> bool:
    return key == "title" and isinstance(value, str)


def arguments_of(tool: BaseTool) -> type[BaseModel] | None:
    """What checks the arguments that a model gives; None where the tool, or its server, does so itself."""
    schema = tool.tool_call_schema
    return schema if isinstance(schema, type) and issubclass(schema, BaseModel) else None


def _blocks(tool: BaseTool) -> bool:
    """Whether the tool can only be called from a thread."""
    if isinstance(tool, StructuredTool | SimpleTool):
        return tool.coroutine is None
    return type(tool)._arun is BaseTool._arun


async def _in_thread(tool: BaseTool, call: dict[str, Any]) -> Any:
    """The result of a tool that blocks. Its thread is its own: one that hangs takes nothing from anybody."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def hand_over(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):
            future.set_exception(error)
        else:
            future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))

    def work() -> None:
        result, failed = None, None
        try:
            result = context.run(tool.invoke, call)
        except BaseException as error:
            # `SystemExit` of a tool is the tool's failure, and not the end of a thread that somebody waits for.
            failed = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(hand_over, result, failed)

    threading.Thread(target=work, name=f"megagraph-tool-{tool.name}", daemon=True).start()
    return await future


def _text(content: str | list[Any]) -> str:
    """A result as text; of pictures and the like only that they are there."""
    if isinstance(content, str):
        return content
    return "\n".join(
        block
        if isinstance(block, str)
        else str(block.get("text", ""))
        if block.get("type") == "text"
        else _named(block)
        for block in content
    )


def _named(block: Mapping[str, Any]) -> str:
    return " ".join(["[", *(str(block[key])[:200] for key in ("type", "mime_type", "url") if block.get(key)), "]"])
