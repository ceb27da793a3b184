"""The tree and the log lines that people see, made from events alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from megagraph.events import Event, EventKind
from megagraph.outline import bar, foot, tree
from megagraph.view import View, clean, clock, one_line, plain_line

THOUGHT: dict[str, Any] = {
    "step": 1,
    "seconds": 1.0,
    "input_tokens": 10,
    "output_tokens": 2,
    "calls": ["talk"],
    "text": "",
}


class Told:
    """Events in a row, a second apart."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.time = 1000.0

    def __call__(self, kind: EventKind, agent: str = "", wait: float = 1, **data: Any) -> Told:
        self.time += wait
        self.events.append(Event(len(self.events) + 1, self.time, kind, agent, data))
        return self

    def recruit(self, lead: str, *names: str) -> Told:
        for name in names:
            self("recruited", name, lead=lead, role="worker", depends_on=[], deliverables=[])
        return self

    def view(self) -> View:
        return View.of(self.events)


def drawn(view: View, width: int = 80, most: int = 1000) -> list[str]:
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(tree(view, width, most))
    return capture.get().splitlines()


def test_the_tree_shows_who_leads_whom_and_what_each_does() -> None:
    told = Told()("run_started", model="m", note="").recruit("boss", "a", "b").recruit("a", "c")
    told("thinking", "a", step=1)("thought", "a", **THOUGHT)
    told("waiting", "b", why="waits for the report of a")
    told("reported", "c", summary="c is done", missing=[])
    lines = drawn(told.view())
    assert [line.split("worker")[0].strip() for line in lines[1:]] == ["├── ● a", "│   └── ✓ c", "└── ○ b"]
    assert "1 call  talk" in lines[1]
    assert "waits for the report of a" in lines[3]


@pytest.mark.parametrize(
    ("kind", "data", "state"),
    [
        ("thinking", {"step": 1}, "thinking"),
        ("thought", THOUGHT, "acting"),
        ("asking", {"id": "a/1/0", "question": "which?"}, "asking"),
        ("reported", {"summary": "s", "missing": []}, "reported"),
        ("reported", {"summary": "s", "missing": ["x.txt"]}, "incomplete"),
        ("failed", {"error": "broken"}, "failed"),
        ("failed", {"error": "broken", "tool": "talk"}, "waiting"),
        ("closed", {}, "done"),
    ],
)
def test_states(kind: EventKind, data: dict[str, Any], state: str) -> None:
    view = Told().recruit("boss", "a")(kind, "a", **data).view()
    assert view.agents["a"].state == state


def test_what_has_failed_or_lacks_something_stays_so_when_it_is_closed() -> None:
    told = Told().recruit("boss", "a", "b")
    told("failed", "a", error="x")("reported", "b", summary="", missing=["x"])("closed", "a")("closed", "b")
    assert [told.view().agents[name].state for name in "ab"] == ["failed", "incomplete"]


def test_the_time_is_that_of_work_over_all_processes() -> None:
    told = Told()("run_started", model="m", note="")("thinking", "boss", 10, step=1)
    assert told.view().seconds() == 10
    assert told.view().seconds(now=told.time + 5) == 15
    told("run_resumed", "", 1000, model="m", note="")("thinking", "boss", 3, step=2)
    assert told.view().seconds() == 13
    assert told.view().seconds(now=told.time + 5) == 18
    assert View().seconds(now=5000) == 0


def test_the_time_of_a_branch_is_what_it_kept_and_its_own() -> None:
    told = Told()("run_started", model="m", note="")("thinking", "boss", 10, step=1)
    told("branched", "", 5000, parent="p", at="boss:think#2")
    assert told.view().seconds() == 10
    assert told.view().totals(10).endswith(" · 10 s (10 s kept)")
    told("run_resumed", "", 1000, model="m", note="")("thinking", "boss", 3, step=2)
    assert told.view().seconds(now=told.time + 5) == 18
    assert told.view().totals(18).endswith(" · 18 s (10 s kept)")


def test_totals_count_what_went_wrong_too() -> None:
    told = Told().recruit("boss", "a")("thought", "a", **THOUGHT)
    told("retry", "a", step=1, reason="429", delay=1)("bad_answer", "a", step=1, why="empty")
    assert told.view().totals(75) == "2 agents · 1 call · 10 tokens in · 2 out · 1 retry · 1 bad answer · 1 min 15 s"


@pytest.mark.parametrize("most", [4, 8, 20, 50])
def test_a_large_organisation_is_folded_and_what_matters_stays(most: int) -> None:
    told = Told()
    for team in range(12):
        told.recruit("boss", f"lead{team}").recruit(f"lead{team}", *(f"m{team}_{i}" for i in range(12)))
    for team in range(12):
        for i in range(12):
            told("reported", f"m{team}_{i}", summary="", missing=[])
    told("failed", "m7_3", error="broken")
    lines = drawn(told.view(), most=most)
    assert len(lines) <= most
    assert any("m7_3" in line for line in lines) or most < 5
    hidden = sum(int(line.split("… ")[1].split(" more")[0]) for line in lines if "… " in line and " more" in line)
    shown = sum("worker" in line or "boss" in line for line in lines)
    assert hidden + shown == 1 + 12 + 144


