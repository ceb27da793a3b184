"""The folder in which runs live: found, opened, locked, and refused untouched where it cannot be used."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from megagraph.errors import HomeError, RunBusy, RunNotFound
from megagraph.home import Home, home_path, is_home


def add_run(home: Home, run: str, created: float) -> None:
    sql = "INSERT INTO runs (run, created, status, goal) VALUES (?, ?, 'paused', 'g')"
    home.database.write_sync((sql, (run, created)))


def test_where_a_home_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEGAGRAPH_HOME", raising=False)
    assert home_path() == tmp_path / ".megagraph"
    monkeypatch.setenv("MEGAGRAPH_HOME", "elsewhere")
    assert home_path() == tmp_path / "elsewhere"
    assert home_path("named") == tmp_path / "named"
    assert home_path("~/x") == Path.home() / "x"
    assert not is_home(home_path())
    Home().close()
    assert is_home(home_path())


def test_runs_are_found_by_id_by_its_beginning_and_as_the_last(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(RunNotFound, match=r"no runs in .* yet. Start one"):
        home.find("last")
    first, second, third = (f"{digits}-0000-4000-8000-000000000000" for digits in ("aa11", "aa22", "bb33"))
    for n, run in enumerate((first, third, second)):
        add_run(home, run, n)
    assert home.find("last")["run"] == second
    assert home.find("bb")["run"] == third
    assert home.find(first)["run"] == first
    assert [row["run"] for row in home.runs()] == [second, third, first]
    for wrong, why in (("aa", "2 runs of .* begin with `aa`"), ("cc", "no run `cc`"), ("%", "no run"), ("", "no run")):
        with pytest.raises(RunNotFound, match=why):
            home.find(wrong)
    home.close()


def _hold(path: Path, run: str, held: multiprocessing.synchronize.Event) -> None:
    home = Home(path)
    with home.lock(run):
        held.set()
        multiprocessing.Event().wait()


def test_a_run_is_held_by_one_process_until_that_dies(tmp_path: Path) -> None:
    home, run = Home(tmp_path), str(uuid4())
    assert not home.locked(run)
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    child = context.Process(target=_hold, args=(tmp_path, run, held))
    child.start()
    assert held.wait(30)
    assert home.locked(run)
    with pytest.raises(RunBusy, match=rf"another process \(pid {child.pid}\)"), home.lock(run):
        pass
    child.kill()
    child.join()
    assert not home.locked(run)
    with home.lock(run):
        assert home.locked(run)
    home.close()


def test_scratch_is_empty_at_first_and_gone_at_last(tmp_path: Path) -> None:
    home = Home(tmp_path)
    left = tmp_path / "scratch" / "run"
    left.mkdir(parents=True)
    (left / "of a killed process").touch()

    async def work() -> None:
        async with home.scratch("run") as folder:
            assert list(folder.iterdir()) == []
            (folder / "file").touch()
        assert not folder.exists()

    asyncio.run(work())
    home.close()


def test_scratch_is_cleared_however_deep_and_locked_it_is(tmp_path: Path) -> None:
    home = Home(tmp_path)
    deep = tmp_path / "scratch" / "run"
    deep.mkdir(parents=True)
    code = "import os\nfor n in range(1500):\n    os.mkdir('d' * 100)\n    os.chdir('d' * 100)\nos.chmod('.', 0)"
    subprocess.run([sys.executable, "-c", code], cwd=deep, check=True)

    async def work() -> None:
        async with home.scratch("run") as folder:
            assert list(folder.iterdir()) == []

    asyncio.run(work())
    home.close()


def test_a_home_that_cannot_be_used_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for path in (file, file / "below", Path("/proc/home")):
        with pytest.raises(HomeError, match=r"cannot be used.*--home"):
            Home(path)
    assert file.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(HomeError, match="cannot be used"):
        Home(tmp_path / "home")


def test_what_is_no_database_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "megagraph.db").write_bytes(b"this is no database" * 500)
    with pytest.raises(HomeError, match="Nothing was changed"):
        Home(tmp_path)
    assert (tmp_path / "megagraph.db").read_bytes() == b"this is no database" * 500
