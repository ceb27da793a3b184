"""Interactive programs: read until they wait for input, and ended with everything they started."""

from __future__ import annotations

import asyncio
import textwrap
import time
from pathlib import Path

import pytest

from megagraph.errors import ToolError
from megagraph.programs.process import Outcome
from megagraph.programs.sandbox import ProgramLimits, Sandbox
from megagraph.programs.terminal import Terminal, Terminals
from tests.sandboxes import ALL, marked, new_mark, wait_for_file

everywhere = pytest.mark.parametrize("sandbox", ALL, ids=lambda sandbox: sandbox.name)

GAME = """
import time
print("welcome")
while (move := input("your move> ")) != "quit":
    print("thinking")
    until = time.process_time() + 0.5
    while time.process_time() < until:
        pass
    print("I play", move.upper())
open("game.log", "w").write("over")
print("bye")
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    return folder


async def begin(sandbox: Sandbox, tree: Path, code: str, limits: ProgramLimits | None = None) -> Terminal:
    (tree / "main.py").write_text(textwrap.dedent(code))
    return await Terminal.start(sandbox, ["python", "main.py"], tree, limits)


@everywhere
def test_a_game_is_played(sandbox: Sandbox, tree: Path) -> None:
    async def main() -> tuple[list[str], Outcome]:
        game = await begin(sandbox, tree, GAME)
        said = [await game.read(), await game.send("a1\n"), await game.send("é\n"), await game.send("quit\n")]
        assert not game.running
        with pytest.raises(ToolError, match="ended"):
            await game.send("b2\n")
        return said, await game.stop()

    said, outcome = asyncio.run(main())
    assert said == [
        "welcome\nyour move> ",
        "thinking\nI play A1\nyour move> ",
        "thinking\nI play É\nyour move> ",
        "bye\n\n[the program has ended with exit code 0]",
    ]
    assert (outcome.exit_code, outcome.ended, outcome.changes) == (0, "exited", {"game.log": b"over"})


@everywhere
def test_reading_until_a_pattern(sandbox: Sandbox, tree: Path) -> None:
    async def main() -> str:
        program = await begin(
            sandbox,
            tree,
            """
            import time
            print("one"); time.sleep(1); print("two"); time.sleep(1); print("ready>")
            input()
            """,
        )
        try:
            with pytest.raises(ToolError, match="regular expression"):
                await program.read(until="(")
            return await program.read(until=r"ready>$", seconds=120)
        finally:
            await program.stop()

    assert asyncio.run(main()).split() == ["one", "two", "ready>"]


def test_a_pattern_that_takes_for_ever_stops_nobody(tree: Path) -> None:
    async def main() -> None:
        program = await begin(ALL[0], tree, "print('a' * 60 + '!'); input()")
        search = asyncio.create_task(program.read(until="(a|a)+$", seconds=60))
        beats = 0
        while not search.done():
            await asyncio.sleep(0.02)
            beats += 1
        assert beats > 10, "the loop went on meanwhile"
        with pytest.raises(ToolError, match="simpler"):
            await search
        assert "!" in await program.read(), "what it has printed is still there"
        await program.stop()

    asyncio.run(main())


@everywhere
def test_a_silent_program_is_not_waited_for_without_end(sandbox: Sandbox, tree: Path) -> None:
    async def main() -> tuple[str, Outcome]:
        program = await begin(sandbox, tree, "import time; time.sleep(600)")
        return await program.read(seconds=1), await program.stop()

    said, outcome = asyncio.run(main())
    assert said == ""
    assert (outcome.ended, outcome.exit_code) == ("stopped", None)
    assert outcome.text().startswith("stopped by you")


@everywhere
def test_stop_ends_everything_and_keeps_the_files(sandbox: Sandbox, tree: Path) -> None:
    mark = new_mark()
    (tree / "main.py").write_text(
        textwrap.dedent(
            """
            import os, time
            if os.fork() == 0:
                os.setsid()
                time.sleep(600)
            open("half.txt", "w").write("half")
            print("up")
            time.sleep(600)
            """
        )
    )

    async def main() -> Outcome:
        program = await Terminal.start(sandbox, ["python", "main.py", mark], tree)
        assert await program.read(until="up\n") == "up\n"
        assert marked(mark)
        first = await program.stop()
        assert marked(mark) == []
        assert await program.stop() is first
        return first

    assert asyncio.run(main()).changes == {"half.txt": b"half"}


@everywhere
def test_a_program_that_closes_its_terminal(sandbox: Sandbox, tree: Path) -> None:
    mark = new_mark()
    (tree / "main.py").write_text(
        "import os, time\nprint('closing')\nfor fd in (0, 1, 2): os.close(fd)\nwhile True: time.sleep(1)\n"
    )

    async def main() -> Outcome:
        program = await Terminal.start(sandbox, ["python", "main.py", mark], tree, ProgramLimits(session_seconds=3))
        assert await program.read(until="closing\n") == "closing\n"
        await program.send("anyone?\n", seconds=0.5)
        while program.running:
            await program.read(seconds=1)
        assert marked(mark) == []
        return await program.stop()

    assert asyncio.run(main()).ended == "timed out"


@everywhere
def test_endless_output_is_stopped(sandbox: Sandbox, tree: Path) -> None:
    async def main() -> tuple[str, Outcome]:
        program = await begin(sandbox, tree, "while True: print('spam ' * 100)", ProgramLimits(output_kb=2))
        return await program.read(until="never", seconds=20), await program.stop()

    said, outcome = asyncio.run(main())
    assert outcome.ended == "output"
    assert len(said) < 3000
    assert "the program was stopped (output)" in said


@everywhere
def test_input_that_nobody_reads(sandbox: Sandbox, tree: Path) -> None:
    async def main() -> None:
        program = await begin(sandbox, tree, "print('deaf')\nimport time; time.sleep(600)")
        await program.read(until="deaf")
        try:
            with pytest.raises(ToolError, match="bytes at most"):
                await program.send("x" * 5000)
            with pytest.raises(ToolError, match="does not read"):
                await program.send("line\n" * 20_000, seconds=1)
        finally:
            await program.stop()

    asyncio.run(main())


@everywhere
def test_it_ends_with_the_run(sandbox: Sandbox, tree: Path) -> None:
    mark = new_mark()
    (tree / "main.py").write_text("open('started', 'w').close()\nwhile True: pass\n")

    async def main() -> None:
        await Terminal.start(sandbox, ["python", "main.py", mark], tree)
        await asyncio.to_thread(wait_for_file, tree / "started")

    asyncio.run(main())
    assert marked(mark) == []


@everywhere
def test_a_run_has_a_bounded_number(sandbox: Sandbox, tmp_path: Path) -> None:
    async def main() -> None:
        terminals = Terminals(sandbox, most=2)
        trees = [tmp_path / str(n) for n in range(3)]
        for folder in trees:
            folder.mkdir()
        argv = ["python", "-c", "print(input('? '))"]
        one, two = [await terminals.start(argv, folder) for folder in trees[:2]]
        with pytest.raises(ToolError, match="stop one first"):
            await terminals.start(argv, trees[2])
        assert await terminals[one].send("first\n", until="first") != ""
        assert (await terminals.stop(one)).limits is not None
        with pytest.raises(ToolError, match="no interactive program"):
            _ = terminals[one]
        three = await terminals.start(argv, trees[2])
        assert three not in (one, two)
        started = time.monotonic()
        await terminals.close()
        assert time.monotonic() - started < 10

    asyncio.run(main())
