"""What following a large organisation costs, as a share of the CPU of the run itself.

    python -m benchmarks.events [AGENTS] [--latency SECONDS]

One run against a model server in a process of its own, everything durable, watched by `megagraph watch --json` in
another process. The CPU of one run and the next differ by more than following costs, so the ways to follow are
measured by themselves, each with the events of that run; the least of three counts:

    stream     through the stream to an `async for`
    tree       the same, and the terminal's picture of it, drawn as often as in the time of the run
    langgraph  for comparison: through LangGraph's `stream_mode="custom"` from as many nodes, less the same without
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from rich.console import Console
from rich.live import Live
from typing_extensions import TypedDict

from benchmarks.organisation import SOURCE, WIDTH
from benchmarks.server import MODEL, served
from benchmarks.watch import cpu_seconds
from megagraph import Limits, MegaGraph
from megagraph.display import FRAME, REST, picture
from megagraph.events import Event
from megagraph.stream import Stream
from megagraph.view import View


class Recorded(NamedTuple):
    """A run: its events, how long it took, its CPU, and that of the process that watched it."""

    events: list[Event]
    seconds: float
    cpu: float
    watcher: float


async def record(agents: int, latency: float) -> Recorded:
    with (
        tempfile.TemporaryDirectory() as folder,
        served(SOURCE.format(agents=agents), Path(folder), str(latency)) as url,
    ):
        home = Path(folder) / "home"
        limits = Limits(agents=agents + 10, calls=100 * agents, width=agents, depth=3)
        async with MegaGraph(MODEL, base_url=url, home=home, limits=limits) as mega:
            cpu, begun = cpu_seconds(), time.perf_counter()
            run = await mega.start("Write the policies.")
            told, watcher = await asyncio.to_thread(_watch, run.id, home)
            result = await run.result()
            assert result.status == "done", result
            events = run.events()
            assert told == len(events)
            return Recorded(events, time.perf_counter() - begun, cpu_seconds() - cpu - watcher, watcher)


def _watch(run: str, home: Path) -> tuple[int, float]:
    """How many events another process was told, and its CPU."""
    argv = [sys.executable, "-m", "megagraph", "watch", run, "--json"]
    with (home.parent / "told").open("w+") as file:
        child = subprocess.Popen(argv, env={**os.environ, "MEGAGRAPH_HOME": str(home)}, stdout=file)
        _, child.returncode, usage = os.wait4(child.pid, 0)
        file.seek(0)
        return sum(1 for _ in file), usage.ru_utime + usage.ru_stime


async def stream(events: Sequence[Event], seconds: float, agents: int) -> None:
    """Every event wakes its listener: none is told before the last one was taken."""
    source = Stream()
    listener = source.listen()

    async def tell() -> None:
        for event in events:
            source.send(event)
            await asyncio.sleep(0)
        source.end()

    telling = asyncio.create_task(tell())
    assert [event async for event in listener] == events
    await telling


async def tree(events: Sequence[Event], seconds: float, agents: int) -> None:
    await stream(events, seconds, agents)
    view, done = View(), 0
    begun, end = events[0].time, events[-1].time
    with Live(
        console=Console(file=io.StringIO(), force_terminal=True, width=200, height=50), auto_refresh=False
    ) as live:
        now = begun
        while now < end:
            frame = time.thread_time()
            live.update(picture(view, "0" * 8, 200, 50), refresh=True)
            now += max(FRAME, REST * (time.thread_time() - frame))
            while done < len(events) and events[done].time <= now:
                view.apply(events[done])
                done += 1


class _State(TypedDict, total=False):
    nothing: int


def _organisation(agents: int, each: Sequence[Event], writes: bool) -> Any:
    """A boss, ministries and members as a plain graph, each of whom says its share of the events or nothing."""

    async def speak(state: _State) -> None:
        if writes:
            writer = get_stream_writer()
            for event in each:
                writer(event)

    def team(size: int, node: Any) -> Any:
        graph = StateGraph(_State)
        for i in range(size):
            graph.add_node(f"n{i}", node)
            graph.add_edge(START, f"n{i}")
        return graph.compile()

    return team(max(1, agents // (WIDTH + 1)), team(WIDTH + 1, speak))


def langgraph(writes: bool) -> Callable[[Sequence[Event], float, int], Awaitable[None]]:
    async def follow(events: Sequence[Event], seconds: float, agents: int) -> None:
        graph = _organisation(agents, events[: len(events) // agents], writes)
        told = 0
        if writes:
            async for _ in graph.astream({}, stream_mode="custom", subgraphs=True):
                told += 1
            assert told > 0.9 * len(events) * agents / (agents + WIDTH)
        else:
            await graph.ainvoke({})

    return follow


def least(way: Callable[[Sequence[Event], float, int], Awaitable[None]], run: Recorded, agents: int) -> float:
    """CPU seconds of a way to follow."""

    def once() -> float:
        begun = time.process_time()
        asyncio.run(_wait(way(run.events, run.seconds, agents)))
        return time.process_time() - begun

    return min(once() for _ in range(3))


async def _wait(what: Awaitable[None]) -> None:
    await what


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("agents", nargs="?", type=int, default=600)
    parser.add_argument("--latency", type=float, default=2.0)
    options = parser.parse_args()
    asyncio.run(record(3, 0.01))  # imports, and the caches of first use
    run = asyncio.run(record(options.agents, options.latency))
    print(f"{options.agents} agents, {len(run.events)} events, {run.seconds:.1f} s, {run.cpu:.2f} s of CPU")
    ways = {"stream": least(stream, run, options.agents), "tree": least(tree, run, options.agents)}
    ways["langgraph"] = least(langgraph(True), run, options.agents) - least(langgraph(False), run, options.agents)
    print(f"{'way':>16}  {'CPU s':>7}  {'share of the run':>16}")
    for way, cpu in ways.items():
        print(f"{way:>16}  {cpu:>7.3f}  {cpu / run.cpu:>16.2%}")
    print(f"{'another process':>16}  {run.watcher:>7.3f}  its own, its start included")


if __name__ == "__main__":
    main()
