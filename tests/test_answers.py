"""Answers that do not fit: repaired, asked for again, given up; and what the provider is sent meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from megagraph import Limits, MegaGraph
from megagraph.answers import MAX_IN_A_ROW, fit, repaired, well_formed
from megagraph.rehearsal import Brief, RehearsalModel, Script, call, finish, recruit, write_file
from tests.model_server import SPOILS, ModelServer, _Exchange, _json
from tests.model_server import Reply as ServerReply
from tests.scripts import Play, deep_script, one
from tests.test_chaos import EXPECTED
from tests.test_models import key  # noqa: F401 - a fixture for all tests here

# --- repair --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ('{"path": "a.py", }', {"path": "a.py"}),
        ("{'path': 'a.py', 'content': 'x = 1'}", {"path": "a.py", "content": "x = 1"}),
        ('{path: "a.py"}', {"path": "a.py"}),
        ('{"path": "a.py" "content": "x"}', {"path": "a.py", "content": "x"}),
        ('```json\n{"path": "a.py",}\n```', {"path": "a.py"}),
        ('{"content": "print(\\"{}\\")", }', {"content": 'print("{}")'}),
        ('{"work_on": True, "agents": ["a", "b",]}', {"work_on": True, "agents": ["a", "b"]}),
    ],
)
def test_what_can_only_mean_one_thing_is_repaired(text: str, meant: dict[str, Any]) -> None:
    assert repaired(text) == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        '["a"]',
        '{"path": "a.py", "content": "int main() {',
        '{"path": "a.py", "content": "int main() { }',
        '{"path": "a.py"',
        '{"path": "a.py", "content": "}',
        '{"agents": [{"name": "a"}',
        '{"content": "say "yes", "no" or "perhaps""}',
        '{"content": "print("a, b", c)"}',
        "{'content': 'it's'}",
        '{"path": "a.py"} {"path": "b.py"}',
        '{"path": "a.py", "path": "b.py",}',
        'I write: {"path": "a.py",}',
    ],
)
def test_what_could_mean_more_is_left_to_the_model(text: str) -> None:
    assert repaired(text) is None


@settings(deadline=None)
@given(
    st.dictionaries(st.text(st.characters(categories=["L"]), min_size=1), st.text() | st.integers() | st.booleans()),
    st.data(),
)
def test_a_cut_text_is_never_taken_for_a_whole_one(value: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(value, ensure_ascii=False)
    at = data.draw(st.integers(1, len(text) - 1)) if len(text) > 2 else 1
    assert repaired(text[:at]) is None


def test_a_call_that_was_cut_is_not_repaired() -> None:
    broken = {"name": "write_file", "args": '{"path": "a",}', "id": "1", "error": "", "type": "invalid_tool_call"}
    for finish_reason, calls in (("length", 0), ("tool_calls", 1)):
        answer = AIMessage(
            "",
            invalid_tool_calls=[dict(broken)],
            response_metadata={"finish_reason": finish_reason},  # type: ignore[list-item]
        )
        assert len(fit(answer, []).tool_calls) == calls


# --- a conversation that every provider takes ------------------------------------------------------------------

CALLS = st.lists(
    st.tuples(st.sampled_from(["", "a", "b", "c"]), st.sampled_from(["", "write_file", "not a name!"]), st.booleans()),
    max_size=3,
)


def spoken(calls: Sequence[tuple[str, str, bool]]) -> AIMessage:
    good = [{"id": i, "name": n, "args": {"x": 1}, "type": "tool_call"} for i, n, ok in calls if ok]
    bad = [
        {"id": i, "name": n, "args": "{", "error": "cut", "type": "invalid_tool_call"} for i, n, ok in calls if not ok
    ]
    return AIMessage("hm", tool_calls=good, invalid_tool_calls=bad)  # type: ignore[arg-type]


MESSAGES = st.lists(
    st.one_of(
        st.builds(HumanMessage, st.just("hello")),
        st.builds(spoken, CALLS),
        st.builds(lambda id_: ToolMessage("done", tool_call_id=id_), st.sampled_from(["a", "b", "c", "z"])),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(MESSAGES)
def test_whatever_has_happened_what_is_sent_is_well_formed(messages: list[BaseMessage]) -> None:
    from langchain_openai.chat_models.base import _convert_message_to_dict

    sent = well_formed([SystemMessage("you are"), *messages])
    assert problems([_convert_message_to_dict(message) for message in sent]) == []
    assert well_formed(sent) == sent
    said = [m.text for m in messages if isinstance(m, HumanMessage)]
    assert [m.text for m in sent if isinstance(m, HumanMessage)] == said


def problems(messages: Sequence[dict[str, Any]]) -> list[str]:
    """What a strict provider would object to."""
    found, open_ids = [], []
    for message in messages:
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_ids:
                found.append(f"an orphan result: {message}")
            else:
                open_ids.remove(message["tool_call_id"])
            continue
        if open_ids:
            found.append(f"calls without a result: {open_ids}")
        calls = message.get("tool_calls") or []
        open_ids = [one_call["id"] for one_call in calls]
        if len(set(open_ids)) < len(open_ids) or not all(open_ids):
            found.append(f"ids that name no call: {open_ids}")
        for one_call in calls:
            if not isinstance(json.loads(one_call["function"]["arguments"]), dict):
                found.append(f"arguments that are no object: {one_call}")
            if not one_call["function"]["name"].replace("_", "").replace("-", "").isalnum():
                found.append(f"no legal name: {one_call}")
        if message["role"] == "assistant" and not (calls or message.get("content")):
            found.append("an empty answer")
    return [*found, *([f"calls without a result: {open_ids}"] if open_ids else [])]


@dataclass(eq=False, kw_only=True)
class StrictServer(ModelServer):
    """Notes what a strict provider would object to, and can answer for an agent in a way of its own."""

    objections: list[str] = field(default_factory=list)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Choices by agent, in place of the script's."""
    asked: Counter[str] = field(default_factory=Counter)

    async def _whole(self, ex: _Exchange, reply: ServerReply) -> web.StreamResponse:
        self.objections += problems(ex.body["messages"])
        self.asked[ex.agent or ""] += 1
        choice = self.answers.get(ex.agent or "")
        if choice is None:
            return await super()._whole(ex, reply)
        self._record(ex, 200, delivered=ex.present())
        return _json(200, {"id": "x", "object": "chat.completion", "choices": [choice], "usage": ex.usage})


