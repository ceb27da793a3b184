"""The report: one page that tells a run, looked at in a real browser, whatever agents have said and done."""

from __future__ import annotations

import asyncio
import base64
import gzip
import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from megagraph import Limits, MegaGraph, Run
from megagraph.errors import UsageError
from megagraph.rehearsal import Brief, Call, RehearsalModel, Script, call, finish, read_file, write_file
from megagraph.report import page
from megagraph.report.collect import collect
from megagraph.report.timeline import shortened
from tests.browser import CHROMIUM, Tab, browser
from tests.commands import Program
from tests.scripts import deep_script, one
from tests.town import CLOSING, HOSTILE, TURNED, limits, town

NEEDS_BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt install chromium")
MB = 1_000_000


def play(home: Path, script: Script, bounds: Limits | None = None) -> MegaGraph:
    """A home with a run of this script in it."""
    mega = MegaGraph(RehearsalModel(script=script), home=home, limits=bounds or Limits())
    mega.run("Build a town on the plain by the river. It has roads, water and schools.")
    return mega


def story_of(run: Run) -> Any:
    return collect(run, run._ledger)


def data(html: str, id_: str) -> Any:
    """What lies packed in a page, as its program reads it."""
    packed = re.search(rf'id="{id_}">([^<]*)<', html)
    assert packed
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


@NEEDS_BROWSER
def test_six_hundred_agents_in_a_browser(tmp_path: Path) -> None:
    with play(tmp_path / "home", town(600, prefix=f"{HOSTILE}{CLOSING}{TURNED} "), limits(600)) as mega:
        run = mega.open("last")
        file = run.write_report(tmp_path / "run.html")
        failed = sum(member.state == "failed" for member in story_of(run).members)
        assert len(list(run.files)) > 500
    assert MB < file.stat().st_size < 2 * MB, "much text, and yet all of it in its bounds"
    assert failed == 2

    async def look() -> None:
        async with browser() as tab:
            await tab.look(1600, 1000)
            await tab.open(file)
            assert await tab.run("document.querySelectorAll('*').length") < 3000, "rows out of sight are not drawn"
            await _filters_and_folds(tab)
            await _goes_by_keys(tab)
            await _shows_hostile_words(tab)
            await _has_every_view(tab)
            await _fits(tab, file)
            assert tab.errors == []
            assert tab.requests == [file.as_uri()], "it is one file, and asks for nothing else"

    asyncio.run(look())


async def _rows(tab: Tab) -> int:
    """How many rows the outline has, drawn or not."""
    return int(await tab.run("Math.round(parseFloat(document.getElementById('tree').style.height) / 30)"))


async def _find(tab: Tab, text: str) -> None:
    await tab.press("Escape", "/")
    assert await tab.run("document.activeElement.id") == "search"
    await tab.type(text)
    await tab.until("!document.getElementById('tab-texts').hidden")


async def _filters_and_folds(tab: Tab) -> None:
    before = await _rows(tab)
    assert 10 < before < 100, "large organisations are folded at first"
    assert await tab.run("document.getElementById('row-0').getAttribute('aria-expanded')") == "true"
    assert await tab.run("[...document.querySelectorAll('.row')].every(r => r.getAttribute('role') === 'treeitem')")
    await tab.click("#row-0 .caret")
    assert await _rows(tab) == 1
    await tab.click("#row-0 .caret")
    assert await _rows(tab) == before
    await tab.click(".buttons button")
    assert await _rows(tab) == 600
    await tab.click("[data-state=failed]")
    shown = await tab.run("[...document.querySelectorAll('.row:not(.dim) b')].map(b => b.textContent)")
    assert len(shown) == 2, "the failed ones, and as dim rows who is above them"
    await tab.click("[data-state='']")
    await _find(tab, "water_team_3_w")
    names = await tab.run("[...document.querySelectorAll('.row:not(.dim) b')].map(b => b.textContent)")
    assert names
    assert all(name.startswith("water_team_3_w") for name in names)
    assert int(await tab.run("document.querySelector('#tab-mail small').textContent")) >= len(names)
    await tab.press("Escape")
    assert await _rows(tab) == 600


async def _goes_by_keys(tab: Tab) -> None:
    await tab.press("Escape")
    assert await tab.run("document.activeElement.id") == "tree"
    at = "document.getElementById('tree').getAttribute('aria-activedescendant')"
    await tab.press("Home", "ArrowLeft")
    assert await _rows(tab) == 1
    await tab.press("ArrowRight", "ArrowRight", "ArrowDown")
    second = await tab.run(at)
    assert second != "row-0"
    assert await tab.run(f"getComputedStyle(document.getElementById({at})).boxShadow") != "none", "focus is seen"
    await tab.press("End")
    assert await tab.run(f"document.getElementById({at}).getBoundingClientRect().bottom <= innerHeight + 8")
    await tab.press("Home", "ArrowDown", "Enter")
    await tab.until("!document.getElementById('agent').hidden")
    assert await tab.run("document.activeElement.id") == "agent-name"
    opened = await tab.run("location.hash")
    assert re.fullmatch(r"#timeline/\w+", opened)
    assert await tab.run("document.querySelectorAll('.turn').length") > 1
    await tab.press("Escape")
    await tab.until("document.getElementById('agent').hidden")
    assert await tab.run("document.activeElement.id") == "tree"
    await tab.run("history.back()")
    await tab.until("!document.getElementById('agent').hidden")
    assert await tab.run("location.hash") == opened


