"""What following a large organisation costs: CPU of its process with a follower against CPU without.

    python -m benchmarks.events [AGENTS] [--latency SECONDS] [--rounds N]

Against a model server in a process of its own; everything is durable. The ways to follow:

    stream     `async for event in run`, in the process that works
    tree       the same, and the terminal's picture of it, drawn as often as `megagraph run` does
    process    `megagraph watch --json` in another process
    langgraph  for comparison: the same events through LangGraph's `stream_mode="custom"` over all subgraphs

The least of some rounds is taken, since other work on the machine only ever adds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from langgraph.config import get_stream_writer
from rich.console import Console

from benchmarks.organisation import _cpu, model_server
from megagraph import Limits, MegaGraph, Run
from megagraph.display import painted
from megagraph.events import Event
from megagraph.organisation import Organisation
from megagraph.team import AgentGraph
from megagraph.view import View


class Followed(NamedTuple):
    """How many events a follower was told, and the CPU seconds that it used in a process of its own."""

    events: int
    cpu: float = 0.0


async def nobody(run: Run, home: Path) -> Followed:
    await run.result()
    return Followed(0)


async def stream(run: Run, home: Path) -> Followed:
    return Followed(len([event async for event in run]))


async def tree(run: Run, home: Path) -> Followed:
    console = Console(file=io.StringIO(), force_terminal=True, width=200, height=50)
    view, seen = View(), 0
    async with painted(console, view, run.id):
        async for event in run:
            view.apply(event)
            seen += 1
    return Followed(seen)


async def process(run: Run, home: Path) -> Followed:
    return await asyncio.to_thread(_process, run.id, home)


def _process(run: str, home: Path) -> Followed:
    argv = [sys.executable, "-m", "megagraph", "watch", run, "--json"]
    with (home.parent / "told").open("w+") as file:
        child = subprocess.Popen(argv, env={**os.environ, "MEGAGRAPH_HOME": str(home)}, stdout=file)
        _, child.returncode, usage = os.wait4(child.pid, 0)
        file.seek(0)
        return Followed(sum(1 for _ in file), usage.ru_utime + usage.ru_stime)


async def langgraph(run: Run, home: Path) -> Followed:
    await run.result()
    return Followed(len(_CUSTOM))


_CUSTOM: list[Event] = []


@contextmanager
def through_langgraph() -> Iterator[None]:
    """Let every event go through the writer of LangGraph's stream, too, and read them at its end."""
    event, ainvoke = Organisation.event, AgentGraph.ainvoke
    _CUSTOM.clear()

    def told(org: Organisation, *args: Any, **data: Any) -> Event:
        made = event(org, *args, **data)
        with contextlib.suppress(RuntimeError):  # Outside of a node there is no writer.
            get_stream_writer()(made)
        return made

    async def streamed(graph: Any, input: Any, config: Any = None, **kwargs: Any) -> Any:
        if "control" not in kwargs:
            return await ainvoke(graph, input, config, **kwargs)
        state: Any = {}
        modes = ["custom", "values"]
        async for namespace, mode, chunk in graph.astream(input, config, stream_mode=modes, subgraphs=True, **kwargs):
            if mode == "custom":
                _CUSTOM.append(chunk)
            elif not namespace:
                state = chunk
        return state

    with patch.object(Organisation, "event", told), patch.object(AgentGraph, "ainvoke", streamed):
        yield


WAYS: dict[str, Callable[[Run, Path], Awaitable[Followed]]] = {
    way.__name__: way for way in (nobody, stream, tree, process, langgraph)
}


async def measure(way: str, agents: int, latency: float) -> tuple[float, Followed]:
    """CPU seconds of the working process, and what its follower was told."""
    with tempfile.TemporaryDirectory() as folder, model_server(agents, latency, Path(folder)) as url:
        home = Path(folder) / "home"
        limits = Limits(agents=agents + 10, calls=100 * agents, width=agents, depth=3)
        os.environ.setdefault("OPENAI_API_KEY", "benchmark")
        async with MegaGraph("openai:scripted", base_url=url, home=home, limits=limits) as mega:
            before = _cpu()
            with through_langgraph() if way == "langgraph" else contextlib.nullcontext():
                run = await mega.start("Write the policies.")
                followed = await WAYS[way](run, home)
                result = await run.result()
            assert result.status == "done", result
            return _cpu() - before - followed.cpu, followed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("agents", nargs="?", type=int, default=600)
    parser.add_argument("--latency", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    asyncio.run(measure("nobody", 3, 0.01))  # imports, and the caches of first use
    least: dict[str, float] = {}
    print(f"{'round':>5}  {'way':>10}  {'events':>8}  {'CPU s':>7}  {'least':>7}  {'more':>7}  {'follower, CPU s':>15}")
    for number in range(options.rounds):
        for way in WAYS:
            cpu, followed = asyncio.run(measure(way, options.agents, options.latency))
            least[way] = min(cpu, least.get(way, cpu))
            more = least[way] / least["nobody"] - 1
            row = f"{number + 1:>5}  {way:>10}  {followed.events:>8}  {cpu:>7.2f}  {least[way]:>7.2f}  {more:>7.1%}"
            print(f"{row}  {followed.cpu:>15.2f}", flush=True)


if __name__ == "__main__":
    main()