def test_what_the_server_receives_is_well_formed_whatever_it_answers(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            StrictServer(deep_script(), faults=dict.fromkeys(SPOILS, 0.12), seed=5) as server,
            MegaGraph("openai:scripted", base_url=server.url, home=tmp_path) as mega,
        ):
            run = await mega.start("Write the files.")
            assert (await run.result()).passed
            assert dict(run.files) == EXPECTED
            assert {record.fault for record in server.log} >= set(SPOILS)
            assert server.objections == []

    asyncio.run(work())


# --- runs ------------------------------------------------------------------------------------------------------


def asks(answer: dict[str, Any]) -> dict[str, Any]:
    return {"index": 0, "finish_reason": "stop", **answer}


def tool_call(arguments: str, id_: str = "same") -> dict[str, Any]:
    calls = [{"id": id_, "type": "function", "function": {"name": "write_file", "arguments": arguments}}]
    return asks({"message": {"role": "assistant", "tool_calls": calls}, "finish_reason": "tool_calls"})


def said(content: str | None, finish_reason: str = "stop", **more: Any) -> dict[str, Any]:
    return asks({"message": {"role": "assistant", "content": content, **more}, "finish_reason": finish_reason})


def boss_and_one() -> Script:
    """A boss who hands in what its only member reports, be it a failure."""

    def boss(brief: object) -> Play:
        heard = yield recruit({"name": "odd", "role": "member", "instructions": "answer"})
        while not (news := [text for _, kind, text in heard.letters if kind in ("report", "failure")]):
            heard = yield "I wait."
        heard = yield finish(news[0])
        yield finish(news[0])

    return Script({"boss": boss, "odd": one(write_file("a.txt", "x"), finish("done"))})


@pytest.mark.parametrize(
    ("answer", "asked", "kind", "report"),
    [
        (said(None, refusal="I cannot help with that."), 1, "declined", "the model refused: I cannot help"),
        (said("I was about to", "content_filter"), 1, "declined", "content filter"),
        (said(None), MAX_IN_A_ROW, "unfit", "your answer was empty"),
        (said("so I wri", "length"), MAX_IN_A_ROW, "unfit", "cut at the output limit"),
        (tool_call('{"path": "a.txt"'), MAX_IN_A_ROW, "unfit", "no valid JSON"),
        (tool_call('["a.txt"]'), MAX_IN_A_ROW, "unfit", "no valid JSON"),
        (tool_call('{"name": "a.txt"}', ""), MAX_IN_A_ROW, "unfit", "wrong arguments for `write_file`"),
    ],
)
def test_an_agent_that_gives_no_answer_fails_and_its_lead_is_told_how(
    tmp_path: Path, answer: dict[str, Any], asked: int, kind: str, report: str
) -> None:
    async def work() -> None:
        async with (
            StrictServer(boss_and_one(), answers={"odd": answer}) as server,
            MegaGraph("openai:scripted", base_url=server.url, home=tmp_path, limits=Limits(calls=30)) as mega,
        ):
            run = await mega.start("Try.")
            result = await run.result()
            events = run.events()
            assert result.status == "done" and result.report is not None
            assert not result.passed
            assert report in result.report.summary
            assert server.asked["odd"] == asked
            assert [e.data["problem"] for e in events if e.kind == "failed"] == [kind]
            assert sum(e.kind == "bad_answer" for e in events) == asked
            assert result.calls == len(server.log), "what was paid is in the journal"
            assert server.objections == []

    asyncio.run(work())


