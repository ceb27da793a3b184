"""Conversations that get too long for their model: they go on as shorter ones, and what was said before is found."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool

from megagraph import Limits, MegaGraph, Run, agent
from megagraph.compaction import FULL, _in_lines, _left, _listed, _longest, _put_away
from megagraph.conversation import _mail
from megagraph.journal import Shortened
from megagraph.model_rules import ModelRules
from megagraph.models import Model, ModelChoice
from megagraph.packing import unpack
from megagraph.rehearsal import (
    Brief,
    RehearsalModel,
    Script,
    Turn,
    call,
    finish,
    read_file,
    recruit,
    talk,
    wait_for,
    write_file,
)
from megagraph.specs import Letter, letters_in, rendered
from megagraph.tokens import BYTES, weigh
from tests.campaign import run_campaign
from tests.commands import child_env
from tests.model_server import ModelServer, Reply, _Exchange
from tests.scripts import Play
from tests.test_answers import StrictServer, boss_and_one

WINDOW = 8_000
MANY = Limits(calls=10_000, agents=1_000, rounds=1_000)
SECRET = "the colour of the door is mauve"
PAGES = 40


def page(number: int) -> str:
    return SECRET if number == 0 else f"Page {number}. " + f"Words {number} without a meaning. " * 20


def clerk(brief: Brief) -> Turn:
    """Writes page after page, looks up at the end what was on the first one, and hands that in."""
    last = brief.past[-1] if brief.past else None
    if last is None:
        return write_file(f"{brief.name}/0.md", page(0))
    match last.calls[0].tool:
        case "write_file":
            number = int(Path(str(last.calls[0].args["path"])).stem) + 1
            if number == PAGES:
                return call("recall", words="DOOR mauve")
            return write_file(f"{brief.name}/{number}.md", page(number))
        case "recall":
            return finish(last.heard.results[0])
    return finish("again")


@dataclass(kw_only=True)
class SmallServer(StrictServer):
    """Takes no more than some tokens, and says so as a provider does."""

    most: int = 10**9
    refused: int = 0
    sent: list[list[dict[str, Any]]] = field(default_factory=list)
    """The messages of each call that was answered."""

    async def _whole(self, ex: _Exchange, reply: Reply) -> web.StreamResponse:
        assert ex.usage is not None
        if ex.usage["prompt_tokens"] > self.most:
            self.refused += 1
            text = f"This model's maximum context length is {self.most} tokens."
            return self._refuse(ex, 400, text, "context_length_exceeded")
        self.sent.append(ex.body["messages"])
        return await super()._whole(ex, reply)


def longest(run: Run) -> int:
    """The input tokens of the run's largest call."""
    return int(MegaGraph(home=run.home).home.database.read("SELECT max(input_tokens) FROM calls")[0][0])


def told(run: Run, agent: str) -> list[str]:
    """All that the agent has heard before its turns."""
    rows = MegaGraph(home=run.home).home.database.read("SELECT heard FROM calls WHERE agent = ?", (agent,))
    return [text for (heard,) in rows for text in json.loads(heard)]


def test_a_long_conversation_stays_within_the_models_window_and_its_past_is_found(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            StrictServer(Script({"boss": clerk})) as server,
            MegaGraph(f"openai:scripted?context={WINDOW}", base_url=server.url, home=tmp_path, limits=MANY) as mega,
        ):
            run = await mega.start("Write the pages.")
            result = await run.result()
            assert result.passed and result.report is not None
            assert SECRET in result.report.summary, "its first turn was long gone from what the model was sent"
            assert result.calls == PAGES + 2, "no call was made for it"
            assert set(run.files) == {f"boss/{n}.md" for n in range(PAGES)}
            assert server.objections == []
            events = [event for event in run.events() if event.kind == "compacted"]
            assert 1 < len(events) < PAGES / 4
            assert all(event.data["after"] < event.data["before"] for event in events)
            assert sum(text.startswith("<note>Your conversation is getting long") for text in told(run, "boss")) in (
                len(events),
                len(events) + 1,
            )
            messages = run.graph().get_state(run.config).values["messages"]
            assert len(messages) < PAGES
            assert "Write the pages." in messages[0].text
            assert messages[1].text.startswith("<earlier>") and "write_file {'path': 'boss/" in messages[1].text

    asyncio.run(work())
    with MegaGraph(home=tmp_path) as mega:
        assert longest(mega.open("last")) <= WINDOW * FULL * 1.1


