"""Programs that an agent talks with: each on a terminal of its own, read until it is quiet.

A program counts as quiet when it has printed something and then, for a moment, neither printed nor computed:
it waits for input. A game that ponders its move is therefore waited for, and nothing sleeps for a fixed time.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import regex  # type: ignore[import-untyped]

from megagraph.errors import ToolError
from megagraph.programs.changes import Snapshot
from megagraph.programs.process import Child, Clip, Outcome, conclude, prepare
from megagraph.programs.sandbox import ProgramLimits, Sandbox

QUIET = 0.2
"""Seconds without output after which a program that does nothing waits for input."""

SILENT = 3.0
"""Seconds after which a program that does nothing is not waited for, though it has printed nothing at all."""

_SEARCH = 1.0
"""Seconds that one look for the pattern may take: an expression can be made to run for years."""

_LINE = 4000
"""A terminal hands over lines, and cuts them at 4,096 bytes."""
_SIZE = struct.pack("HHHH", 40, 120, 0, 0)


class Terminal:
    """One program on a terminal. Made by `start`, ended by `stop`."""

    def __init__(self, child: Child, master: int, before: Snapshot, tree: Path, limits: ProgramLimits) -> None:
        self._child = child
        self._master = master
        self._before = before
        self._tree = tree
        self._limits = limits
        self._unread = Clip(limits.output_kb * 1024)
        self._last_output = 0.0
        self._news = asyncio.Event()
        self._closed = False
        self._outcome: Outcome | None = None
        self._lock = asyncio.Lock()
        asyncio.get_running_loop().add_reader(master, self._read)
        self._life = asyncio.create_task(self._live())

    @classmethod
    async def start(
        cls, sandbox: Sandbox, argv: Sequence[str], tree: Path, limits: ProgramLimits | None = None
    ) -> Terminal:
        """Start `argv`, one of `program_argv`, in `tree`. Raises `ToolError` where that cannot be done."""
        limits = limits or ProgramLimits()
        launch, before = await asyncio.to_thread(prepare, sandbox, argv, tree, limits)
        master, slave = os.openpty()
        try:
            os.set_blocking(master, False)
            fcntl.ioctl(slave, termios.TIOCSWINSZ, _SIZE)
            _make_plain(slave)
            child = await Child.start(launch, tree, limits, terminal=slave)
        except BaseException:
            os.close(master)
            raise
        finally:
            os.close(slave)
        return cls(child, master, before, tree, limits)

    @property
    def running(self) -> bool:
        return not self._life.done()

    async def send(self, text: str, until: str = "", seconds: float = 10.0) -> str:
        """Type `text`, and return what the program has printed since it was last read.

        Reads until the program is quiet (with `until`, until its output matches that regular expression), but
        not longer than `seconds`; a program that has ended is said to have.
        Raises `ToolError` for a line that a terminal cannot take, and for input to a program that has ended.
        """
        pattern = _pattern(until)
        data = text.encode()
        if any(len(line) > _LINE for line in data.split(b"\n")):
            raise ToolError(f"a line of input may have {_LINE} bytes at most; put more into a file.")
        async with self._lock:
            deadline = time.monotonic() + seconds
            if data:
                if not self.running:
                    raise ToolError(f"nothing can be sent to it: {self._farewell()}")
                # Only what comes after the input can be the answer to it.
                self._last_output = 0.0
                await self._type(data, deadline)
            await self._await_quiet(pattern, deadline)
            said = self._take()
            return said if self.running else f"{said}\n[{self._farewell()}]".lstrip()

    async def read(self, until: str = "", seconds: float = 10.0) -> str:
        """What the program has printed since it was last read; waits as `send` does."""
        return await self.send("", until, seconds)

    async def stop(self) -> Outcome:
        """End the program if it still runs; its outcome, with what was not read yet as its `stdout`."""
        if self.running:
            self._child.condemn("stopped")
        await asyncio.shield(self._life)
        async with self._lock:
            if self._outcome is None:
                self._outcome = await conclude(self._child, self._before, self._tree, self._limits, self._take(), "")
        return self._outcome

    async def _live(self) -> None:
        """From start to end of the program."""
        ended = asyncio.ensure_future(self._child.process.wait())
        either: set[asyncio.Future[Any]] = {ended, self._child.condemned}
        try:
            await asyncio.wait(either, timeout=self._limits.session_seconds, return_when="FIRST_COMPLETED")
            if not ended.done():
                self._child.condemn("timed out")
        finally:
            ended.cancel()
            try:
                await self._child.stop()
            finally:
                self._read()
                self._hang_up()
                os.close(self._master)
                self._news.set()

    def _farewell(self) -> str:
        if self._child.condemned.done():
            return f"the program was stopped ({self._child.condemned.result()})"
        return f"the program has ended with exit code {self._child.process.returncode}"

    def _read(self) -> None:
        # In bounded portions: a program may print faster than it is read.
        for _ in range(0 if self._closed else 32):
            try:
                data = os.read(self._master, 65536)
            except BlockingIOError:
                return
            except OSError:
                # What Linux says when nobody has the other end open any more.
                data = b""
            if not data:
                self._hang_up()
                return
            self._unread.add(data)
            self._last_output = time.monotonic()
            self._news.set()
            if self._unread.flooded:
                self._child.condemn("output")

    def _hang_up(self) -> None:
        self._closed = True
        asyncio.get_running_loop().remove_reader(self._master)
        asyncio.get_running_loop().remove_writer(self._master)

    def _take(self) -> str:
        text = self._unread.text()
        self._unread = Clip(self._limits.output_kb * 1024)
        self._last_output = 0.0
        return text

    async def _type(self, data: bytes, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        while data and self.running and not self._closed:
            try:
                data = data[os.write(self._master, data) :]
            except BlockingIOError:
                writable = asyncio.Event()
                loop.add_writer(self._master, writable.set)
                try:
                    await asyncio.wait_for(writable.wait(), max(0.0, deadline - time.monotonic()))
                except TimeoutError:
                    raise ToolError("the program does not read what is sent to it.") from None
                finally:
                    loop.remove_writer(self._master)
            except OSError:
                return

    async def _await_quiet(self, pattern: Any, deadline: float) -> None:
        began = time.monotonic()
        while self.running and (now := time.monotonic()) < deadline:
            self._news.clear()
            if pattern is not None:
                if await asyncio.to_thread(_is_in, self._unread.text(), pattern):
                    return
                left = deadline - now
            else:
                left = self._last_output + QUIET - now if self._last_output else began + SILENT - now
                if left <= 0:
                    if not (await self._child.usage()).busy and not self._news.is_set():
                        return
                    left = QUIET / 2
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), min(left, deadline - now))


class Terminals:
    """The interactive programs of one run, by number; `close` ends what is left of them."""

    def __init__(self, sandbox: Sandbox, limits: ProgramLimits | None = None, most: int = 8) -> None:
        self._sandbox = sandbox
        self._limits = limits or ProgramLimits()
        self._most = most
        self._open: dict[int, Terminal] = {}
        self._started = 0
        self._starting = 0

    async def start(self, argv: Sequence[str], tree: Path) -> int:
        """Start a program; its number. Raises `ToolError` when too many are running."""
        running = self._starting + sum(terminal.running for terminal in self._open.values())
        if running >= self._most:
            raise ToolError(f"{running} interactive programs are running already; stop one first.")
        self._starting += 1
        try:
            terminal = await Terminal.start(self._sandbox, argv, tree, self._limits)
        finally:
            self._starting -= 1
        self._started += 1
        self._open[self._started] = terminal
        return self._started

    def __getitem__(self, number: int) -> Terminal:
        try:
            return self._open[number]
        except KeyError:
            raise ToolError(f"there is no interactive program {number}.") from None

    async def stop(self, number: int) -> Outcome:
        """End a program and forget it."""
        terminal = self[number]
        outcome = await terminal.stop()
        self._open.pop(number, None)
        return outcome

    async def close(self) -> None:
        """End all programs."""
        await asyncio.gather(*(self.stop(number) for number in list(self._open)))


def _make_plain(terminal: int) -> None:
    """No echo of the input, and newlines as they are."""
    attributes = termios.tcgetattr(terminal)
    attributes[1] &= ~termios.ONLCR
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSANOW, attributes)


def _pattern(until: str) -> Any:
    try:
        return regex.compile(until) if until else None
    except (regex.error, OverflowError, RecursionError) as error:
        raise ToolError(f"`{until}` is no regular expression: {error}.") from error


def _is_in(text: str, pattern: Any) -> bool:
    """Whether `pattern` is found in `text`. Blocks; other threads run meanwhile."""
    try:
        return pattern.search(text, timeout=_SEARCH, concurrent=True) is not None
    except TimeoutError:
        raise ToolError(f"`{pattern.pattern}` takes too long to look for: use a simpler expression.") from None
