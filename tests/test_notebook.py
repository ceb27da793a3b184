"""A run in a notebook: the four notebooks, what is shown of a run, its tables, Ctrl-C in a cell, and no `await`."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat
import pandas
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from megagraph import Limits, MegaGraph, Run, find_scenario
from megagraph.errors import UsageError
from megagraph.rehearsal import RehearsalModel, Script, call, finish, recruit, wait_for, write_file
from notebooks.make import SOURCES, execute, read
from tests.browser import CHROMIUM, browser
from tests.commands import ROOT
from tests.scripts import deep_script, one

HOSTILE = "<img src=x onerror=alert(1)> ]]> \x1b[31m \uffff \"'&"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_pair_is_in_step(source: Path, tmp_path: Path) -> None:
    kept = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    fresh = read(source)
    assert [(cell.cell_type, cell.source) for cell in kept.cells] == [
        (cell.cell_type, cell.source) for cell in fresh.cells
    ], "`make notebooks` brings them in step"
    outputs = json.dumps([cell.get("outputs") for cell in kept.cells])
    assert not re.search(r"/(home|tmp|root|work|Users|var)/", outputs), "nothing of the machine is kept"
    assert source.with_suffix(".ipynb").stat().st_size < 1_000_000
    executed = execute(fresh, tmp_path)
    bundles = [
        output.data
        for cell in executed.cells
        for output in cell.get("outputs", ())
        if output.output_type in ("display_data", "execute_result") and "text/html" in output.data
    ]
    assert any("done, all" in bundle["text/plain"] for bundle in bundles)
    assert any('<iframe sandbox="allow-scripts" srcdoc=' in bundle["text/html"] for bundle in bundles)


def test_there_are_four_notebooks() -> None:
    assert [source.stem for source in SOURCES] == ["branches", "compose", "large", "quickstart"]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run of 60 agents, at its end."""
    with MegaGraph("rehearsal", home=tmp_path_factory.mktemp("town"), unsafe_programs=True) as mega:
        scenario = find_scenario("policy")
        assert scenario is not None
        yield mega.open(mega.run(scenario).run)


def test_the_pictures_are_whole_and_folded(town: Run) -> None:
    bundle = town._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "image/svg+xml", "text/html"}
    texts = svg_texts(bundle["image/svg+xml"])
    rows = [text for text in texts if re.fullmatch(r"[●○✓✗?!]", text)]
    folded = sum(int(n) for text in texts for n in re.findall(r"\+ (\d+) below|… (\d+) more", text) for n in n if n)
    assert len(rows) + folded == 60, "nobody is lost"
    assert 20 < len(rows) < 41
    assert "done, all 11 checks passed" in texts and "done, all 11 checks passed" in bundle["text/plain"]
    assert len(bundle["text/plain"].splitlines()) <= 44
    for picture in (town.timeline(), town.timeline(most=5), town.cost(), town.cost("agent"), town.cost("level")):
        assert svg_texts(picture.text)
    assert "most at work or waiting: 60" in svg_texts(town.timeline().text)
    calls = [int(n) for text in svg_texts(town.cost("level").text) for n in re.findall(r"^([\d]+) calls", text)]
    assert calls[0] == sum(calls[1:]) == town.outcome().calls
    with pytest.raises(UsageError, match="nothing to divide"):
        town.cost("moon")  # type: ignore[arg-type]


def test_pandas_takes_the_tables(town: Run) -> None:
    result = town.outcome()
    calls = pandas.DataFrame(town.calls)
    assert len(calls) == result.calls and calls["input_tokens"].sum() == result.input_tokens
    assert calls["started"].dt.tz is not None
    agents = pandas.DataFrame(town.agents)
    assert len(agents) == 60 and agents["calls"].sum() == result.calls and agents["accepted"].all()
    letters = town.letters.to_pandas()
    assert set(letters["recipient"]) <= set(agents["agent"])
    files = town.files.table().to_pandas()
    assert list(files["path"]) == list(town.files) and set(files["last_agent"]) <= set(agents["agent"])
    assert f"20 of {result.calls} rows" in town.calls._repr_html_()
    assert town.calls[-1]["agent"] == "boss" and len(town.calls[:3]) == 3


def test_an_empty_table_has_its_columns(tmp_path: Path) -> None:
    async def work() -> None:
        script = Script({"boss": one(finish("done"))}, pace=5)
        async with MegaGraph(RehearsalModel(script=script), home=tmp_path) as mega:
            run = await mega.start("nothing")
            assert list(run.calls.to_pandas().columns) == list(run.calls.columns) and len(run.calls) == 0
            assert "running" in run._repr_mimebundle_()["text/plain"]
            assert svg_texts(run.timeline().text) and svg_texts(run.cost().text)
            await run.abort()

    asyncio.run(work())


