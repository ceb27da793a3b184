"""What a measured program costs while it works: processor, memory, threads, and how late its event loop is."""

from __future__ import annotations

import asyncio
import contextlib
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
    """Of this process and of those that have ended below it, such as the writer of files."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