async def _shows_hostile_words(tab: Tab) -> None:
    await tab.run("location.hash = '#timeline/survey_team_0_w0'")
    await tab.until("document.getElementById('agent-name')?.textContent.includes('survey_team_0_w0')")
    await tab.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    await tab.until("document.querySelector('.tool-body')?.textContent.includes('onerror')")
    said = await tab.run("document.getElementById('agent').textContent")
    assert HOSTILE in said
    assert CLOSING in said
    assert "safe\\u202egpj.exe" in said
    assert "\u202e" not in await tab.run("document.documentElement.textContent")
    assert await tab.run("document.querySelectorAll('img').length") == 0
    assert await tab.run("document.querySelectorAll('script').length") == 3
    assert await tab.run("window.hacked === undefined")


async def _has_every_view(tab: Tab) -> None:
    for view, what in (
        ("map", "document.querySelectorAll('.cell').length > 300"),
        ("mail", "document.querySelectorAll('.letter').length >= 100"),
        ("files", "document.querySelectorAll('.file').length >= 100"),
        ("checks", "document.getElementById('view-checks').textContent.includes('Not done')"),
        ("cost", "document.querySelectorAll('tbody tr').length >= 100"),
    ):
        await tab.click(f"#tab-{view}")
        await tab.until(f"!document.getElementById('view-{view}').hidden && {what}")
    await _find(tab, "mended")
    await tab.click("#tab-files")
    found = "Number(document.querySelector('#tab-files small').textContent)"
    await tab.until(f"document.querySelectorAll('.file').length === {found}")
    await tab.click(".file summary")
    await tab.until("document.querySelector('.diff ins mark')?.textContent === 'mended'")
    await tab.click("#tab-texts")
    await tab.until("document.querySelector('#view-texts mark') !== null")
    await tab.click("#view-texts .who")
    await tab.until("document.querySelector('.turn.sought mark')?.textContent === 'mended'")
    await tab.press("Escape")
    await tab.until("document.getElementById('agent').hidden")
    await tab.press("/")
    await tab.press("Escape")


async def _fits(tab: Tab, file: Path) -> None:
    pale = await tab.run("getComputedStyle(document.body).backgroundColor")
    for view in ("timeline", "map", "mail", "files", "checks", "cost", "timeline/survey_team_0_w0"):
        await tab.look(390, 844, dark=True)
        await tab.open(file, f"#{view}")
        assert await tab.run("document.documentElement.scrollWidth") <= 390, view
    assert await tab.run("getComputedStyle(document.body).backgroundColor") != pale
    await tab.look(1600, 1000)
    await tab.open(file)
    pdf = await tab.print()
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 2


def test_a_page_tells_all_that_a_run_did(tmp_path: Path) -> None:
    with play(tmp_path / "home", deep_script()) as mega:
        run = mega.open("last")
        html = run.report_html()
        result, events = run.outcome(), run.events()
        overview, texts = data(html, "overview"), data(html, "words")
        calls = Counter(row["agent"] for row in mega.db["calls"].rows)
        letters = [row["text"] for row in mega.db["letters"].rows]
        log = run.workspace.log()
    agents = overview["agents"]
    assert {a["name"]: a["calls"] for a in agents} == calls
    assert sum(a["input_tokens"] for a in agents) == result.input_tokens
    leads = {e.agent: e.data["lead"] for e in events if e.kind == "recruited"}
    assert {a["name"]: agents[a["lead"]]["name"] for a in agents[1:]} == leads
    assert [letter[5] for letter in texts["mail"]] == letters
    assert sum(file["count"] for file in texts["files"]) == sum(len(change.paths) for change in log)
    assert {place: len(turns) for place, turns in texts["turns"].items()} == {
        str(n): calls[a["name"]] for n, a in enumerate(agents)
    }
    for agent in agents:
        spans = agent["spans"]
        assert all(start <= end for start, end, _ in spans)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans)), "one state at a time"
        assert {"thinking", "reported"} <= {state for _, _, state in spans}
    turns = [turn for of_one in texts["turns"].values() for turn in of_one]
    read = [n for turn in turns for n in turn["mail"]]
    assert len(read) == len(set(read)) > 5, "each letter is read once"
    assert not any("<letter " in heard for turn in turns for heard in turn["heard"]), "and told apart from the task"


def test_a_page_runs_nothing_but_its_own_program(tmp_path: Path) -> None:
    with play(tmp_path / "home", town(40, prefix=HOSTILE + CLOSING)) as mega:
        html = mega.open("last").report_html()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy
    assert "unsafe" not in policy[1]
    assert policy[1].startswith("default-src 'none'; ")
    assert html.count("<script") == html.count("</script>") == 3
    assert "onerror" not in html
    assert "\u202e" not in html
    assert set(re.findall(r"https?://[\w./]+", html)) == {"http://www.w3.org/2000/svg"}


