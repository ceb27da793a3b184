"""How much memory a live agent takes: one that has written a file and waits for the answer to its second call.

    python -m benchmarks.memory [--agents 200 2000]

The organisation of `benchmarks/organisation.py`, with a model so slow that all agents are alive at the same moment.
Each size has a process of its own. What an agent takes is what the larger organisation has more than the smaller one,
by the difference of agents: what is there only once does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from benchmarks.organisation import SOURCE
from benchmarks.scale import apart
from benchmarks.server import MODEL, served
from benchmarks.watch import resident_mb
from megagraph import Limits, MegaGraph


async def _measure(agents: int) -> float:
    # The last answer to a first call has to come in before the first one to a second call.
    latency = max(5.0, agents / 60)
    limits = Limits(agents=agents + 10, calls=100 * agents, input_tokens=10**9, output_tokens=10**8, width=agents)
    with (
        tempfile.TemporaryDirectory() as name,
        served(SOURCE.format(agents=agents), Path(name), str(latency)) as url,
    ):
        async with MegaGraph(MODEL, base_url=url, home=Path(name) / "home", limits=limits) as mega:
            run = await mega.start("Write the policies.")
            read, until = mega.home.database.read, time.monotonic() + 10 * latency
            while read("SELECT count(*) FROM calls WHERE step = 1")[0][0] < agents:
                assert time.monotonic() < until, "they did not all come to be"
                await asyncio.sleep(0.1)
            memory = resident_mb()
            assert not read("SELECT 1 FROM calls WHERE step = 2 LIMIT 1"), "some had ended before the last began"
            run.stop()
            return memory


def measure(agents: int) -> float:
    """Resident megabytes of a process whose `agents` are all alive."""
    return asyncio.run(_measure(agents))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--agents", nargs=2, type=int, default=[200, 2000])
    few, many = sorted(parser.parse_args().agents)
    less, more = apart(measure, few), apart(measure, many)
    print("| agents | memory MB | KB per live agent |\n|---:|---:|---:|")
    print(f"| {few} | {less:.0f} | |")
    print(f"| {many} | {more:.0f} | {1024 * (more - less) / (many - few):.0f} |")


if __name__ == "__main__":
    main()
