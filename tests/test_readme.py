"""What README.md shows works: its Python runs as it stands, and so does the scenario that it writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from megagraph.prompts import NAMES
from megagraph.rehearsal import Script, finish, write_file
from tests.commands import ROOT, Program
from tests.documents import Page, dead_links
from tests.model_server import ModelServer
from tests.scripts import one

README = Page(ROOT / "README.md")


@pytest.fixture
def poet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A model behind the name that the README uses."""
    script = Script({"boss": one(write_file("poem.txt", "waves\n"), finish("A poem.", ["poem.txt"]))})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    monkeypatch.delenv("MEGAGRAPH_HOME", raising=False)
    with ModelServer(script) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield


def test_the_python_of_the_readme_runs(poet: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(README.python) == 5
    said = []
    for text in README.python:
        exec(compile(text, "README.md", "exec"), {"__name__": "readme"})
        said.append(capsys.readouterr().out)
    assert said[0].endswith("done A poem.\nwaves\n\n")
    assert said[1].startswith("True 2 ")
    assert said[2].startswith("paused limit reached: calls=1")
    assert said[3] == "done\n"
    assert "graph TD" in said[4]
    assert "boss 1 " in said[4]


def test_the_scenario_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MEGAGRAPH_HOME", str(tmp_path / "home"))
    assert set(README.files) == {"hello/scenario.yaml", "hello/check.py", "hello/rehearsal.py"}
    for path, text in README.files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    assert "\nmegagraph run ./hello\n" in README.text
    outcome = Program(tmp_path / "home", capsys)("run", "./hello", "--unsafe-programs")
    assert outcome.code == 0, outcome
    assert "✓ greets  Hello!" in outcome.out


def test_what_the_readme_names_is_there() -> None:
    assert list(dead_links(README, ROOT)) == []
    for name in NAMES:
        assert f"`{name}.md`" in README.text
