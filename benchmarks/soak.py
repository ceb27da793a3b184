"""Generation after generation of teams in one run: do memory, latency and storage per step stay what they are?

    python -m benchmarks.soak [--minutes 1] [--windows 6] [--latency 0.02] [--context 32000]

A boss recruits a department, waits for it, dismisses it, and recruits the next. A department is a lead, who goes
through some teams of its own in the same way, and three members who write to one another and hand their files on. The
files are the same in every generation and written anew. The model is a script in a server process of its own; all
else is real and durable. A line of the table is a part of the time. What is read of the run for it is read by another
process: what that takes is not the run's.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import os
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.server import served
from benchmarks.watch import resident_mb
from megagraph import Limits, MegaGraph, Run
from megagraph.rehearsal import Brief, Heard, Script, Turn, call, finish, read_file, recruit, talk, wait_for, write_file

Play = Generator[Turn, Heard, None]

TEAMS = 3
"""Teams of a department's lead, one after the other."""

_EVER = Limits(
    calls=10**9,
    input_tokens=10**15,
    output_tokens=10**12,
    minutes=10**6,
    agents=10**9,
    rounds=10**9,
)

SOURCE = """
from benchmarks.soak import soak_script
script = soak_script({until})
"""


def soak_script(until: float) -> Script:
    """Generations until that moment, in seconds since the epoch."""

    def boss(brief: Brief) -> Turn:
        # Of what it has done, no more than the last turns are in its conversation.
        begun = [i for i, turn in enumerate(brief.past) if turn.calls and turn.calls[0].tool == "recruit"]
        if not begun:
            return department(0)
        names = [str(agent["name"]) for agent in brief.past[begun[-1]].calls[0].args["agents"]]
        number = int(names[0].rpartition("_")[2])
        last = brief.past[-1]
        if last.calls and last.calls[0].tool == "dismiss":
            return finish(f"{number + 1} generations") if time.time() > until else department(number + 1)
        letters = [letter for turn in brief.past[begun[-1] :] for letter in turn.heard.letters]
        reported = {sender for sender, kind, _ in letters if kind == "report"}
        # The idler never reports, and is dismissed.
        if missing := [name for name in names[:3] if name not in reported]:
            return f"I wait for {', '.join(missing)}."
        return call("dismiss", agents=names)

    def department(number: int) -> Turn:
        names = [f"{role}_{number}" for role in ("lead", "writer", "reader", "idler")]
        return recruit(*(_hire(name) for name in names[:2]), _hire(names[2], names[1]), _hire(names[3]))

    return Script({"boss": boss}, default=member)


def _hire(name: str, *depends_on: str) -> dict[str, Any]:
    return {"name": name, "role": name, "instructions": f"Be {name}.", "depends_on": list(depends_on)}


def member(brief: Brief) -> Play:
    role, _, number = brief.name.partition("_")
    match role:
        case "lead":
            for team in range(TEAMS):
                names = [f"maker_{number}_{team}_{i}" for i in range(2)]
                heard = yield recruit(*map(_hire, names))
                yield from wait_for(heard, names)
                yield call("dismiss", agents=names)
            yield finish("my teams are done")
        case "maker":
            path = f"parts/{brief.name.rpartition('_')[2]}.md"
            yield read_file(path)
            yield write_file(path, f"{brief.name}\n" * 20)
            yield finish("made", [path])
        case "writer":
            yield talk(f"idler_{number}", "Are you there?"), write_file("text.md", f"by {brief.name}\n" * 40)
            yield finish("written", ["text.md"])
        case "reader":
            yield read_file("text.md")
            yield finish("read")
        case _:
            while True:
                yield "I wait."


@dataclass(frozen=True)
class Look:
    """How things stand at one moment."""

    time: float
    cpu: float
    """Seconds of processor time that this process has used."""
    resident_mb: float
    writer_mb: float
    """Of the process that writes files."""
    descriptors: int
    threads: int
    tasks: int
    objects: int
    """What Python's garbage collector knows of."""
    database_mb: float
    log_mb: float
    """The database's write-ahead log."""
    files_mb: float


@dataclass(frozen=True)
class Steps:
    """What was done in a window. A step is an agent's model call and the tool calls that it asked for, up to its next
    question; its milliseconds are those beyond the model's latency."""

    agents: int
    """All that there ever were until now."""
    calls: int
    generations: int
    middle_ms: float
    slow_ms: float
    """One step of a hundred takes longer."""
    boss_ms: float
    """The middle of the boss's steps, whose conversation grows."""


