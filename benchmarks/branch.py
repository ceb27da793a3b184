"""Branch a finished run of 590 agents at several moments: how long it takes, and what a branch costs in storage.

python -m benchmarks.branch [AGENTS]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from benchmarks.organisation import tree_script
from megagraph import Limits, MegaGraph, Run
from megagraph.rehearsal import RehearsalModel


async def measure(agents: int, home: Path) -> None:
    limits = Limits(agents=agents + 10, calls=100 * agents, width=agents, depth=3, minutes=600)
    async with MegaGraph(RehearsalModel(script=tree_script(agents)), home=home, limits=limits) as mega:
        begun = time.perf_counter()
        run = await mega.start("Write the policies.")
        result = await run.result()
        assert result.status == "done", result
        seconds = time.perf_counter() - begun
        size = _rows(mega, run)
        print(f"the run: {agents} agents, {result.calls} calls, {seconds:.1f} s, {size / 2**20:.1f} MB of rows")
        print(f"{'at':>24}  {'plan s':>8}  {'branch s':>8}  {'kept calls':>10}  {'rows MB':>8}  {'files KB':>8}")
        for at in ("boss:act#1", "ministry_3:think#1", "member_3_1:think#2", "boss:think#2", "now"):
            files = _files(run)
            begun = time.perf_counter()
            plan = await run.plan_branch(at)
            planned = time.perf_counter() - begun
            begun = time.perf_counter()
            branch = await run.branch(at)
            made = time.perf_counter() - begun
            kept = plan.dump()["kept"]["calls"]
            rows, more = _rows(mega, branch) / 2**20, (_files(run) - files) / 1024
            print(f"{at:>24}  {planned:8.2f}  {made:8.2f}  {kept:10}  {rows:8.1f}  {more:8.1f}")
        begun = time.perf_counter()
        again = await (await mega.resume(branch.id)).result()
        print(f"going on from `now` to the end, with no call: {time.perf_counter() - begun:.2f} s ({again.status})")


def _rows(mega: MegaGraph, run: Run) -> int:
    """Bytes of everything that is kept of a run but its files, indexes not counted."""
    total = 0
    for table in ("agents", "calls", "tool_calls", "letters", "questions", "events", "checkpoints", "writes"):
        columns = [row["name"] for row in mega.home.database.read(f"SELECT name FROM pragma_table_info('{table}')")]
        lengths = " + ".join(f"coalesce(length({column}), 0)" for column in columns)
        where = "run = ?"
        if table in ("checkpoints", "writes"):
            where = "namespace IN (SELECT id FROM namespaces WHERE thread_id = ?)"
        total += mega.home.database.read(f"SELECT coalesce(sum({lengths}), 0) FROM {table} WHERE {where}", (run.id,))[
            0
        ][0]
    return total


def _files(run: Run) -> int:
    """Bytes of the repository that a family shares."""
    return sum(file.stat().st_size for file in run.workspace.path.rglob("*") if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("agents", nargs="?", type=int, default=590)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(options.agents, Path(folder)))


if __name__ == "__main__":
    main()
