"""A word to a run that another process works on: pause, or look at the answers that have come.

The working process listens on a Unix socket. Its path stands in the run's lock file.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

Word = Literal["pause", "answers"]

_WORDS: dict[bytes, Word] = {b"pause\n": "pause", b"answers\n": "answers"}


def socket_path(run: str) -> Path:
    """Where a run's process listens. Not in the home: such a path may have a hundred characters and no more."""
    return Path(tempfile.gettempdir()) / f"megagraph-{os.getuid()}" / run.replace("-", "")


@asynccontextmanager
async def listening(run: str, heard: Callable[[Word], None]) -> AsyncIterator[None]:
    """Call `heard` with each word that is said to this run. Call it while holding the run's lock."""
    path = socket_path(run)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if path.parent.stat().st_uid != os.getuid():
        raise PermissionError(f"{path.parent} belongs to somebody else")
    path.unlink(missing_ok=True)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ValueError):
            word = _WORDS.get(await reader.readline())
            if word is not None:
                heard(word)
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


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
