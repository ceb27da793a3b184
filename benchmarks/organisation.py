"""An organisation on three levels against a model server in a process of its own: how long, and what it costs.

    python -m benchmarks.organisation [AGENTS ...] [--latency SECONDS]

Everything is durable. `ratio` is the makespan over the critical path: the same tree with no time but the
model's. `floor` columns come from the same machine in the same minute.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

from benchmarks.server import MODEL, served
from benchmarks.watch import cpu_seconds
from megagraph import Limits, MegaGraph
from megagraph.rehearsal import Brief, Heard, Part, Script, Turn, finish, recruit, wait_for, write_file

WIDTH = 8
"""Members of a ministry."""


def tree_script(agents: int) -> Script:
    """A boss, ministries, and members of about `WIDTH` each; everybody writes a file and reports."""
    ministries = max(1, round((agents - 1) / (WIDTH + 1)))
    members = [(agents - 1 - ministries) // ministries] * ministries
    for i in range(agents - 1 - ministries - sum(members)):
        members[i] += 1

    def boss(brief: Brief) -> Generator[Turn, Heard, None]:
        names = [f"ministry_{i}" for i in range(ministries)]
        heard = yield recruit(*({"name": n, "role": "minister", "instructions": f"lead {n}"} for n in names))
        yield from wait_for(heard, names)
        yield finish("all ministries have reported")

    def minister(number: int) -> Part:
        def part(brief: Brief) -> Generator[Turn, Heard, None]:
            names = [f"member_{number}_{i}" for i in range(members[number])]
            heard = yield recruit(*({"name": n, "role": "member", "instructions": f"write {n}"} for n in names))
            yield from wait_for(heard, names)
            yield finish("my members have reported")

        return part

    def member(brief: Brief) -> Generator[Turn, Heard, None]:
        yield write_file(f"policies/{brief.name}.md", f"The policy of {brief.name}.\n" * 10)
        yield finish("written", [f"policies/{brief.name}.md"])

    return Script({"boss": boss, **{f"ministry_{i}": minister(i) for i in range(ministries)}}, default=member)


def critical_path(latency: float) -> float:
    """Boss, minister, member (two calls), minister, boss: one after the other."""
    return 6 * latency


SOURCE = """
from benchmarks.organisation import tree_script
script = tree_script({agents})
"""


async def measure(agents: int, latency: float) -> dict[str, float]:
    with (
        tempfile.TemporaryDirectory() as folder,
        served(SOURCE.format(agents=agents), Path(folder), str(latency)) as url,
    ):
        limits = Limits(
            agents=agents + 10, calls=100 * agents, input_tokens=10**9, output_tokens=10**8, width=agents, depth=3
        )
        async with MegaGraph(MODEL, base_url=url, home=Path(folder) / "home", limits=limits) as mega:
            cpu, begun = cpu_seconds(), time.perf_counter()
            run = await mega.start("Write the policies.")
            result = await run.result()
            seconds = time.perf_counter() - begun
            cpu = cpu_seconds() - cpu
            assert result.status == "done", result
            database = mega.home.database
            steps = database.read("SELECT count(*) FROM checkpoints")[0][0]
            await database.write()
            pages, page = database.read("PRAGMA page_count")[0][0], database.read("PRAGMA page_size")[0][0]
            said = database.read("SELECT sum(length(answer) + length(heard)) FROM calls")[0][0]
            done = database.read("SELECT sum(length(args) + length(result)) FROM tool_calls")[0][0]
            return {
                "agents": agents,
                "calls": result.calls,
                "makespan s": seconds,
                "ratio": seconds / critical_path(latency),
                "CPU ms/call": 1000 * cpu / result.calls,
                "steps/call": steps / result.calls,
                "commits/call": database.commits / result.calls,
                "KB/call": (pages * page - said - done) / result.calls / 1024,
                "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("agents", nargs="*", type=int, default=[60, 300])
    parser.add_argument("--latency", type=float, default=0.5)
    options = parser.parse_args()
    asyncio.run(measure(3, 0.01))  # imports, and the caches of first use
    for i, agents in enumerate(options.agents):
        row = asyncio.run(measure(agents, options.latency))
        if i == 0:
            print("  ".join(f"{name:>12}" for name in row))
        print("  ".join(f"{value:>12.2f}" if isinstance(value, float) else f"{value:>12}" for value in row.values()))


if __name__ == "__main__":
    main()