def test_texts_are_shortened_until_the_page_fits(tmp_path: Path) -> None:
    with play(tmp_path / "home", town(30, text=900), limits(30)) as mega:
        story = story_of(mega.open("last"))
    sizes = []
    for most in (2 * MB, 160_000, 120_000, 95_000):
        html = page(story, most)
        sizes.append(len(html.encode()))
        assert sizes[-1] <= most
        assert len(data(html, "overview")["agents"]) == 30
        texts = data(html, "words")
        assert len(texts["turns"]) == 30
        said = [turn["said"] for turns in texts["turns"].values() for turn in turns if isinstance(turn, dict)]
        assert any("characters left out" in text for text in said) == (most < 2 * MB)
    assert sizes == sorted(sizes, reverse=True)


def test_a_paused_run_is_told_and_its_pause_takes_no_time(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with play(home, deep_script(), Limits(calls=10)) as mega:
        first = story_of(mega.open("last")).facts
        assert (first.status, first.passed, first.breaks) == ("paused", False, ())
        assert first.reason.startswith("limit reached: calls=10")
    with MegaGraph(RehearsalModel(script=deep_script()), home=home, limits=Limits()) as mega:
        mega.resume_sync("last", limits=Limits())
        facts = story_of(mega.open("last")).facts
        assert facts.status == "done"
        assert facts.breaks == (first.worked,)
        events = mega.open("last").events()
        pause = next(e.time for e in events if e.kind == "run_resumed") - next(
            e.time for e in reversed(events) if e.kind == "run_paused"
        )
        assert facts.worked <= 1000 * (events[-1].time - events[0].time - pause) + 2


def test_files_of_all_kinds_have_their_history(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Any:
        yield write_file("a.txt", "one\ntwo\n"), write_file("empty.txt", "")
        yield read_file("a.txt")
        yield Call("edit_file", {"path": "a.txt", "old": "two", "new": "three\nfour"})
        yield Call("delete_file", {"path": "empty.txt"})
        yield finish("done", ["a.txt"])

    with play(tmp_path / "home", Script({"boss": boss})) as mega:
        texts = data(mega.open("last").report_html(), "words")
    files = {file["path"]: file for file in texts["files"]}
    assert files["a.txt"]["size"] == len("one\nthree\nfour\n")
    assert [(c["status"], c["added"], c["removed"]) for c in files["a.txt"]["changes"]] == [
        ("changed", 2, 1),
        ("added", 2, 0),
    ]
    assert "-two\n+three\n+four" in files["a.txt"]["changes"][0]["patch"]
    assert files["empty.txt"]["size"] is None
    assert [c["status"] for c in files["empty.txt"]["changes"]] == ["deleted", "added"]


def test_a_question_and_a_refused_tool_are_told(tmp_path: Path) -> None:
    asks = one(read_file("none.txt"), call("ask_human", question="Red or blue?"), finish("fine"))
    with play(tmp_path / "home", Script({"boss": asks})) as mega:
        html = mega.open("last").report_html()
    overview, texts = data(html, "overview"), data(html, "words")
    assert overview["run"]["status"] == "asking"
    assert [(q["question"], q["answer"]) for q in overview["questions"]] == [("Red or blue?", None)]
    assert overview["agents"][0]["state"] == "asking"
    tool, args, ok, result, _ = texts["turns"]["0"][0]["calls"][0]
    assert (tool, ok) == ("read_file", False)
    assert ["path", "none.txt"] in args
    assert "none.txt" in result
    assert texts["turns"]["0"][1]["calls"][0][2] is None, "it waits for its answer"


def test_many_spans_are_joined_over_the_same_time() -> None:
    spans = [(n * 10, n * 10 + 10, "thinking" if n % 2 else "acting") for n in range(1000)]
    few = shortened(spans, 100)
    assert 1 <= len(few) <= 100
    assert (few[0][0], few[-1][1]) == (0, 10_000)
    assert shortened(spans[:100], 100) == spans[:100]


def test_the_command_writes_a_page_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    play(home, Script({"boss": one(finish("done"))})).close()
    megagraph = Program(home, capsys)
    out = tmp_path / "out.html"
    for _ in range(2):
        done = megagraph("report", "last", "-o", out, "--home", home)
        assert (done.code, out.read_text(encoding="utf-8")[:15]) == (0, "<!doctype html>")
        assert str(out) in done.out
    other = tmp_path / "notes.html"
    other.write_text("mine")
    refused = megagraph("report", "last", "-o", other, "--home", home)
    assert (refused.code, other.read_text()) == (2, "mine")
    assert "is no report" in refused.err
    assert megagraph("report", "last", "-o", tmp_path / "none" / "x.html", "--home", home).code == 2
    assert megagraph("report", "nobody", "--home", home).code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "notes.html", "out.html"]
    with MegaGraph(home=home) as mega, pytest.raises(UsageError):
        mega.open("last").write_report(home)
