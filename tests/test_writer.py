"""The process that changes the files: killed at any moment, it is started again, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from megagraph.errors import ToolError
from megagraph.files.history import Author
from megagraph.files.packing import unpacked
from megagraph.files.workspace import Workspace
from megagraph.files.writer import Writer


def test_whoever_asks_a_writer_that_was_killed_is_answered(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "files.git")

    async def write(writer: Writer, name: str) -> bool:
        try:
            await writer.call("write", name, name, base=None, author=Author("boss", name))
        except ToolError as error:
            assert "Try again" in str(error)
            return False
        return True

    async def main() -> list[str]:
        writer = Writer(workspace.path)
        accepted = []
        for round_ in range(3):
            await writer.start()
            assert writer._child is not None
            os.kill(writer._child._process.pid, signal.SIGKILL)
            for n in range(40):
                # Whenever it comes to light that the process is dead, somebody is just asking.
                name = f"{round_}_{n}"
                task = asyncio.create_task(write(writer, name))
                await asyncio.sleep(0)
                if n >= 38 or task.done():
                    accepted += [name] if await asyncio.wait_for(task, 30) else []
                else:
                    pending.append((name, task))
        for name, task in pending:
            accepted += [name] if await asyncio.wait_for(task, 30) else []
        await writer.aclose()
        return accepted

    pending: list[tuple[str, asyncio.Task[bool]]] = []
    accepted = asyncio.run(main())
    assert len(accepted) >= 3
    assert set(accepted) <= set(workspace.paths())


def test_much_is_packed_after_the_writer_has_ended_and_whoever_deletes_it_waits(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "files.git")
    objects = workspace.path / "objects"

    async def main() -> None:
        writer = Writer(workspace.path)
        calls = (writer.call("write", f"{n}", f"{n}", base=None, author=Author("boss", f"{n}")) for n in range(400))
        await asyncio.gather(*calls)
        await writer.aclose()

    asyncio.run(main())
    with unpacked(workspace.path):
        assert [file.suffix for file in sorted((objects / "pack").iterdir())] == [".idx", ".pack"]
        assert not list(objects.glob("??/*"))
    assert len(Workspace(workspace.path).paths()) == 400