def test_a_boss_that_gives_no_answer_stops_the_run_and_is_asked_anew_on_resume(tmp_path: Path) -> None:
    async def work() -> None:
        refusing = {"boss": said(None, refusal="No.")}
        async with (
            StrictServer(boss_and_one(), answers=refusing) as server,
            MegaGraph("openai:scripted", base_url=server.url, home=tmp_path) as mega,
        ):
            run = await mega.start("Try.")
            result = await run.result()
            assert result.status == "failed"
            assert "the model refused: No." in result.reason
        async with (
            StrictServer(Script({"boss": one("(the refusal)", finish("done"))})) as server,
            MegaGraph("openai:scripted", base_url=server.url, home=tmp_path) as mega,
        ):
            assert (await (await mega.resume("last")).result()).passed
            assert server.asked["boss"] == 1
            assert server.objections == []

    asyncio.run(work())


def test_a_call_that_can_be_repaired_is_carried_out(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            StrictServer(
                Script({"boss": one(write_file("b.txt", "y"), finish("done"))}),
                answers={"boss": tool_call("{'path': 'a.txt', 'content': 'x',}")},
            ) as server,
            MegaGraph("openai:scripted", base_url=server.url, home=tmp_path) as mega,
        ):
            run = await mega.start("Write.")
            async for event in run:
                if event.kind == "tool":
                    server.answers.clear()
            assert (await run.result()).passed
            assert run.files["a.txt"] == "x"
            assert not [event for event in run.events() if event.kind == "bad_answer"]
            assert server.objections == []

    asyncio.run(work())


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        ((400, "context_length_exceeded", "This model's maximum context length is 8192 tokens."), "context"),
        ((400, "content_filter", "The response was filtered."), "filter"),
        ((400, "bad", "Something is odd."), "request"),
    ],
)
def test_an_error_that_concerns_one_call_fails_that_agent_alone(
    tmp_path: Path, refusal: tuple[int, str, str], kind: str
) -> None:
    class Refusing(StrictServer):
        async def _whole(self, ex: _Exchange, reply: ServerReply) -> web.StreamResponse:
            status, code, text = refusal
            return self._refuse(ex, status, text, code) if ex.agent == "odd" else await super()._whole(ex, reply)

    async def work() -> None:
        async with (
            Refusing(boss_and_one()) as server,
            MegaGraph("openai:scripted", base_url=server.url, home=tmp_path) as mega,
        ):
            run = await mega.start("Try.")
            result = await run.result()
            assert result.status == "done" and result.report is not None
            assert refusal[2] in result.report.summary
            assert [e.data["problem"] for e in run.events() if e.kind == "failed"] == [kind]

    asyncio.run(work())


def test_a_tool_that_is_not_there_is_asked_for_in_vain_and_not_for_ever(tmp_path: Path) -> None:
    script = Script({"boss": boss_and_one().parts["boss"], "odd": one(*[call("fly", to=f"{i}") for i in range(20)])})

    async def work() -> None:
        async with (
            StrictServer(script) as server,
            MegaGraph("openai:scripted", base_url=server.url, home=tmp_path) as mega,
        ):
            result = await (await mega.start("Try.")).result()
            assert result.report is not None and "there is no tool `fly`" in result.report.summary
            assert server.asked["odd"] == MAX_IN_A_ROW

    asyncio.run(work())


def test_half_a_character_in_an_answer_harms_nobody(tmp_path: Path) -> None:
    half = "a\ud83d"

    def boss(brief: Brief) -> Play:
        yield write_file("a.txt", half), call("search_files", expression=half), call(half, **{half: half})
        yield finish(f"It is {half}.", ["a.txt"])

    async def work() -> None:
        async with MegaGraph(RehearsalModel(script=Script({"boss": boss})), home=tmp_path) as mega:
            run = await mega.start("Write a file.")
            result = await asyncio.wait_for(run.result(), 60)
            assert result.status == "done"
            assert result.report is not None
            assert result.report.summary == "It is a\ufffd."
            assert run.files["a.txt"] == "a\ufffd"

    asyncio.run(work())