class Watch:
    """Looks at a run that is at work in this process. `aside` is a process that reads what is to be read."""

    def __init__(self, mega: MegaGraph, run: Run, aside: Executor) -> None:
        self._run = run.id
        self._repository = mega.home.workspace(run.id).path
        self._database = mega.home.database.path
        self._aside = aside

    async def look(self) -> Look:
        files = await asyncio.get_running_loop().run_in_executor(self._aside, _space, self._repository)
        return await asyncio.to_thread(self._look, len(asyncio.all_tasks()), files)

    async def steps(self, begin: float, end: float, latency: float) -> Steps:
        what = self._database, self._run, begin, end, latency
        return await asyncio.get_running_loop().run_in_executor(self._aside, steps_between, *what)

    def _look(self, tasks: int, files: int) -> Look:
        log = self._database.with_name(self._database.name + "-wal")
        return Look(
            time.time(),
            time.process_time(),
            resident_mb(),
            sum(map(resident_mb, _writers())),
            sum(1 for _ in Path("/proc/self/fd").iterdir()),
            threading.active_count(),
            tasks,
            len(gc.get_objects()),
            self._database.stat().st_size / 1e6,
            log.stat().st_size / 1e6 if log.exists() else 0.0,
            files / 1e6,
        )


def _writers() -> Iterator[str]:
    """The processes of this one that write files."""
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"megagraph.files.writer" in Path(f"/proc/{child}/cmdline").read_bytes():
                yield child


def _space(folder: Path) -> int:
    """Bytes that a folder takes on disk."""
    total = 0
    for file in folder.rglob("*"):
        # The writer puts loose objects away meanwhile.
        with suppress(FileNotFoundError):
            total += 512 * file.stat().st_blocks
    return total


def steps_between(database: Path, run: str, begin: float, end: float, latency: float) -> Steps:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        calls = connection.execute(
            "SELECT c.agent, c.step, c.seconds, (SELECT coalesce(max(t.started + t.seconds) - c.started - c.seconds, 0)"
            "  FROM tool_calls t WHERE t.run = c.run AND t.agent = c.agent AND t.step = c.step)"
            " FROM calls c WHERE c.run = ? AND c.started BETWEEN ? AND ?",
            (run, begin, end),
        ).fetchall()
        [agents] = connection.execute("SELECT count(*) FROM agents WHERE run = ?", (run,)).fetchone()
    waits = [1000 * (max(0.0, seconds - latency) + tools) for _, _, seconds, tools in calls]
    return Steps(
        agents,
        len(calls),
        sum(agent.startswith("lead_") and step == 1 for agent, step, _, _ in calls),
        statistics.median(waits),
        statistics.quantiles(waits, n=100)[98],
        statistics.median(wait for call, wait in zip(calls, waits, strict=True) if call[0] == "boss"),
    )


COLUMNS = (
    "minute",
    "generations",
    "agents",
    "calls/s",
    "memory MB",
    "objects k",
    "writer MB",
    "CPU ms/call",
    "step p50 ms",
    "p99 ms",
    "boss p50 ms",
    "DB KB/call",
    "files KB/call",
    "WAL MB",
    "fds",
    "threads",
    "tasks",
    "load",
)


async def measure(minutes: float, windows: int, latency: float, context: int, folder: Path, url: str) -> None:
    async with MegaGraph(
        f"openai:scripted?context={context}", base_url=url, home=folder / "home", limits=_EVER
    ) as mega:
        run = await mega.start("Go on and on.")
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as aside:
            watch = Watch(mega, run, aside)
            # What is loaded once, and the caches of first use, are no growth.
            await asyncio.sleep(min(10.0, minutes * 6))
            begun = (look := await watch.look()).time
            for window in range(windows):
                before = look
                await asyncio.sleep(begun + (window + 1) * minutes * 60 / windows - time.time())
                look = await watch.look()
                print(line(begun, before, look, await watch.steps(before.time, look.time, latency)), flush=True)
        result = await run.result()
        assert result.passed, result.report


def line(begun: float, before: Look, look: Look, steps: Steps) -> str:
    cells = (
        f"{(look.time - begun) / 60:.1f}",
        str(steps.generations),
        str(steps.agents),
        f"{steps.calls / (look.time - before.time):.0f}",
        f"{look.resident_mb:.1f}",
        f"{look.objects / 1000:.0f}",
        f"{look.writer_mb:.1f}",
        f"{1000 * (look.cpu - before.cpu) / steps.calls:.1f}",
        f"{steps.middle_ms:.1f}",
        f"{steps.slow_ms:.0f}",
        f"{steps.boss_ms:.1f}",
        f"{1000 * (look.database_mb - before.database_mb) / steps.calls:.1f}",
        f"{1000 * (look.files_mb - before.files_mb) / steps.calls:.1f}",
        f"{look.log_mb:.1f}",
        str(look.descriptors),
        str(look.threads),
        str(look.tasks),
        f"{os.getloadavg()[0]:.1f}",
    )
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--windows", type=int, default=6, help="lines of the table")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds that the model takes")
    parser.add_argument("--context", type=int, default=32_000, help="the model's window, in tokens")
    options = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---:|" * len(COLUMNS))
    with tempfile.TemporaryDirectory() as name:
        until = time.time() + options.minutes * 60 + 30
        with served(SOURCE.format(until=until), Path(name), str(options.latency)) as url:
            asyncio.run(measure(options.minutes, options.windows, options.latency, options.context, Path(name), url))


if __name__ == "__main__":
    main()
