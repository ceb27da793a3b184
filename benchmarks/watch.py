"""What a measured program costs while it works: processor, memory, threads, and how late its event loop is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import statistics
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_TICK = 0.01


@asynccontextmanager
async def watched() -> AsyncIterator[dict[str, float]]:
    """Fills the dictionary when the block ends: `seconds`, `cpu`, `lag_ms` (p99), `threads`, `peak_mb`."""
    figures: dict[str, float] = {}
    lags: list[float] = []
    threads = 0

    async def tick() -> None:
        nonlocal threads
        while True:
            due = time.perf_counter() + _TICK
            await asyncio.sleep(_TICK)
            lags.append(time.perf_counter() - due)
            threads = max(threads, threading.active_count())

    ticker = asyncio.create_task(tick())
    begun, cpu = time.perf_counter(), cpu_seconds()
    try:
        yield figures
    finally:
        ticker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticker
        figures |= {
            "seconds": time.perf_counter() - begun,
            "cpu": cpu_seconds() - cpu,
            "lag_ms": 1000 * statistics.quantiles(lags, n=100)[98] if len(lags) > 1 else 0.0,
            "threads": float(threads),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def resident_mb(process: str = "self") -> float:
    """Megabytes of memory that a process has now."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_seconds() -> float:
    """Of this process and of all below it, live ones and those that were waited for, but for the model server."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages) + sum(map(_cpu_of, _below()))


def _below() -> list[int]:
    """The processes below this one."""
    parents: dict[int, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(process.name))
        if fields and b"model_server.py" not in _command(process):
            parents.setdefault(int(fields[1]), []).append(int(process.name))
    found = [os.getpid()]
    for pid in found:
        found += parents.get(pid, [])
    return found[1:]


def _command(process: Path) -> bytes:
    with contextlib.suppress(OSError):
        return (process / "cmdline").read_bytes()
    return b""


def _cpu_of(pid: int) -> float:
    """Seconds of a live process, and of those that it has waited for."""
    return sum(map(int, _stat(pid)[11:15])) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[bytes]:
    """The fields of a process from its state on; none where it has ended meanwhile."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return []
