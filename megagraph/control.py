"""A word to a run that another process works on: pause, look at the answers that have come, or tell me the tokens.

The working process listens on a Unix socket, whose path follows from the run's id.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

Word = Literal["pause", "answers"]

_WORDS: dict[bytes, Word] = {b"pause\n": "pause", b"answers\n": "answers"}
_TOKENS = b"tokens "
_BEHIND = 1 << 20
"""Bytes that wait for a reader of tokens; one that is further behind misses some."""

Tokens = Callable[[str | None], contextlib.AbstractContextManager[AsyncIterator[dict[str, Any]]]]
"""Opens the tokens of an agent or of all, as plain JSON."""


def socket_path(run: str) -> Path:
    """Where a run's process listens. Not in the home: such a path may have a hundred characters and no more."""
    return Path(tempfile.gettempdir()) / f"megagraph-{os.getuid()}" / run.replace("-", "")


@asynccontextmanager
async def listening(run: str, heard: Callable[[Word], None], tokens: Tokens) -> AsyncIterator[None]:
    """Call `heard` with each word that is said to this run, and send `tokens` to who asks for them.

    Call it while holding the run's lock.
    """
    path = await asyncio.to_thread(_free_path, run)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ValueError):
            line = await reader.readline()
            if line in _WORDS:
                heard(_WORDS[line])
            elif line.startswith(_TOKENS):
                with tokens(line.removeprefix(_TOKENS).decode().strip() or None) as wanted:
                    await _send(wanted, reader, writer)
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield
    finally:
        server.close()
        await asyncio.to_thread(path.unlink, missing_ok=True)


def _free_path(run: str) -> Path:
    path = socket_path(run)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if path.parent.stat().st_uid != os.getuid():
        raise PermissionError(f"{path.parent} belongs to somebody else")
    path.unlink(missing_ok=True)
    return path


async def _send(
    tokens: AsyncIterator[dict[str, Any]], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send tokens until there are no more or the reader has gone."""
    sending = asyncio.ensure_future(_write(tokens, writer))
    gone = asyncio.ensure_future(reader.read())
    await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
    for task in (sending, gone):
        task.cancel()
    await asyncio.gather(sending, gone, return_exceptions=True)


async def _write(tokens: AsyncIterator[dict[str, Any]], writer: asyncio.StreamWriter) -> None:
    async for token in tokens:
        if writer.transport.get_write_buffer_size() < _BEHIND:
            writer.write(json.dumps(token).encode() + b"\n")


def say(run: str, word: Word) -> bool:
    """Say it to the process that works on the run; False where none listens."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(socket_path(run)))
            connection.sendall(f"{word}\n".encode())
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)
        return True
    except OSError:
        return False


class Tap:
    """The tokens of a run that another process works on, of one agent or all. Connects when it is first read."""

    def __init__(self, run: str, agent: str | None) -> None:
        self._run = run
        self._agent = agent
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def lines(self, seconds: float) -> AsyncIterator[dict[str, Any]]:
        """What comes within so many seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (left := end - loop.time()) > 0:
            try:
                line = await asyncio.wait_for(self._line(), left)
            except TimeoutError:
                return
            if line:
                yield json.loads(line)
            else:
                # It has ended, or does not listen yet.
                await asyncio.sleep(max(0.0, end - loop.time()))

    async def _line(self) -> bytes:
        try:
            if self._reader is None:
                self._reader, self._writer = await asyncio.open_unix_connection(socket_path(self._run))
                self._writer.write(_TOKENS + (self._agent or "").encode() + b"\n")
            line = await self._reader.readline()
        except OSError:
            line = b""
        if not line:
            await self.aclose()
        return line

    async def aclose(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None
