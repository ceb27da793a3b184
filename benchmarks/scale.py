"""The nation of `scenarios/policy` in many sizes, beside the least that its model calls can cost.

    python -m benchmarks.scale [--sizes 60 590 2000] [--latencies 0.5 2 lognormal:0.5,0.6] [--runs 1] [--no-floors]

The model is the scenario's script in a server process of its own; all else is real and durable. Every measurement has
a process of its own. `path` is the critical path of the calls that were made (`benchmarks/calls.py`), with no time but
the model's; the floors make the same calls again, in the same order of waiting, and keep nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.calls import Call, calls_of, critical_path
from benchmarks.floors import FLOORS
from benchmarks.server import MODEL, served
from benchmarks.watch import watched
from megagraph import MegaGraph
from megagraph.rehearsal import Script
from megagraph.scenario import Scenario, find_scenario
from tests.model_server import ModelServer, parse_latency

_SOURCE = """
from benchmarks.scale import script_of
script = script_of({size})
"""


@dataclass(frozen=True)
class Setting:
    size: int
    latency: str
    seed: int
    workers: int = 0

    @contextmanager
    def server(self) -> Iterator[tuple[Path, str]]:
        """A folder, and the URL of a model server in a process of its own."""
        source = _SOURCE.format(size=self.size)
        with (
            tempfile.TemporaryDirectory() as name,
            served(source, Path(name), self.latency, self.seed) as url,
        ):
            yield Path(name), url

    def seconds(self, agent: str, turn: int) -> float:
        """What the server takes for a turn."""
        return ModelServer(Script({}), latency=parse_latency(self.latency), seed=self.seed).latency_of(agent, turn)


def scenario_of(size: int) -> Scenario:
    """Without its checks, which play no part in how long the organisation takes."""
    scenario = find_scenario("policy", {"size": size})
    assert scenario is not None
    return replace(scenario, checks=())


def script_of(size: int) -> Script:
    script = scenario_of(size).script()
    assert script is not None
    return script


def megagraph(setting: Setting) -> tuple[dict[str, float], list[Call]]:
    """Figures of one run, and its calls."""

    async def work(folder: Path, url: str) -> tuple[dict[str, float], list[Call]]:
        home, workers = folder / "home", setting.workers
        async with MegaGraph(MODEL, base_url=url, home=home, workers=workers) as mega:
            async with watched() as figures:
                run = await mega.start(scenario_of(setting.size))
                result = await run.result()
            assert result.passed, result
            calls = calls_of(mega, run)
            read = mega.home.database.read
            pages, page = read("PRAGMA page_count")[0][0], read("PRAGMA page_size")[0][0]
            said = read("SELECT sum(length(answer) + length(heard)) FROM calls")[0][0]
            done = read("SELECT sum(length(args) + length(result)) FROM tool_calls")[0][0]
            agents = read("SELECT count(*) FROM agents")[0][0]
            return figures | {"agents": agents, "kb": (pages * page - said - done) / len(calls) / 1024}, calls

    with setting.server() as (folder, url):
        return asyncio.run(work(folder, url))


def floor(kind: str, setting: Setting, calls: Sequence[Call]) -> dict[str, float]:
    with setting.server() as (_, url):
        return asyncio.run(FLOORS[kind](calls, url))


def apart(work: Callable[..., Any], *args: Any) -> Any:
    """What `work` returns in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args).result()


COLUMNS = ("agents", "latency", "who", "calls", "path s", "makespan s", "ratio", "CPU ms/call", "peak MB")
NOTED = ("threads", "KB/call", "lag p99 ms", "load")


def line(setting: Setting, who: str, agents: float, calls: Sequence[Call], figures: dict[str, float]) -> str:
    path = critical_path(calls, setting.seconds)
    kb = f"{figures['kb']:.1f}" if "kb" in figures else "–"
    cells = (
        f"{agents:.0f}",
        setting.latency,
        who,
        str(len(calls)),
        f"{path:.2f}",
        f"{figures['seconds']:.2f}",
        f"{figures['seconds'] / path:.2f}",
        f"{1000 * figures['cpu'] / len(calls):.2f}",
        f"{figures['peak_mb']:.0f}",
        f"{figures['threads']:.0f}",
        kb,
        f"{figures['lag_ms']:.0f}",
        f"{os.getloadavg()[0]:.1f}",
    )
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", nargs="+", type=int, default=[60, 590, 2000])
    latencies = ["0.5", "2", "lognormal:0.5,0.6"]
    parser.add_argument("--latencies", nargs="+", default=latencies, help="SECONDS, or lognormal:MEAN,SIGMA")
    parser.add_argument("--runs", type=int, default=1, help="of which the one with the median makespan is told")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 2], help="worker processes; 0: all in one")
    parser.add_argument("--floors", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    names = (*COLUMNS, *NOTED)
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    for latency in options.latencies:
        for size in options.sizes:
            for workers in options.workers:
                setting = Setting(size, latency, seed=1, workers=workers)
                measured = [apart(megagraph, setting) for _ in range(options.runs)]
                median = statistics.median_low(figures["seconds"] for figures, _ in measured)
                figures, calls = next(m for m in measured if m[0]["seconds"] == median)
                who = f"megagraph, {workers} workers" if workers else "megagraph"
                print(line(setting, who, figures["agents"], calls, figures), flush=True)
            for kind in FLOORS if options.floors else ():
                print(line(setting, kind, figures["agents"], calls, apart(floor, kind, setting, calls)), flush=True)


if __name__ == "__main__":
    main()
