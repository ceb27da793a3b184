"""The gate against a provider that takes 20 calls at once, and not a word more.

    python -m benchmarks.gate [--agents 200] [--latency 0.5]

`refused` is the share of all requests; `throughput` is that of 20 calls in flight all the time, as far as the
organisation has so many to make: the same run by one who knows the 20. The second table is a chain of twelve
beside a wide team, with the order in which calls wait by rank, and first come first served.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from unittest.mock import patch

from benchmarks.organisation import tree_script
from megagraph import Limits, MegaGraph
from megagraph.models import Asker
from megagraph.organisation import Organisation
from megagraph.rehearsal import Brief, Heard, Script, Turn, finish, recruit, wait_for
from tests.model_server import ModelServer

IN_FLIGHT = 20
CHAIN = 12


def chain_script(width: int) -> Script:
    """A wide team, and beside it a chain in which each waits for the one before."""

    def boss(brief: Brief) -> Generator[Turn, Heard, None]:
        heard = yield recruit(
            {"name": "wide", "role": "lead", "instructions": "lead many"},
            {"name": "long", "role": "lead", "instructions": "lead a chain"},
        )
        yield from wait_for(heard, ["wide", "long"])
        yield finish("both have reported")

    def wide(brief: Brief) -> Generator[Turn, Heard, None]:
        names = [f"leaf_{i}" for i in range(width)]
        heard = yield recruit(*({"name": n, "role": "leaf", "instructions": "say so"} for n in names))
        yield from wait_for(heard, names)
        yield finish("all leaves have reported")

    def long(brief: Brief) -> Generator[Turn, Heard, None]:
        names = [f"link_{i}" for i in range(CHAIN)]
        before = [[], *([name] for name in names)]
        heard = yield recruit(
            *(
                {"name": n, "role": "link", "instructions": "say so", "depends_on": b}
                for n, b in zip(names, before, strict=False)
            )
        )
        yield from wait_for(heard, names)
        yield finish("the chain has come to its end")

    def member(brief: Brief) -> Generator[Turn, Heard, None]:
        yield finish("done")

    return Script({"boss": boss, "wide": wide, "long": long}, default=member)


async def measure(script: Script, agents: int, latency: float, *, options: str = "") -> dict[str, float]:
    os.environ.setdefault("OPENAI_API_KEY", "benchmark")
    limits = Limits(agents=agents + 10, calls=100 * agents, width=agents, depth=3, minutes=60)
    with (
        tempfile.TemporaryDirectory() as folder,
        ModelServer(script, latency=latency, max_in_flight=IN_FLIGHT) as server,
    ):
        async with MegaGraph(f"openai:scripted{options}", base_url=server.url, home=folder, limits=limits) as mega:
            begun = time.perf_counter()
            result = await (await mega.start("Write the policies.")).result()
            seconds = time.perf_counter() - begun
            assert result.status == "done", result
        refused = sum(record.status == 429 for record in server.log)
        return {
            "calls": result.calls,
            "refused %": 100 * refused / len(server.log),
            "seconds": seconds,
            "calls/s": result.calls / seconds,
        }


@contextmanager
def first_come_first_served() -> Iterator[None]:
    """All calls of one rank and one team."""
    with patch.object(Organisation, "asker", lambda org, name: Asker(name)):
        yield


def show(name: str, row: dict[str, float]) -> None:
    print(f"{name:>28}" + "".join(f"{value:>14.1f}" for value in row.values()))


async def compare(agents: int, latency: float) -> None:
    script = tree_script(agents)
    await measure(tree_script(3), 3, 0.01)  # imports, and the caches of first use
    known = await measure(script, agents, latency, options=f"?in_flight={IN_FLIGHT}")
    found = await measure(script, agents, latency)
    print(f"{'':>28}" + "".join(f"{name:>14}" for name in found))
    show("the 20 known", known)
    show("the 20 found out", found)
    print(f"{'throughput':>28}{100 * found['calls/s'] / known['calls/s']:>13.0f}%")
    print(f"\na chain of {CHAIN} beside {agents} leaves, {IN_FLIGHT} calls at once")
    with first_come_first_served():
        show("first come, first served", await measure(chain_script(agents), agents + CHAIN + 3, latency))
    show("by rank", await measure(chain_script(agents), agents + CHAIN + 3, latency))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--agents", type=int, default=200)
    parser.add_argument("--latency", type=float, default=0.5)
    options = parser.parse_args()
    asyncio.run(compare(options.agents, options.latency))


if __name__ == "__main__":
    main()