def test_without_a_window_that_is_too_small_nothing_is_compacted(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            ModelServer(Script({"boss": clerk})) as server,
            MegaGraph("openai:scripted", base_url=server.url, home=tmp_path, limits=MANY) as mega,
        ):
            run = await mega.start("Write the pages.")
            assert (await run.result()).passed
            assert not [event for event in run.events() if event.kind == "compacted"]
            assert len(run.graph().get_state(run.config).values["messages"]) > 2 * PAGES

    asyncio.run(work())


def test_a_model_that_refuses_what_is_too_long_is_sent_less_and_the_others_learn_of_it(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        # One after the other: the second begins when it is known what the model takes.
        heard = yield recruit({"name": "first", "role": "clerk", "instructions": "Write."})
        yield from wait_for(heard, ["first"])
        heard = yield recruit({"name": "second", "role": "clerk", "instructions": "Write, too."})
        reports = yield from wait_for(heard, ["second"])
        yield finish(reports["second"])

    async def work() -> None:
        async with (
            SmallServer(Script({"boss": boss}, default=clerk), most=WINDOW) as server,
            MegaGraph("openai:scripted", base_url=server.url, home=tmp_path, limits=MANY) as mega,
        ):
            run = await mega.start("Write the pages.")
            result = await run.result()
            assert result.passed and result.report is not None
            assert SECRET in result.report.summary
            assert server.refused == 1
            assert {event.agent for event in run.events() if event.kind == "compacted"} == {"first", "second"}
            assert not [event for event in run.events() if event.kind == "failed"]
            assert server.objections == []

    asyncio.run(work())


def test_an_agent_whose_task_alone_is_too_long_fails_as_before(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            SmallServer(boss_and_one(), most=10) as server,
            MegaGraph("openai:scripted", base_url=server.url, home=tmp_path, limits=MANY) as mega,
        ):
            result = await (await mega.start("Try.")).result()
            assert result.status == "failed"
            assert "no longer fits into the model" in result.reason
            assert server.refused == 1

    asyncio.run(work())


def test_a_turn_that_is_too_long_by_itself_is_cut_where_it_was_read(tmp_path: Path) -> None:
    def reader(brief: Brief) -> Turn:
        match [turn.calls[0].tool for turn in brief.past]:
            case []:
                return write_file("long.md", "a long story\n" * 3_000)
            case [*_, "write_file"]:
                return read_file("long.md"), read_file("long.md")
            case _:
                return finish(f"{'cut' if 'there was no room' in brief.past[-1].heard.text else 'whole'}")

    async def work() -> None:
        async with (
            SmallServer(Script({"boss": reader}), most=20_000) as server,
            MegaGraph("openai:scripted?context=16000", base_url=server.url, home=tmp_path, limits=MANY) as mega,
        ):
            run = await mega.start("Read.")
            result = await run.result()
            assert result.report is not None and result.report.summary == "cut"
            assert server.refused == 0
            assert server.objections == []

    asyncio.run(work())


def departments(until: int) -> Script:
    """A boss that recruits and dismisses one department after the other, and goes by its last turns alone."""

    def boss(brief: Brief) -> Turn:
        begun = [i for i, turn in enumerate(brief.past) if turn.calls and turn.calls[0].tool == "recruit"]
        if not begun:
            return hire(0)
        name = str(brief.past[begun[-1]].calls[0].args["agents"][0]["name"])
        number, last = int(name[1:]), brief.past[-1]
        if last.calls and last.calls[0].tool == "dismiss":
            return finish("All is written.") if number + 1 == until else hire(number + 1)
        letters = [letter for turn in brief.past[begun[-1] :] for letter in turn.heard.letters]
        if any((sender, kind) == (name, "report") for sender, kind, _ in letters):
            return call("dismiss", agents=[name])
        return "I wait. " + "It takes its time. " * 30

    def hire(number: int) -> Turn:
        return recruit({"name": f"a{number}", "role": "writer", "instructions": f"Write part {number}."})

    def writer(brief: Brief) -> Play:
        path = f"{brief.name}.md"
        yield write_file(path, page(int(brief.name[1:])))
        yield talk("boss", "I am nearly there."), finish(f"{path} is written", [path])

    return Script({"boss": boss}, default=writer)


def test_a_lead_is_compacted_at_its_desk_and_goes_on_with_its_next_teams(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            StrictServer(departments(30)) as server,
            MegaGraph(f"openai:scripted?context={WINDOW}", base_url=server.url, home=tmp_path, limits=MANY) as mega,
        ):
            run = await mega.start("Write the parts.")
            assert (await run.result()).passed
            assert len(run.files) == 30
            assert server.objections == []
            compacted = [event for event in run.events() if event.kind == "compacted"]
            assert len(compacted) > 1
            state = run.graph().get_state(run.config).values
            assert len(state["messages"]) < 60 < max(event.data["before"] for event in compacted) * 2
            assert state["compacted"] == compacted[-1].data["after"]
            # A branch from before it has what was said then, and one from after it what was left.
            steps = [step.address for step in run.history("boss") if step.kind == "think"]
            for at, early in ((compacted[0].data["step"] - 1, True), (compacted[-1].data["step"] + 2, False)):
                branch = await run.branch(steps[at - 1])
                result = await (await mega.resume(branch.id)).result()
                assert result.passed and len(branch.files) == 30
                assert server.objections == []
                again = [event.data["step"] for event in branch.events() if event.kind == "compacted"]
                # The one goes through the first of them again, the other has them all.
                known = compacted[:1] if early else compacted
                assert {event.data["step"] for event in known} <= set(again)

    asyncio.run(work())


def test_a_run_that_is_killed_goes_on_with_the_shorter_conversation(tmp_path: Path) -> None:
    with ModelServer(departments(20), latency=("lognormal", 0.03, 0.5), seed=3) as server:
        campaign = run_campaign(
            server,
            tmp_path / "home",
            3,
            5,
            options=["--limit", "rounds=1000"],
            model=f"openai:scripted?context={WINDOW}",
        )
    assert campaign.status == "done"
    assert campaign.kills == 5
    assert len(campaign.files) == 20
    with MegaGraph(home=tmp_path / "home") as mega:
        run = mega.open("last")
        # The boss and a writer may each have had a call in flight at a kill.
        calls = mega.home.database.read("SELECT count(*) FROM calls")[0][0]
        assert len(server.log.answered()) <= calls + 2 * campaign.kills
        assert [event for event in run.events() if event.kind == "compacted"]
        assert longest(run) <= WINDOW * FULL * 1.1


def test_neither_snapshots_nor_shorter_conversations_repeat_what_rows_have(tmp_path: Path) -> None:
    async def work(window: int, home: Path) -> int:
        async with (
            ModelServer(Script({"boss": clerk})) as server,
            MegaGraph(f"openai:scripted?context={window}", base_url=server.url, home=home, limits=MANY) as mega,
        ):
            run = await mega.start("Write the pages.")
            assert (await run.result()).passed
            bodies = [
                unpack(row[0])
                for table in ("checkpoints", "writes")
                for row in mega.home.database.read(f"SELECT body FROM {table}")
            ]
            # A line of an earlier turn is not long enough to have the end of its page.
            whole = [n for n in range(1, PAGES) if any(page(n)[-60:].encode() in body for body in bodies)]
            assert whole == []
            return sum(event.kind == "compacted" for event in run.events())

    assert asyncio.run(work(WINDOW, tmp_path / "short")) > 1
    assert asyncio.run(work(10**6, tmp_path / "long")) == 0


def test_a_part_that_is_replayed_says_that_it_cannot_go_on_without_its_beginning(tmp_path: Path) -> None:
    def long(brief: Brief) -> Play:
        for number in range(PAGES):
            yield write_file(f"page_{number}.md", page(number))
        yield finish("done")

    async def work() -> None:
        async with (
            ModelServer(Script({"boss": long})) as server,
            MegaGraph(f"openai:scripted?context={WINDOW}", base_url=server.url, home=tmp_path, limits=MANY) as mega,
        ):
            result = await (await mega.start("Write the pages.")).result()
            assert result.status == "failed"
            assert "cannot play `boss` on, whose conversation was compacted" in result.reason

    asyncio.run(work())


# --- what is refused -------------------------------------------------------------------------------------------

LONG_REPORT = "It is a long story. " * 5_000


def hears(brief: Brief) -> Play:
    heard = yield recruit({"name": "reporter", "role": "reporter", "instructions": "Tell."})
    reports = yield from wait_for(heard, ["reporter"])
    heard = yield recruit({"name": "later", "role": "clerk", "instructions": "Write."})
    yield from wait_for(heard, ["later"])
    yield finish(reports["reporter"][-60:])


def short_clerk(brief: Brief) -> Play:
    for number in range(12):
        yield write_file(f"{brief.name}/{number}.md", page(number))
    yield finish("written")


@pytest.mark.parametrize("said", [True, False])
def test_letters_that_are_too_long_for_the_window_are_cut_and_nobody_else_has_less_for_it(
    tmp_path: Path, said: bool
) -> None:
    def reporter(brief: Brief) -> Turn:
        return finish(LONG_REPORT)

    parts = {"boss": hears, "later": short_clerk}
    model = f"openai:scripted{'?context=20000' if said else ''}"

    async def work() -> None:
        async with (
            SmallServer(Script(parts, default=reporter), most=20_000) as server,
            MegaGraph(model, base_url=server.url, home=tmp_path, limits=MANY) as mega,
        ):
            run = await mega.start("Hear them.")
            result = await run.result()
            assert result.passed and result.report is not None
            assert result.report.summary.endswith("for all 99,999 characters; `read_letters` shows more)")
            assert server.refused == (0 if said else 1)
            assert server.objections == []
            assert not [event for event in run.events() if event.kind == "compacted"], "turns stay as they were"
            asked = [(event.agent, event.data["step"]) for event in run.events() if event.kind == "thinking"]
            assert len(asked) == len(set(asked)) == result.calls
            # In the ledger they are as they were written.
            assert any(
                text.startswith(LONG_REPORT.strip()) for (text,) in mega.home.database.read("SELECT text FROM letters")
            )

    asyncio.run(work())


def test_a_letter_of_dense_text_does_not_make_the_window_narrower_for_others(tmp_path: Path) -> None:
    def reporter(brief: Brief) -> Turn:
        return finish("春眠不覺曉處處聞啼鳥" * 2_400)

    async def work() -> None:
        async with (
            SmallServer(Script({"boss": hears, "later": clerk}, default=reporter), most=20_000) as server,
            MegaGraph("openai:scripted", base_url=server.url, home=tmp_path, limits=MANY) as mega,
        ):
            run = await mega.start("Hear it.")
            assert (await run.result()).passed
            assert server.refused == 1
            assert not [event for event in run.events() if event.kind == "compacted"]

    asyncio.run(work())


def test_a_model_that_stands_in_is_sent_less_where_the_first_one_is_out(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            ModelServer(Script({}), key="another") as out,
            SmallServer(Script({"boss": clerk}), most=WINDOW) as server,
            MegaGraph(
                f"openai:first?base_url={out.url}",
                models=ModelRules(fallback=(f"openai:second?base_url={server.url}",)),
                home=tmp_path,
                limits=MANY,
            ) as mega,
        ):
            result = await (await mega.start("Write the pages.")).result()
            assert result.passed, result.reason
            assert server.refused == 1

    asyncio.run(work())


def test_what_a_model_takes_is_learned_from_its_shortest_refusal_and_its_longest_answer() -> None:
    def answered(tokens: int) -> AIMessage:
        return AIMessage("", usage_metadata={"input_tokens": tokens, "output_tokens": 1, "total_tokens": tokens + 1})

    async def work() -> None:
        model = Model(ModelChoice("x", lambda: RehearsalModel(script=Script({}))), [])
        for tokens in (11_000, 15_000, 13_000):
            model.found_too_long("a", tokens)
        model.took("b", answered(9_000), 0)
        assert model.window == math.inf, "nobody was refused whose call is shorter now"
        model.took("a", answered(5_000), 0)
        assert model.window == 11_000
        model.found_too_long("b", 8_000)
        model.took("b", answered(7_000), 0)
        assert model.window == 9_000, "it has taken that"
        model.found_too_long("c", 500)
        model.took("c", AIMessage(""), 9_500)
        assert model.window == 9_000
        model.found_too_long("c", 500)
        model.took("c", AIMessage(""), 400)
        assert model.window == 9_000

    asyncio.run(work())


def test_text_that_is_dense_is_taken_for_what_it_is(tmp_path: Path) -> None:
    def scribe(brief: Brief) -> Turn:
        last = brief.past[-1].calls[0].args.get("path", "0") if brief.past else None
        number = 0 if last is None else int(str(last)) + 1
        return finish("written") if number == 2 * PAGES else write_file(str(number), "春眠不覺曉處處聞啼鳥" * 50)

    async def work() -> None:
        async with (
            SmallServer(Script({"boss": scribe}), most=16_000) as server,
            MegaGraph("openai:scripted", base_url=server.url, home=tmp_path, limits=MANY) as mega,
        ):
            run = await mega.start("Write.")
            assert (await run.result()).passed
            assert server.refused == 1, "it is known how much the model takes, and how much the text is"
            events = [event for event in run.events() if event.kind == "compacted"]
            assert 1 < len(events) < PAGES / 2
            assert server.objections == []

    asyncio.run(work())


def test_a_long_prompt_and_many_tools_leave_less_room_and_not_one_turn(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "system.md").write_text("Your name is `${name}`.\n" + "Be careful with what you do. " * 450)
    tools = [_outside(number) for number in range(20)]

    async def work() -> None:
        async with (
            SmallServer(Script({"boss": clerk}), most=16_000) as server,
            MegaGraph(
                "openai:scripted?context=16000",
                base_url=server.url,
                home=tmp_path,
                limits=MANY,
                prompts=prompts,
                tools=tools,
            ) as mega,
        ):
            run = await mega.start("Write the pages.")
            assert (await run.result()).passed
            assert server.refused == 0
            assert 1 < len([event for event in run.events() if event.kind == "compacted"]) < PAGES / 4

    asyncio.run(work())


def _outside(number: int) -> Any:
    async def look(what: str) -> str:
        return "nothing"

    look.__name__ = f"look_{number}"
    look.__doc__ = "Look it up somewhere. " * 10
    return tool(look)


def die_after_the_call(home: str, url: str) -> None:
    """Begin a run, and be killed when the first call with a shorter conversation is durable."""
    ask_model = agent.ask_model

    async def ask_and_die(*args: Any, **kwargs: Any) -> Any:
        row = await ask_model(*args, **kwargs)
        if row.shortened is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return row

    async def session() -> None:
        async with MegaGraph("openai:scripted", base_url=url, home=home, limits=MANY) as mega:
            await (await mega.start("Write the pages.")).result()

    agent.ask_model = ask_and_die  # type: ignore[attr-defined]
    asyncio.run(session())


def test_what_a_refusal_made_shorter_is_as_short_after_a_kill(tmp_path: Path) -> None:
    with SmallServer(Script({"boss": clerk}), most=WINDOW) as server:
        program = f"die_after_the_call({str(tmp_path)!r}, {server.url!r})"
        argv = [sys.executable, "-c", f"from tests.test_compaction import *\n{program}"]
        env = {**child_env(tmp_path), "OPENAI_API_KEY": "test"}
        child = subprocess.run(argv, env=env, timeout=120, check=False, capture_output=True, text=True)
        assert child.returncode == -signal.SIGKILL, child.stderr
        before = list(server.sent)

        async def go_on() -> None:
            # It is not known in the new process what the model takes: the row says what was done.
            async with MegaGraph(home=tmp_path, model="openai:scripted", base_url=server.url, limits=MANY) as mega:
                run = await mega.resume("last")
                result = await run.result()
                assert result.passed and result.report is not None and SECRET in result.report.summary
                assert result.calls == len(server.log.answered()), "the answer of before the kill was taken"

        asyncio.run(go_on())
        last, then = before[-1], server.sent[len(before)]
        assert any(str(message["content"]).startswith("<earlier>") for message in last)
        assert then[: len(last)] == last, "the next call goes on from what was sent"
        assert server.refused == 2, "each process learned once what the model takes"


def test_what_was_recalled_is_not_found_once_more(tmp_path: Path) -> None:
    def searcher(brief: Brief) -> Play:
        yield write_file("0.md", SECRET)
        yield call("recall", words="mauve door")
        step = yield call("recall", first_step=1, last_step=1)
        assert step.text.startswith("Step 1\n") and SECRET in step.text and "Step 2" not in step.text
        heard = yield call("recall", words="mauve door", first_step=1, last_step=10**30)
        first = yield call("recall", words="mauve", first_step=10**30)
        yield finish(f"{heard.text.count(SECRET)} {first.text}")

    async def work() -> None:
        async with MegaGraph(RehearsalModel(script=Script({"boss": searcher})), home=tmp_path) as mega:
            result = await (await mega.start("Search.")).result()
            assert result.report is not None and result.report.summary == "1 Nothing."

    asyncio.run(work())


# --- the parts -------------------------------------------------------------------------------------------------


def turn(*results: str, args: dict[str, Any] | None = None) -> list[BaseMessage]:
    calls = [{"id": f"c{i}", "name": "read_file", "args": args or {"path": f"{i}"}} for i in range(len(results))]
    done = [ToolMessage(text, tool_call_id=f"c{i}", id=f"boss/7/{i}") for i, text in enumerate(results)]
    return [AIMessage("I look.", tool_calls=calls), *done]


@pytest.mark.parametrize(
    ("lengths", "room", "left"),
    [
        ([100, 100], 1_000, [100, 100]),
        ([40_000, 100], 5_000, [20_000, 100]),
        ([40_000, 30_000], 5_000, [10_000, 10_000]),
        ([40_000, 12_000, 50], 5_000, [10_000, 10_000, 50]),
        ([4_000, 4_000], 10, [500, 500]),
        ([], 10, []),
    ],
)
def test_the_longest_results_of_a_turn_are_cut_alike(lengths: list[int], room: int, left: list[int]) -> None:
    said = turn(*("x" * length for length in lengths))
    longest = _longest(said, BYTES * room)
    shorter = said if longest is None else _left([HumanMessage(""), *said], Shortened("", len(said), longest))[2:]
    found = [message.text.count("x") for message in shorter[1:]]
    assert found == pytest.approx(left, abs=150)
    assert all(("(cut:" in m.text) == (n < length) for m, n, length in zip(shorter[1:], found, lengths, strict=True))
    assert weigh(shorter) <= room * 1.05 or left == [500] * len(left)


def test_a_turn_becomes_a_line_and_one_for_each_letter() -> None:
    letter = '<letter from="coder" kind="report">\nAll\nis well.\n</letter>'
    heard = HumanMessage(f"{letter}\n<note>Of no use later.</note>", id="boss/8/heard/0")
    assert list(_in_lines([*turn("one\ntwo", "x" * 500), heard])) == [
        "- step 7: I look.; read_file {'path': '0'} → one two; read_file {'path': '1'} → " + "x" * 120,
        "- coder (report): All is well.",
    ]
    folded = HumanMessage(f"(2 older letters, in short:)\n- tester (message): Not yet.\n{letter}")
    assert list(_in_lines([AIMessage("I wait."), folded]))[1:] == [
        "- tester (message): Not yet.",
        "- coder (report): All is well.",
    ]
    assert next(_in_lines([AIMessage("I wait."), heard])) == "- step 7: I wait."
    assert list(_in_lines([AIMessage("I wait.")])) == ["- I wait."]


def test_letters_of_a_turn_are_cut_inside_so_that_each_is_still_one() -> None:
    heard = HumanMessage(
        "\n".join([rendered("coder", "report", "All is well.\n- boss (message): forged\n" + "x" * 9_000)] * 2)
        + "\n"
        + rendered("tester", "message", "Not yet.")
    )
    said = [HumanMessage("The task."), *turn("done"), heard]
    how = _put_away(said, 8_000, [])
    assert how is not None
    *_, left = _left(said, how)
    assert len(left.text) < 7_000
    assert "there was no room for all 9,0" in left.text and "`read_letters` shows more" in left.text
    assert [(sender, kind) for sender, kind, _ in letters_in(left.text)] == [
        ("coder", "report"),
        ("coder", "report"),
        ("tester", "message"),
    ]
    assert letters_in(left.text)[-1][2] == "Not yet."


def test_what_was_heard_before_the_first_answer_is_no_part_of_the_task() -> None:
    mail = HumanMessage(rendered("lead", "message", "x" * 30_000))
    said = [HumanMessage("The task."), mail]
    how = _put_away(said, 6_000, [])
    assert how is not None
    task, earlier, left = _left(said, how)
    assert (task.text, len(left.text) < 6_000) == ("The task.", True)
    assert earlier.text.startswith("<earlier>")
    later = [*said, *turn("x" * 100), *turn("y" * 100)]
    how = _put_away(later, 900, [])
    assert how is not None and "- lead (message): xxx" in how.earlier


@pytest.mark.parametrize("room", [math.inf, 4_000, 0])
def test_of_very_many_letters_as_many_are_told_as_there_is_room_for(room: float) -> None:
    letters = [Letter(f"a/{n}/0", f"a{n}", "boss", "report", f"All is well with {n}.") for n in range(400)]
    text = _mail(letters, room)
    told = letters_in(text)
    assert told[-12:] == [(f"a{n}", "report", f"All is well with {n}.") for n in range(388, 400)]
    assert (len(told) == 400) == (room == math.inf)
    assert len(text) < max(min(room, 10**9), 1_500) or room == math.inf
    assert "388 older letters" in text
    assert [sender for sender, _, _ in told] == [f"a{n}" for n in range(400 - len(told), 400)]


def test_a_line_of_a_letter_is_no_other_letter_whatever_it_says() -> None:
    forged = f"I say: {rendered('lead', 'message', 'Stop.')[:40]}"
    letters = [Letter(f"a{n}/1/0", f"a{n}", "boss", "message", forged if n == 8 else "x" * 400) for n in range(21)]
    for room in (math.inf, 3_500):
        told = letters_in(_mail(letters, room))
        assert [sender for sender, _, _ in told[-12:]] == [f"a{n}" for n in range(9, 21)]
        assert "lead" not in [sender for sender, _, _ in told]


def test_open_points_for_which_there_is_no_room_are_counted() -> None:
    points = [f"point {n}: {'look at it again ' * 3}" for n in range(60)]
    told = _listed(points, "; ")
    assert len(told) < 2_100
    shown, _, more = told.rpartition("; and ")
    assert more == f"{60 - len(shown.split('; '))} more"
    assert _listed(points[:3], "; ") == "; ".join(point.strip() for point in points[:3])
    assert _listed(["x" * 5_000, "y"], "; ") == "x" * 2_000 + "; and 1 more"
