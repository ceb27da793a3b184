"""A process of its own that changes the files of a run.

A commit is some dozens of short calls into libgit2, each of which gives the interpreter up and wants it back. Next
to an event loop with hundreds of agents it gets it back late, and a commit of two milliseconds takes ten or more.
In a process of its own it takes its two, on the other core.

The parent writes pickled calls to its standard input, and reads as many results. When that input ends, as it does
when the parent dies, the process ends too.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import struct
import sys
from collections import deque
from pathlib import Path
from typing import IO, Any

from megagraph.errors import ToolError
from megagraph.files.packing import pack_aside
from megagraph.files.workspace import Workspace

_SIZE = struct.Struct("!Q")


class Writer:
    """Changes of a workspace, carried out one after the other in a child process, which is started when needed."""

    def __init__(self, path: Path, branch: str = "main") -> None:
        self._path = path
        self._branch = branch
        self._child: _Child | None = None
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Start the process, if it does not run."""
        await self._running()

    async def call(self, method: str, *args: Any, **kwargs: Any) -> tuple[Any, str]:
        """The result of a method of `Workspace`, and the latest version after it.

        Raises what the method raises; `ToolError` where the process died over it.
        """
        answer: tuple[Any, str] = await (await self._running()).call((method, args, kwargs))
        return answer

    async def aclose(self) -> None:
        """End the process, when it has done what was asked of it."""
        if self._child is not None:
            await self._child.aclose()

    async def _running(self) -> _Child:
        async with self._starting:
            if self._child is None or self._child.gone:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "megagraph.files.writer",
                    str(self._path),
                    self._branch,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    # A Ctrl-C is for the parent, which then ends this one in order.
                    start_new_session=True,
                )
                self._child = _Child(process)
            return self._child


class _Child:
    """One such process, and those who wait for its results. It is gone as soon as its results end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._reader = asyncio.create_task(self._read())
        self.gone = False

    async def call(self, request: object) -> Any:
        assert self._process.stdin is not None
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        _send(self._process.stdin, request)
        return await future

    async def aclose(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._reader
        await self._process.wait()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    size = _SIZE.unpack(await self._process.stdout.readexactly(_SIZE.size))[0]
                    ok, value = pickle.loads(await self._process.stdout.readexactly(size))
                    future = self._waiting.popleft()
                    if future.done():
                        continue
                    if ok:
                        future.set_result(value)
                    else:
                        future.set_exception(value)
        finally:
            self.gone = True
            if self._process.stdin is not None:
                self._process.stdin.close()
            for future in self._waiting:
                if not future.done():
                    future.set_exception(ToolError("the files could not be changed this time. Try again."))


def _send(pipe: Any, value: object) -> None:
    data = pickle.dumps(value)
    pipe.write(_SIZE.pack(len(data)) + data)


def serve(path: Path, branch: str, requests: IO[bytes], results: IO[bytes]) -> None:
    """Carry out calls until there are no more."""
    workspace = Workspace(path, branch)
    while header := requests.read(_SIZE.size):
        method, args, kwargs = pickle.loads(requests.read(_SIZE.unpack(header)[0]))
        try:
            result = getattr(workspace, method)(*args, **kwargs)
            answer: tuple[bool, object] = (True, (result, workspace.head))
        except ToolError as error:
            answer = (False, ToolError(str(error)))
        except Exception as error:
            answer = (False, RuntimeError(f"{type(error).__name__}: {error}"))
        _send(results, answer)
        results.flush()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], sys.stdin.buffer, sys.stdout.buffer)
    pack_aside(Path(sys.argv[1]))