def hostile_script() -> Script:
    def boss(brief: Any) -> Any:
        heard = yield recruit({"name": "evil", "role": HOSTILE, "instructions": HOSTILE, "deliverables": ["a.md"]})
        yield from wait_for(heard, ["evil"])
        yield finish(HOSTILE)

    def evil(brief: Any) -> Any:
        yield write_file("a.md", HOSTILE)
        yield call(HOSTILE)
        yield finish(HOSTILE + "</script></iframe>", ["a.md"])

    return Script({"boss": boss, "evil": evil})


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_hostile_names_are_shown_and_never_run(tmp_path: Path) -> None:
    with MegaGraph(RehearsalModel(script=hostile_script()), home=tmp_path / "home") as mega:
        run = mega.open(mega.run(f"{HOSTILE} </script>").run)
        bundle = run._repr_mimebundle_()
        shown = [bundle["image/svg+xml"], bundle["text/html"], run.timeline().text, run.cost().text]
        shown += [table._repr_html_() for table in (run.agents, run.calls, run.letters, run.files.table())]
    assert any("<img src=x onerror" in text for text in svg_texts(shown[0]))
    assert "\x1b" not in "".join([*shown, bundle["text/plain"]])
    assert all("<img" not in text for text in shown)
    page = tmp_path / "page.html"
    ready = "<script>document.documentElement.dataset.ready = 'all'</script>"
    page.write_text(f'<meta charset="utf-8">{"".join(shown)}{ready}', encoding="utf-8")

    async def look() -> None:
        async with browser() as tab:
            await tab.open(page)
            assert await tab.run("document.querySelectorAll('img').length") == 0
            assert await tab.run("document.querySelector('iframe').contentDocument") is None, "a sandbox"
            assert [url for url in tab.requests if not url.startswith(("file:", "about:"))] == []
            assert not [error for error in tab.errors if "alert" in error]
        # The page in the frame, alone, so that it can be looked into.
        frame = re.search(r'srcdoc="([^"]*)"', bundle["text/html"])
        assert frame is not None
        alone = tmp_path / "alone.html"
        alone.write_text(f'<iframe srcdoc="{frame[1]}"></iframe>{ready}', encoding="utf-8")
        inside = "document.querySelector('iframe').contentDocument"
        async with browser() as tab:
            await tab.open(alone)
            await tab.until(f"{inside}.querySelectorAll('.row').length === 2")
            assert await tab.run(f"{inside}.querySelectorAll('img').length") == 0
            assert "<img src=x onerror" in await tab.run(f"{inside}.querySelector('#rows').textContent")
            await tab.run(f"{inside}.querySelector('.lead').click()")
            assert await tab.run(f"{inside}.querySelectorAll('.row').length") == 1, "folded"
            assert tab.errors == []

    asyncio.run(look())


def test_calls_without_await(tmp_path: Path) -> None:
    with MegaGraph(RehearsalModel(script=deep_script()), home=tmp_path, limits=Limits(calls=200)) as mega:
        run = mega.sync.start("build it")
        assert run.at_work
        paused = run.sync.pause()
        assert paused.status == "paused" and not run.at_work
        done = mega.sync.resume(run.id).sync.result()
        assert done.status == "done"
        branch = run.sync.branch("boss:think#1")
        assert branch.parent == run.id and mega.sync.resume(branch.id).sync.watch().status == "done"


def test_a_run_may_be_steered_from_another_loop(tmp_path: Path) -> None:
    async def work() -> None:
        with MegaGraph(RehearsalModel(script=slow()), home=tmp_path) as mega:
            run = await asyncio.to_thread(mega.sync.start, "slowly")
            kinds = [event.kind async for event in run.events(kinds=("thinking", "run_paused"), follow=True) if event]
            result = await run.result()
            assert result.status == "done" and "thinking" in kinds
            again = await asyncio.to_thread(mega.sync.start, "slowly")
            assert (await again.pause()).status == "paused"
            here = await mega.start("slowly")
            with pytest.raises(UsageError, match="cannot wait for itself"):
                here.sync.pause()
            stopped = await asyncio.to_thread(here.sync.pause)
            assert stopped.status == "paused"

    asyncio.run(work())


def slow() -> Script:
    return Script(
        {"boss": one("I think.", *(write_file(f"{n}.md", "x\n") for n in range(4)), finish("done"))}, pace=0.05
    )


