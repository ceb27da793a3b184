"""The wheel, built and installed: all that a run needs is in it, and it works away from the checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.commands import ROOT, child_env

SHIPPED = {
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "scenarios").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}


def run(*args: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, args)), cwd=cwd, env=env or None, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    done = run(*pip, "--wheel-dir", folder, ROOT, cwd=folder)
    assert done.returncode == 0, done.stderr
    [wheel] = folder.glob("megagraph-*.whl")
    return wheel


def test_the_wheel_has_all_that_a_run_needs_and_no_more(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"megagraph/{path}" for path in SHIPPED} <= names
    assert {"megagraph/py.typed", *(f"megagraph/prompts/{name}.md" for name in ("system", "boss", "task"))} <= names
    for part in ("report", "notebook"):
        assets = ROOT / "megagraph" / part / "assets"
        assert {path.relative_to(ROOT).as_posix() for path in assets.iterdir()} <= names
    assert not [name for name in names if not name.startswith("megagraph") or "__pycache__" in name]


def test_an_installed_megagraph_runs_its_scenarios_anywhere(wheel: Path, tmp_path: Path) -> None:
    site, away = tmp_path / "site", tmp_path / "away"
    away.mkdir()
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target")
    done = run(*pip, site, wheel, cwd=away)
    assert done.returncode == 0, done.stderr
    env = child_env(tmp_path / "home") | {"PYTHONPATH": str(site)}

    look = (
        "import megagraph; from megagraph.scenario import find_scenario, shipped_scenarios\n"
        "print(megagraph.__file__); print(*shipped_scenarios())\n"
        "s = find_scenario('gobang'); print(s.folder); print(len(s.script().parts) >= 7, len(s.checks))\n"
    )
    said = run(sys.executable, "-c", look, cwd=away, **env).stdout.splitlines()
    assert Path(said[0]).is_relative_to(site)
    assert "gobang" in said[1].split()
    assert Path(said[2]).is_relative_to(site)
    assert said[3] == "True 1"

    begun = run(site / "bin" / "megagraph", "run", "gobang", "--limit", "calls=3", cwd=away, **env)
    assert begun.returncode == 3, begun.stderr
    assert "no language model is called" in begun.stdout.splitlines()[0]
    assert "limit reached: calls=3" in begun.stdout
    assert "architect" in begun.stdout


@pytest.mark.parametrize(("argv", "says"), [("x.py", "ImportError: "), ("megagraph", "megagraph: ")])
def test_windows_is_told_so_in_one_line(argv: str, says: str) -> None:
    code = f"import sys; sys.platform = 'win32'; sys.argv[0] = '{argv}'; import megagraph"
    done = run(sys.executable, "-c", code, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"{says}megagraph runs on Linux: on Windows, use it inside WSL."
    assert "fcntl" not in done.stderr
