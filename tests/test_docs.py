"""What the pages of docs/ say holds: their code and commands run, their links lead somewhere, every error is there."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

import megagraph
from megagraph.errors import MegagraphError
from megagraph.faults import FaultKind
from megagraph.rehearsal import Brief, Script, call, finish, load_script, write_file
from tests.commands import ROOT
from tests.documents import Page, Reader, dead_links
from tests.model_server import ModelServer
from tests.scripts import Play

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FOLLOWED = [path for path in PAGES if path.parent.name not in ("design", "reference") and path.name != "cli.md"]
ELSEWHERE = ("http://localhost:8000/v1", "http://localhost:11434/v1")
"""Where the pages have servers of their readers' own."""


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tutorial's scenario lies and has run, as all pages but the tutorial assume."""
    folder = tmp_path_factory.mktemp("tutorial")
    for path, text in Page(DOCS / "tutorial.md").files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    with megagraph.MegaGraph("rehearsal", home=folder / ".megagraph", unsafe_programs=True) as mega:
        assert mega.run(str(folder / "convert")).passed
    return folder


@pytest.fixture
def reader(tmp_path: Path, before: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """A reader with a model behind the names and addresses that the pages use."""
    shutil.copytree(before, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_MODEL", "MEGAGRAPH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    with ModelServer(_script(before)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        yield Reader(dict.fromkeys(ELSEWHERE, server.url))


def _script(folder: Path) -> Script:
    """The model of the pages: it plays the tutorial's agents, and a poet for goals in words."""
    tutorial = load_script(folder / "convert" / "rehearsal.py")

    def boss(brief: Brief) -> Play:
        if "convert.py" in brief.task:
            yield from tutorial.parts["boss"](brief)
        text = "Waves.\n"
        if "Ask me" in brief.task:
            heard = yield call("ask_human", question="What is it to be about?")
            while "The sea." not in heard.text:
                heard = yield "I wait."
            text = "The sea.\n"
        yield write_file("poem.txt", text)
        yield finish("A poem.", ["poem.txt"])

    return Script({**tutorial.parts, "boss": boss})


@pytest.mark.parametrize("path", FOLLOWED, ids=lambda path: path.relative_to(DOCS).as_posix())
def test_what_a_page_shows_works(path: Path, reader: Reader) -> None:
    reader.follow(Page(path))


def test_every_link_leads_to_a_page_of_the_site() -> None:
    assert {path.name: dead for path in PAGES if (dead := list(dead_links(Page(path), DOCS)))} == {}


def test_the_reference_has_every_public_name() -> None:
    named = re.findall(r"^::: megagraph\.(?:\w+\.)+(\w+)$", Page(DOCS / "reference" / "python.md").text, re.M)
    assert set(megagraph.__all__) <= set(named)


def test_every_error_is_explained_and_nothing_else() -> None:
    text = Page(DOCS / "errors.md").text
    codes, _, kinds = text.partition("## Kinds of model errors")
    assert sorted(re.findall(r"^### `(.+)`$", codes, re.M)) == sorted({e.code for e in _family(MegagraphError)})
    assert sorted(re.findall(r"^\| `(\w+)` \|", kinds, re.M)) == sorted({*get_args(FaultKind), *_named_kinds()})


def _family(kind: type[MegagraphError]) -> list[type[MegagraphError]]:
    return [kind, *(found for below in kind.__subclasses__() for found in _family(below))]


def _named_kinds() -> set[str]:
    """The kinds that the package names where it makes a `ModelError`."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "megagraph").rglob("*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    made = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "ModelError"]
    values = [word.value for c in made for word in c.keywords if word.arg == "kind"]
    return {value.value for value in values if isinstance(value, ast.Constant)}


def test_the_pictures_are_those_of_a_run(tmp_path: Path) -> None:
    pictures = asyncio.run(_module("pictures").draw(tmp_path))
    assert sorted(pictures) == sorted(path.name for path in (DOCS / "pictures").iterdir())
    for name, text in pictures.items():
        assert text == (DOCS / "pictures" / name).read_text(encoding="utf-8"), "run `make docs`"


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_site_has_every_page() -> None:
    site = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]

    def pages(item: Any) -> Iterator[str]:
        if isinstance(item, str):
            yield item
        else:
            for below in item.values() if isinstance(item, dict) else item:
                yield from pages(below)

    assert sorted(pages(site["nav"])) == sorted(path.relative_to(DOCS).as_posix() for path in PAGES)