CELLS = """
from megagraph import MegaGraph
from megagraph.rehearsal import RehearsalModel, Script, finish, write_file

def boss(brief):
    for n in range(200):
        yield write_file(f"{n}.md", "some words\\n")
    yield finish("done")

mega = MegaGraph(RehearsalModel(script=Script({"boss": boss}, pace=0.1)))
"""


@pytest.mark.parametrize(
    "cell",
    [
        "run = await mega.start('much')\nawait run.watch()",
        "run = await mega.start('much')\nawait run.result()",
        "run = mega.sync.start('much')\nrun.sync.result()",
    ],
    ids=["watch", "await", "sync"],
)
def test_ctrl_c_in_a_cell_leaves_a_run_that_goes_on(tmp_path: Path, cell: str) -> None:
    after = "await mega.resume('last')\nrun.status, mega.open('last').status, (await mega.open('last').pause()).status"
    notebook = new_notebook(cells=[new_code_cell(text) for text in (CELLS, cell, "mega.open('last').status", after)])
    client = NotebookClient(notebook, timeout=180, allow_errors=True, resources={"metadata": {"path": str(tmp_path)}})
    home = tmp_path / ".megagraph"

    def interrupt() -> None:
        end = time.monotonic() + 180
        while time.monotonic() < end:
            time.sleep(0.1)
            if home.is_dir() and answered(home) >= 2:
                asyncio.run_coroutine_threadsafe(client.km.interrupt_kernel(), loops[0]).result()
                return

    loops: list[asyncio.AbstractEventLoop] = []

    async def work() -> None:
        loops.append(asyncio.get_running_loop())
        threading.Thread(target=interrupt, daemon=True).start()
        await client.async_execute()

    asyncio.run(work())
    said = "".join(output.get("text", "") for output in notebook.cells[1].outputs)
    assert re.search(r'nothing is lost\. Go on with: run = await mega\.resume\("\w{8}"\)', said), notebook.cells[
        1
    ].outputs
    assert notebook.cells[2].outputs[0].data["text/plain"] == "'paused'"
    assert notebook.cells[3].outputs[-1].data["text/plain"].endswith("'paused')"), notebook.cells[3].outputs


class Watched(NotebookClient):
    """Notes the pictures that take the place of earlier ones."""

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] == "update_display_data":
            self.__dict__.setdefault("pictures", []).append(msg["content"]["data"])
        return super().process_message(msg, cell, cell_index)


@pytest.mark.parametrize(
    "cell",
    [
        "run = await mega.start('much')\ndisplay(run)\nwhile len(shown) < 4: await asyncio.sleep(0.1)",
        "run = mega.sync.start('much')\nrun.show()\nwhile len(shown) < 4: time.sleep(0.1)",
    ],
    ids=["awaited", "blocked"],
)
def test_the_picture_follows_the_run(tmp_path: Path, cell: str) -> None:
    watching = """
import asyncio, re, time
from megagraph.notebook import live

shown, draw = set(), live.bundle_of

def drawn(*args, **kwargs):
    bundle = draw(*args, **kwargs)
    shown.update(re.findall(r" (\\d+) calls? ·", bundle["text/plain"]))
    return bundle

live.bundle_of = drawn
"""
    look = """
try:
    await asyncio.wait_for(run.result(), 0.2)
except TimeoutError:
    pass
run.at_work"""
    end = "await run.pause()"
    notebook = new_notebook(cells=[new_code_cell(text) for text in (CELLS + watching, cell, look, end)])
    client = Watched(notebook, timeout=180, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    pictures = client.__dict__["pictures"]
    files = [int(n) for data in pictures for n in re.findall(r" (\d+) calls? ·", data["text/plain"])]
    assert len(set(files)) >= 3 and files == sorted(files), "each is of a later moment"
    assert "image/svg+xml" in pictures[0] and "text/html" not in pictures[0], "a frame would flash"
    assert notebook.cells[2].outputs[0].data["text/plain"] == "True", "a time-out does not pause the run"


def answered(home: Path) -> int:
    with MegaGraph("rehearsal", home=home) as mega:
        return sum(run.outcome().calls for run in mega.runs())


def svg_texts(svg: str) -> list[str]:
    """The texts of a picture, which must be well-formed and hold no program and no link."""
    root = ElementTree.fromstring(svg)
    assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {
        "svg",
        "g",
        "rect",
        "path",
        "text",
        "tspan",
        "title",
    }
    return [" ".join(element.itertext()) for element in root.iter() if element.tag.endswith("}text")]


def test_the_extra_has_what_the_notebooks_need() -> None:
    assert 'notebook = ["ipykernel>=6.29", "jupyterlab>=4.2", "pandas>=2.2"]' in (ROOT / "pyproject.toml").read_text()
