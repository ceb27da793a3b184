"""Commits a second by many agents at once, beside the same work through the `git` program.

    python benchmarks/files.py [--agents 600] [--files 3] [--git-agents 20]

Every agent writes its files as megagraph does it: a thread per tool call, while the event loop goes on. The
longest wait of that loop is measured too. Agents come in over the first tenth of a second, for to start them all
at once would make the loop wait for itself. `git` is given fewer agents: its rate does not depend on them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from megagraph.files.history import Author
from megagraph.files.workspace import Workspace

Place = Callable[[int, int], str]

LAYOUTS: dict[str, Place] = {
    "a folder each": lambda agent, n: f"agent_{agent:03}/file_{n}.py",
    "one folder for all": lambda agent, n: f"agent_{agent:03}_file_{n}.py",
}


def source(agent: int, n: int) -> str:
    lines = [f'"""Part {n} by agent {agent}."""', "", *(f"VALUE_{i} = {i * agent}" for i in range(40))]
    return "\n".join(lines) + "\n"


async def in_process(path: Path, place: Place, agents: int, files: int) -> tuple[float, float]:
    """Seconds for all, and the longest wait of the event loop."""
    workspace = Workspace(path)
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            longest = max(longest, time.perf_counter() - before - 0.001)

    async def agent(number: int) -> None:
        await asyncio.sleep(0.1 * number / agents)
        for n in range(files):
            author = Author(f"agent_{number:03}", f"agent_{number:03}/{n}/0")
            text = source(number, n)
            await asyncio.to_thread(workspace.write, place(number, n), text, base=None, author=author)

    watcher = asyncio.create_task(watch())
    begin = time.perf_counter()
    await asyncio.gather(*(agent(number) for number in range(agents)))
    seconds = time.perf_counter() - begin
    watcher.cancel()
    assert len(workspace.files()) == len(workspace.changes()) == agents * files
    return seconds, longest


def by_program(path: Path, place: Place, agents: int, files: int) -> float:
    """Seconds for the same commits, made one after the other in a checkout."""
    names = ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")
    environment = os.environ | dict.fromkeys(names, "agent@example")

    def git(*arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=path, env=environment, check=True, capture_output=True)

    path.mkdir()
    git("init")
    begin = time.perf_counter()
    for n in range(files):
        for agent in range(agents):
            file = path / place(agent, n)
            file.parent.mkdir(exist_ok=True)
            file.write_text(source(agent, n))
            git("add", place(agent, n))
            git("commit", "-m", f"agent_{agent:03}: write {file.name}")
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--agents", type=int, default=600)
    parser.add_argument("--files", type=int, default=3)
    parser.add_argument("--git-agents", type=int, default=20)
    options = parser.parse_args()
    print(f"{'layout':20} {'way':12} {'commits':>8} {'per second':>11} {'longest loop wait':>18}")
    with tempfile.TemporaryDirectory() as folder:
        for number, (layout, place) in enumerate(LAYOUTS.items()):
            path = Path(folder) / f"in_process_{number}"
            seconds, wait = asyncio.run(in_process(path, place, options.agents, options.files))
            count = options.agents * options.files
            print(f"{layout:20} {'megagraph':12} {count:8} {count / seconds:11.0f} {wait * 1000:15.1f} ms")
            seconds = by_program(Path(folder) / f"program_{number}", place, options.git_agents, options.files)
            count = options.git_agents * options.files
            print(f"{layout:20} {'git program':12} {count:8} {count / seconds:11.0f} {'-':>18}")


if __name__ == "__main__":
    main()