@pytest.mark.parametrize("width", [80, 200])
def test_six_hundred_agents_on_a_screen(width: int) -> None:
    told = Told()("run_started", model="m", rehearsal=False, note="").recruit("boss", *(f"lead{i}" for i in range(66)))
    for i in range(66):
        told.recruit(f"lead{i}", *(f"m{i}_{j}" for j in range(8)))
    for name in (f"m{i}_{j}" for i in range(60) for j in range(8)):
        told("thinking", name, 0.1, step=1)("thought", name, 0.1, **THOUGHT)
        told("reported", name, 0.1, summary="done", missing=[])("accepted", name, 0, evidence=[])
    told("waiting", "m61_1", why="waits for the report of m61_0")("failed", "m65_7", error="broken")
    view = told.view()
    lines = drawn(view, width, 22)
    assert len(lines) == 22
    assert max(map(len, lines)) <= width
    assert any("✗ m65_7" in line and "broken" in line for line in lines)
    said = foot(view, told.time, width).plain.splitlines()
    assert said[0] == f"{bar(480 / 594)} 480 of 594 accepted · 114 waiting · 1 failed"
    assert len(said) <= 3 and max(map(len, said)) < width
    assert "calls/s" in said[1]
    assert ("tokens/s" in said[1]) == (width == 200)


def test_the_counts_follow_every_change() -> None:
    told = Told().recruit("boss", "a", "b").recruit("a", "c")
    told("reported", "c", summary="", missing=[])("accepted", "c", evidence=["the file x is there"])
    view = told.view()
    assert (view.accepted, view.agents["boss"].below, view.agents["boss"].over_below) == (1, 3, 1)
    told("sent_back", "c", by="a", missing=["no"], evidence=[])
    view = told.view()
    assert (view.accepted, view.agents["a"].over_below, view.agents["c"].state) == (0, 0, "waiting")
    told("thinking", "c", step=2)("failed", "c", error="x")("closed", "c")("closed", "b")
    view = told.view()
    assert (view.states["failed"], view.states["done"], view.agents["boss"].over_below) == (1, 1, 1)
    assert sum(view.states.values()) == len(view.agents)


def test_the_rest_is_told_only_where_it_is_known() -> None:
    def rest(told: Told) -> bool:
        return any("to go" in word for word in told.view().pace(told.time))

    told = Told()("run_started", model="m", rehearsal=False, note="").recruit("boss", *(f"m{i}" for i in range(40)))
    for i in range(20):
        told("reported", f"m{i}", summary="", missing=[])("accepted", f"m{i}", evidence=[])
        if i < 10:
            assert not rest(told), "it has grown of late"
    assert rest(told)
    asking = Told()
    asking.events, asking.time = list(told.events), told.time
    assert not rest(asking("asking", "m30", id="x", question="?")), "a person's time is not known"
    assert not rest(told.recruit("boss", "late")), "the organisation grows"


@pytest.mark.parametrize("width", [30, 80, 200])
def test_every_agent_takes_one_line_that_fits(width: int) -> None:
    told = Told()("recruited", "a" * 48, lead="boss", role="r" * 500, depends_on=[])
    told("failed", "a" * 48, error="很长的错误" * 100 + "\n\nmore")
    lines = drawn(told.view(), width)
    assert len(lines) == 2
    assert all(Console().measure(line).maximum <= width for line in lines)


@given(st.text())
def test_nothing_that_steers_a_terminal_comes_through(text: str) -> None:
    for said in (clean(text), one_line(text)):
        said.encode()
        assert not any((ord(c) < 32 and c not in "\t\n") or 0x7F <= ord(c) < 0xA0 for c in said)
    assert "\n" not in one_line(text)


def test_what_is_cleaned_is_shown() -> None:
    assert clean("a\x1b[31mb\x07\r\n\u202ec\ud800 [bold]é") == "a\\x1b[31mb\\x07\n\\u202ec\\ud800 [bold]é"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.9, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (7500, "2 h 05 min")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("kind", "data", "line"),
    [
        ("thinking", {"step": 1}, None),
        ("thought", THOUGHT, "→ talk  (1.0 s, 10 tokens in, 2 out)"),
        ("thought", {**THOUGHT, "calls": [], "text": "I\nwait."}, "says: I wait. (1.0 s, 10 tokens in, 2 out)"),
        ("tool", {"tool": "talk", "ok": True, "result": "Sent."}, "talk: Sent."),
        ("letter", {"to": "b", "about": "message", "text": "hi"}, "message to b: hi"),
        ("recruited", {"lead": "boss", "role": "r", "depends_on": ["c"]}, "recruited by boss as r, after c"),
        ("check", {"check": "starts", "passed": False, "detail": "no"}, "FAILED: starts no"),
        ("retry", {"delay": 2, "reason": "429: slow down"}, "retry in 2 s: 429: slow down"),
        ("run_started", {"model": "openai:x", "note": ""}, "started: openai:x"),
        ("run_paused", {"reason": "a limit"}, "paused: a limit"),
        ("run_ended", {"passed": True}, "ended: all is well"),
        ("reported", {"summary": "done", "missing": ["a", "b"]}, "reported: done; missing: a, b"),
        ("reminded", {"missing": ["a"]}, "reminded: missing: a"),
        ("failed", {"tool": "talk", "error": "broken"}, "failed: broken"),
        ("bad_answer", {"step": 1, "why": "empty"}, "bad answer: empty"),
        ("answered", {"id": "x", "answer": "blue"}, "answered: blue"),
    ],
)
def test_log_lines(kind: EventKind, data: dict[str, Any], line: str | None) -> None:
    said = plain_line(Event(1, 1000.0, kind, "a", data))
    assert (said and " ".join(said.split(" ", 1)[1].split())) == (line and f"a {' '.join(line.split())}")


def test_files_are_credited_to_their_last_author() -> None:
    view = Told().recruit("boss", "a").view()
    files: Sequence[tuple[str, str]] = [("x", "a"), ("y", "boss"), ("z", ""), ("w", "a")]
    view.credit(files)
    assert view.agents["a"].files == ["x", "w"]
    assert "2 files" in drawn(view)[1]
