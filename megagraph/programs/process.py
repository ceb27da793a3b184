"""A program of an agent's: started in a sandbox, watched while it runs, stopped with all it started.

`run_program` runs one to its end; `terminal.py` talks with one. Both return an `Outcome`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias, TypeVar

from megagraph.errors import ToolError
from megagraph.programs.changes import DEPTH, Snapshot, changes_since, extent, snapshot
from megagraph.programs.sandbox import Launch, ProgramLimits, Sandbox
from megagraph.programs.usage import Usage, is_alive, measure, unnamed_files
from megagraph.programs.warden import children

Ended: TypeAlias = Literal["exited", "stopped", "timed out", "cpu", "memory", "processes", "output", "tree", "killed"]
"""How a program came to its end: by itself, by its caller, or for what it did too much of."""

T = TypeVar("T")

_MIB = 2**20
_FLOOD = 64
"""A program that writes this many times the output that is kept is stopped."""
_INTERVAL = 0.1
# Watching is not left to the default executor, which others may keep busy for seconds.
_WATCHERS = ThreadPoolExecutor(2, thread_name_prefix="megagraph-watch")


@dataclass(frozen=True)
class Outcome:
    """What came of a program."""

    exit_code: int | None
    """None if it was stopped; 128 + n if signal n ended it."""
    stdout: str
    stderr: str
    ended: Ended
    seconds: float
    """Wall time."""
    changes: dict[str, bytes | None] = field(default_factory=dict)
    """The files that it created, changed, or (None) deleted, by relative POSIX path."""
    notes: tuple[str, ...] = ()
    """What was not taken over, and other things worth knowing."""
    limits: ProgramLimits = field(default_factory=ProgramLimits)

    def text(self) -> str:
        """The outcome as an agent reads it."""
        parts = [self._headline()]
        parts += [f"{name}:\n{text.rstrip()}" for name, text in self._streams() if text.strip()]
        if not self.stdout.strip() and not self.stderr.strip():
            parts.append("(no output)")
        if self.changes:
            shown = [
                f"{path} (deleted)" if content is None else f"{path} ({len(content)} bytes)"
                for path, content in sorted(self.changes.items())
            ]
            more = f" and {len(shown) - 50} more" if len(shown) > 50 else ""
            parts.append(f"files written: {', '.join(shown[:50])}{more}")
        return "\n".join([*parts, *self.notes])

    def _streams(self) -> list[tuple[str, str]]:
        return [("stdout", self.stdout), ("stderr", self.stderr)]

    def _headline(self) -> str:
        limits = self.limits
        took = f"after {self.seconds:.1f} s"
        reasons: dict[Ended, str] = {
            "stopped": f"stopped by you {took}",
            "timed out": f"timed out: still running {took}, so it was stopped",
            "cpu": f"stopped {took}: it used its {limits.cpu_seconds} s of processor time",
            "memory": f"stopped {took}: it used more than its {limits.memory_mb} MB of memory",
            "processes": f"stopped {took}: it had more than {limits.processes} processes",
            "output": f"stopped {took}: its output did not end",
            "tree": f"stopped {took}: its files passed {limits.tree_mb} MB, {limits.tree_files} in number, or {DEPTH}"
            " folders in depth",
            "killed": f"killed {took}: by SIGKILL, most likely for the memory it used",
        }
        if self.ended != "exited":
            return reasons[self.ended]
        named = ""
        if self.exit_code is not None and self.exit_code > 128:
            with contextlib.suppress(ValueError):
                named = f" ({signal.Signals(self.exit_code - 128).name})"
        return f"exit code {self.exit_code}{named}"


class Clip:
    """Keeps the head and the tail of a stream of bytes, and counts the rest."""

    def __init__(self, most: int) -> None:
        self._total = 0
        self._most = most
        self._half = max(1, most // 2)
        self._head = bytearray()
        self._tail = bytearray()

    def add(self, data: bytes) -> None:
        self._total += len(data)
        room = self._half - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room > 0 else data
        # Cut at twice the size only, so that adding stays linear.
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]

    @property
    def flooded(self) -> bool:
        """Did so much come that there will be no end to it?"""
        return self._total > _FLOOD * self._most

    def text(self) -> str:
        """All of it, or head and tail around a line that says how much was cut. Bad UTF-8 becomes `�`."""
        tail = bytes(self._tail[-self._half :])
        cut = self._total - len(self._head) - len(tail)
        if cut <= 0:
            return (bytes(self._head) + tail).decode(errors="replace")
        head = bytes(self._head).decode(errors="replace")
        return f"{head}\n[… {cut} bytes cut …]\n{tail.decode(errors='replace')}"


class Child:
    """The process group that runs a program in a sandbox. Made by `start`, ended by `stop`."""

    def __init__(self, process: asyncio.subprocess.Process, tree: Path, launch: Launch, limits: ProgramLimits) -> None:
        self.process = process
        self.started = time.monotonic()
        self.condemned: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._tree = tree
        self._launch = launch
        self._limits = limits
        self._family: set[int] = set()
        self._watch = asyncio.create_task(self._keep_watch())

    @classmethod
    async def start(cls, launch: Launch, tree: Path, limits: ProgramLimits, terminal: int | None = None) -> Child:
        """Start it on pipes, or with the terminal of this descriptor."""
        pipe = asyncio.subprocess.PIPE if terminal is None else terminal
        try:
            process, cancelled = await _to_the_end(
                asyncio.create_subprocess_exec(
                    *launch.argv,
                    stdin=pipe,
                    stdout=pipe,
                    stderr=pipe,
                    cwd=tree,
                    env=launch.env,
                    # A session of its own: no way to the terminal megagraph was started from.
                    start_new_session=True,
                )
            )
        except (OSError, ValueError) as error:
            raise ToolError(f"the program could not be started: {error}") from error
        child = cls(process, tree, launch, limits)
        if cancelled is not None:
            await child.stop()
            raise cancelled
        return child

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def condemn(self, why: Ended) -> None:
        """Say that it has to end, and why; the first reason stands."""
        if not self.condemned.done():
            self.condemned.set_result(why)

    async def usage(self) -> Usage:
        look = asyncio.get_running_loop().run_in_executor
        return await look(_WATCHERS, measure, self.process.pid, self._limits.memory_mb * _MIB)

    async def stop(self) -> None:
        """End it and all it started; returns when nothing of it is left. Cancelling does not spare it."""
        self._watch.cancel()
        _, cancelled = await _to_the_end(self._stop())
        if cancelled is not None:
            raise cancelled

    async def _stop(self) -> None:
        if self.process.returncode is None:
            self._family |= set(children(self.process.pid))
            if self._launch.grace:
                self._signal(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.process.wait(), self._launch.grace)
        if self.process.returncode is None:
            self._signal(signal.SIGKILL)
        await self.process.wait()
        # A PID namespace is gone with its first process, which its launcher need not have waited for.
        for _ in range(1000):
            if not any(map(is_alive, self._family)):
                break
            await asyncio.sleep(0.005)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    async def _keep_watch(self) -> None:
        look = asyncio.get_running_loop().run_in_executor
        # The first looks are for who there is to wait for, in a program that ends at once.
        for delay in (0.002, 0.008, 0.03):
            await asyncio.sleep(delay)
            self._family |= set(children(self.process.pid))
        limits = self._limits
        next_extent = 0.0
        while True:
            await asyncio.sleep(_INTERVAL)
            self._family |= set(children(self.process.pid))
            usage = await self.usage()
            if usage.memory_bytes > limits.memory_mb * _MIB:
                self.condemn("memory")
            elif usage.cpu_seconds > limits.cpu_seconds:
                self.condemn("cpu")
            elif usage.processes > 2 * limits.processes + 8:
                self.condemn("processes")
            began = time.monotonic()
            if began < next_extent:
                continue
            with contextlib.suppress(OSError):
                found = await look(_WATCHERS, extent, self._tree, limits.tree_files)
                unnamed = await look(_WATCHERS, unnamed_files, self.process.pid, self._tree)
                size = found.size + unnamed.disk_bytes
                if unnamed.memory_bytes > limits.memory_mb * _MIB:
                    self.condemn("memory")
                elif size > limits.tree_mb * _MIB or found.entries > limits.tree_files or found.too_deep:
                    self.condemn("tree")
            next_extent = time.monotonic() + max(0.5, 20 * (time.monotonic() - began))


async def run_program(
    sandbox: Sandbox,
    argv: Sequence[str],
    tree: Path,
    stdin: bytes = b"",
    limits: ProgramLimits | None = None,
) -> Outcome:
    """Run a program to its end in `tree`, a folder that is its own to spoil. Cancelling kills it.

    `argv` is one of `program_argv`. Raises `ToolError` where it cannot be started.
    """
    limits = limits or ProgramLimits()
    launch, before = await asyncio.to_thread(prepare, sandbox, argv, tree, limits)
    child = await Child.start(launch, tree, limits)
    stdout, stderr = Clip(limits.output_kb * 1024), Clip(limits.output_kb * 1024)
    streams = child.process.stdout, child.process.stderr
    work = asyncio.ensure_future(
        asyncio.gather(
            _feed(child.process.stdin, stdin),
            *(_drain(stream, clip, child) for stream, clip in zip(streams, (stdout, stderr), strict=True)),
            child.process.wait(),
        )
    )
    try:
        either: set[asyncio.Future[Any]] = {work, child.condemned}
        await asyncio.wait(either, timeout=limits.wall_seconds, return_when="FIRST_COMPLETED")
        if not work.done():
            child.condemn("timed out")
    finally:
        await child.stop()
        try:
            # With everything dead the pipes are at their end, unless something got hold of them elsewhere.
            await asyncio.wait({work}, timeout=1)
        finally:
            work.cancel()
    return await conclude(child, before, tree, limits, stdout.text(), stderr.text())


def program_argv(path: str, args: Sequence[str], tree: Path, limits: ProgramLimits) -> list[str]:
    """The command for `path`, a Python file of `tree` or an allowed command; `ToolError` for all others."""
    if any("\0" in word for word in (path, *args)):
        raise ToolError("a NUL character cannot be part of a program's path or arguments.")
    if path == "python3" and "python" in limits.commands:
        path = "python"
    if path in limits.commands:
        return [path, *args]
    pure = PurePosixPath(path)
    if pure.suffix != ".py":
        allowed = ", ".join(f"`{command}`" for command in limits.commands) or "no command"
        raise ToolError(f"`{path}` cannot be run here: only Python files (`*.py`) and {allowed}.")
    if pure.is_absolute() or ".." in pure.parts:
        raise ToolError(f"`{path}` leaves the shared folder; give a path in it, such as `main.py`.")
    file = tree / pure
    if not file.is_file() or not file.resolve().is_relative_to(tree.resolve()):
        raise ToolError(f"there is no file `{path}` to run.")
    return ["python", f"./{pure}" if str(pure).startswith("-") else str(pure), *args]


def prepare(sandbox: Sandbox, argv: Sequence[str], tree: Path, limits: ProgramLimits) -> tuple[Launch, Snapshot]:
    """How to start the program, and what its files are before. Blocks on the disk."""
    return sandbox.launch(argv, tree, limits), snapshot(tree)


async def conclude(
    child: Child, before: Snapshot, tree: Path, limits: ProgramLimits, stdout: str, stderr: str
) -> Outcome:
    """The outcome of a stopped child."""
    seconds = child.seconds
    most = limits.tree_mb * _MIB
    changes = await asyncio.to_thread(changes_since, before, tree, most, limits.tree_files)
    code = child.process.returncode
    ended: Ended = "exited"
    if child.condemned.done():
        code, ended = None, child.condemned.result()
    elif code == 128 + signal.SIGXCPU:
        code, ended = None, "cpu"
    elif code is None or code < 0 or code == 128 + signal.SIGKILL:
        code, ended = None, "killed"
    return Outcome(code, stdout, stderr, ended, seconds, changes.files, changes.notes, limits)


async def _feed(pipe: asyncio.StreamWriter | None, data: bytes) -> None:
    if pipe is None:
        return
    # A program need not read what it is given.
    with contextlib.suppress(ConnectionError):
        pipe.write(data)
        await pipe.drain()
    with contextlib.suppress(ConnectionError):
        pipe.close()
        await pipe.wait_closed()


async def _drain(pipe: asyncio.StreamReader | None, clip: Clip, child: Child) -> None:
    while pipe is not None and (data := await pipe.read(65536)):
        clip.add(data)
        if clip.flooded:
            child.condemn("output")


async def _to_the_end(work: Coroutine[object, object, T]) -> tuple[T, asyncio.CancelledError | None]:
    """The result of `work`, and the cancellation that came in the meantime, for the caller to raise."""
    task = asyncio.ensure_future(work)
    cancelled = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    return task.result(), cancelled
