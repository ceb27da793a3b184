"""Tools of MCP servers, named by the usual JSON: `{"mcpServers": {"name": {"command": …} or {"url": …}}}`.

An entry may also say `agents`, `seconds` and `characters`, as `OutsideTool` does, for all tools of its server.
Servers are asked for their tools before a run goes on, and left again. Who calls a tool first opens a session, which
lasts until the run stops. One that breaks off or does not answer gives tool errors, and the next call opens another.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from megagraph.errors import ToolError, UsageError
from megagraph.outside_tools import CHARACTERS, SECONDS, OutsideTool

OPENING_SECONDS = 30.0
"""How long a server may take to start and to tell its tools."""
_CLOSING_SECONDS = 6.0
_TRANSPORTS = {"stdio": "stdio", "sse": "sse", "http": "http", "streamable-http": "http", "streamable_http": "http"}
_NO_NAME = re.compile(r"[^a-zA-Z0-9_-]")


class _Entry(BaseModel):
    """One server of the configuration. What other programs keep there besides is left alone."""

    model_config = ConfigDict(frozen=True)

    command: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] | None = None
    cwd: str | None = None
    url: str = ""
    headers: dict[str, str] | None = None
    type: str = ""
    transport: str = ""
    disabled: bool = False
    agents: tuple[str, ...] = ()
    seconds: float = Field(default=SECONDS, gt=0)
    characters: int = Field(default=CHARACTERS, gt=0)

    def connection(self) -> dict[str, Any]:
        """As `langchain-mcp-adapters` wants it."""
        if self.command:
            return {
                "transport": "stdio",
                "command": self.command,
                "args": list(self.args),
                "env": self.env,
                "cwd": self.cwd,
            }
        named = self.type or self.transport or "http"
        return {"transport": _TRANSPORTS[named], "url": self.url, "headers": self.headers}

    @property
    def problem(self) -> str:
        if bool(self.command) == bool(self.url):
            return "give either `command` or `url`"
        named = self.type or self.transport
        return "" if not named or named in _TRANSPORTS else f"`{named[:40]}` is no known transport"


def read_mcp(config: Path | str | Mapping[str, Any]) -> dict[str, _Entry]:
    """The servers of a file, or of what such a file holds. Raises `UsageError` naming what is wrong."""
    where = "the MCP configuration" if isinstance(config, Mapping) else f"the MCP configuration {config}"
    if not isinstance(config, Mapping):
        try:
            config = json.loads(Path(config).read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"{where} cannot be read ({error.strerror}).") from error
        except ValueError as error:
            raise UsageError(f"{where} is no valid JSON: {' '.join(str(error).split())[:200]}.") from error
    servers = config.get("mcpServers", config) if isinstance(config, Mapping) else None
    if not isinstance(servers, Mapping) or not all(isinstance(entry, Mapping) for entry in servers.values()):
        raise UsageError(f'{where} does not fit: it must hold {{"mcpServers": {{"NAME": {{"command": …}}}}}}.')
    found = {}
    for name, entry in servers.items():
        agents = entry.get("agents", ())
        try:
            read = _Entry.model_validate({**entry, "agents": (agents,) if isinstance(agents, str) else agents})
            problem = read.problem
        except ValidationError as error:
            problem = "; ".join(f"`{'.'.join(map(str, e['loc']))}`: {e['msg'].lower()}" for e in error.errors()[:3])
        if problem:
            raise UsageError(f"{where}: the server `{str(name)[:60]}` does not fit: {problem}.")
        if not read.disabled:
            found[str(name)] = read
    return found


class McpServers:
    """The MCP servers of one run. Raises `UsageError` where the package for them is not installed."""

    def __init__(self, entries: Mapping[str, _Entry]) -> None:
        if entries:
            try:
                import langchain_mcp_adapters  # noqa: F401
            except ImportError as error:
                hint = "Install it with `pip install 'megagraph[mcp]'`."
                raise UsageError("MCP servers need the extra `mcp`, which is not installed.", hint) from error
        self._servers = [_Server(name, entry) for name, entry in entries.items()]

    async def tools(self) -> list[OutsideTool]:
        """The tools of all servers, as `server_tool`. Raises `UsageError` where one cannot be reached."""
        listed = await asyncio.gather(*(server.tools() for server in self._servers), return_exceptions=True)
        for tools in listed:
            if isinstance(tools, BaseException):
                raise tools
        return [tool for tools in listed if isinstance(tools, list) for tool in tools]

    async def aclose(self) -> None:
        await asyncio.gather(*(server.aclose() for server in self._servers))


class _Server:
    """One server, and the session with it once a tool was called."""

    def __init__(self, name: str, entry: _Entry) -> None:
        self.name = name
        self._entry = entry
        self._session: _Session | None = None
        self._leaving: set[_Session] = set()
        self._opening = asyncio.Lock()

    async def tools(self) -> list[OutsideTool]:
        session = _Session(self.name, self._entry)
        try:
            tools = await session.ready()
        except Exception as error:
            raise UsageError(
                f"the MCP server `{self.name}` cannot be used: {reason(error)}.",
                "Mend its entry, or set `disabled` to true in it.",
            ) from error
        finally:
            await session.aclose()
        return [self._offered(name, tool) for name, tool in tools.items()]

    def _offered(self, name: str, tool: BaseTool) -> OutsideTool:
        async def call(**args: Any) -> Any:
            return await self._call(name, args)

        offered = StructuredTool(
            name=name, description=tool.description, args_schema=tool.args_schema or {}, coroutine=call
        )
        return OutsideTool(offered, self._entry.agents, self._entry.seconds, self._entry.characters)

    async def _call(self, name: str, args: dict[str, Any]) -> Any:
        session = await self._opened()
        session.calls += 1
        try:
            tools = await session.ready()
            if name not in tools:
                raise ToolError(f"the MCP server `{self.name}` no longer has `{name}`.")
            return await tools[name].ainvoke({"name": name, "args": args, "id": name, "type": "tool_call"})
        except ToolError:
            raise
        except Exception as error:
            if not _answered(error):
                self._leave(session)
            raise ToolError(f"the MCP server `{self.name}` failed: {reason(error)}.") from error
        except BaseException:
            # It was too slow, or the run stops at once: whether it still answers is not known.
            self._leave(session)
            raise
        finally:
            session.calls -= 1
            if session in self._leaving and not session.calls:
                session.let_go()

    async def _opened(self) -> _Session:
        async with self._opening:
            if self._session is None or self._session.ended:
                self._session = _Session(self.name, self._entry)
            return self._session

    def _leave(self, session: _Session) -> None:
        """Use another session from the next call on; this one ends when its last call does."""
        self._leaving.add(session)
        if self._session is session:
            self._session = None

    async def aclose(self) -> None:
        sessions = {*self._leaving, *([self._session] if self._session else [])}
        await asyncio.gather(*(session.aclose() for session in sessions))


class _Session:
    """A session with a server, from its opening on. It lives in a task of its own, as its library demands."""

    def __init__(self, name: str, entry: _Entry) -> None:
        self.calls = 0
        self._stop = asyncio.Event()
        self._ready: asyncio.Future[dict[str, BaseTool]] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(name, entry), name=f"megagraph-mcp-{name}")

    @property
    def ended(self) -> bool:
        return self._task.done()

    async def ready(self) -> dict[str, BaseTool]:
        """Its tools by name, once it is open."""
        async with asyncio.timeout(OPENING_SECONDS):
            return await asyncio.shield(self._ready)

    def let_go(self) -> None:
        self._stop.set()

    async def aclose(self) -> None:
        self._stop.set()
        if not self._ready.done():
            self._task.cancel()
        _, late = await asyncio.wait([self._task], timeout=_CLOSING_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _live(self, name: str, entry: _Entry) -> None:
        from langchain_mcp_adapters.sessions import create_session
        from langchain_mcp_adapters.tools import load_mcp_tools

        try:
            async with create_session(entry.connection()) as session:  # type: ignore[arg-type]
                await session.initialize()
                tools = await load_mcp_tools(session, server_name=name, tool_name_prefix=True)
                self._ready.set_result({_NO_NAME.sub("_", tool.name)[:64]: tool for tool in tools})
                await self._stop.wait()
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error if isinstance(error, Exception) else RuntimeError("it was ended"))
                # Whoever waited may have gone away.
                self._ready.exception()
            if not isinstance(error, Exception):
                raise


def _answered(error: Exception) -> bool:
    """Whether it is the server that says no, and not the way to it that broke."""
    from mcp.shared.exceptions import McpError
    from mcp.types import CONNECTION_CLOSED

    return isinstance(error, McpError) and error.error.code != CONNECTION_CLOSED


def reason(error: BaseException) -> str:
    """What went wrong, in one line; of several things at once, the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, TimeoutError):
        return f"it does not answer within {OPENING_SECONDS:g} seconds"
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": .")[:300]
