"""The gate: how many calls at once, who goes next, and runs whose provider is down."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.messages.ai import UsageMetadata

from benchmarks.gate import CHAIN, chain_script
from benchmarks.organisation import tree_script
from megagraph import Limits, MegaGraph, gate, models
from megagraph.errors import ModelError
from megagraph.faults import explain
from megagraph.gate import Gate, Left, Line, Rank, Rates, gate_to
from megagraph.models import Asker, Model, ModelChoice
from megagraph.rehearsal import Brief, RehearsalModel, Script, finish, recruit
from megagraph.rehearsal import call as tool_call
from megagraph.run import Run
from tests.model_server import ModelServer
from tests.scripts import Play, one
from tests.test_approvals import hire
from tests.test_models import key  # noqa: F401 - a fixture for all tests here

MANY = Limits(agents=300, calls=2000, width=300)


async def in_order(gate: Gate, calls: Sequence[tuple[Line, Rank, str, str]]) -> list[str]:
    """The order in which calls that came while the gate was full are let through."""
    served: list[str] = []
    full = [await gate.line().enter() for _ in range(int(gate.limit))]

    async def call(line: Line, rank: Rank, team: str, name: str) -> None:
        ticket = await line.enter(lambda: rank, team)
        served.append(name)
        gate.gone(ticket)

    async with asyncio.TaskGroup() as group:
        for one_call in calls:
            group.create_task(call(*one_call))
        await asyncio.sleep(0)
        assert served == []
        for ticket in full:
            gate.gone(ticket)
    assert gate.in_flight == 0
    return served


def test_the_lowest_rank_goes_first_and_teams_of_one_rank_take_turns() -> None:
    async def work() -> None:
        gate = Gate(rates=Rates(in_flight=1))
        line = gate.line()
        wide = [(line, (0, 2), "wide", f"w{i}") for i in range(5)]
        small = [(line, (0, 2), "small", f"s{i}") for i in range(2)]
        lead = [(line, (-7, 1), "top", "lead")]
        order = await in_order(gate, [*wide, *small, *lead])
        assert order == ["lead", "w0", "s0", "w1", "s1", "w2", "w3", "w4"]

    asyncio.run(work())


def test_runs_take_turns_whatever_the_ranks_in_them() -> None:
    async def work() -> None:
        gate = Gate(rates=Rates(in_flight=1))
        first, second = gate.line(), gate.line()
        order = await in_order(
            gate, [*((first, (-9,), "t", f"a{i}") for i in range(4)), *((second, (0,), "t", f"b{i}") for i in range(2))]
        )
        assert order == ["a0", "b0", "a1", "b1", "a2", "a3"]

    asyncio.run(work())


def test_who_goes_away_while_waiting_leaves_no_place_taken() -> None:
    async def work() -> None:
        gate = Gate(rates=Rates(in_flight=1))
        line = gate.line()
        ticket = await line.enter()
        waiting = [asyncio.create_task(line.enter()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        gate.gone(ticket)
        # The second has its place and has not yet run when it is cancelled.
        waiting[1].cancel()
        gate.gone(await waiting[2])
        assert gate.in_flight == 0

    asyncio.run(work())


def test_a_refusal_halves_and_the_ceiling_is_soon_reached_again() -> None:
    async def work() -> None:
        gate = Gate(start=40)
        line = gate.line()
        tickets = [await line.enter() for _ in range(40)]
        for ticket in tickets[20:]:
            gate.refused(ticket, "429")
        assert gate.limit == 10
        for ticket in tickets[:20]:
            gate.answered(ticket)
        for _ in range(2):
            tickets = [await line.enter() for _ in range(int(gate.limit))]
            for ticket in tickets:
                gate.answered(ticket)
        assert 19 <= gate.limit <= 22

    asyncio.run(work())


def test_a_limit_that_holds_nothing_back_does_not_grow() -> None:
    async def work() -> None:
        gate = Gate(start=8)
        line = gate.line()
        for _ in range(50):
            gate.answered(await line.enter())
        assert gate.limit == 8

    asyncio.run(work())


@pytest.mark.parametrize(("rates", "at_once"), [(Rates(rpm=3), 3), (Rates(tpm=100), 2), (Rates(tpm=10), 1)])
def test_requests_and_tokens_of_a_minute_are_kept(monkeypatch: pytest.MonkeyPatch, rates: Rates, at_once: int) -> None:
    async def work() -> None:
        gate = Gate(rates=rates)
        line = gate.line()
        calls = [asyncio.create_task(line.enter(tokens=40)) for _ in range(6)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        done = [call for call in calls if call.done()]
        assert len(done) == at_once
        if rates.tpm == 100:
            # It was less than was thought: there is room for one more in the same minute.
            gate.answered(done[0].result(), 5)
            await asyncio.sleep(0)
            assert sum(call.done() for call in calls) == at_once + 1
        monkeypatch.setattr("megagraph.gate._WINDOW", 0.01)
        gate.wait(line)
        await asyncio.wait_for(asyncio.gather(*calls), 10)

    asyncio.run(work())


def test_the_tools_and_the_answer_count_among_the_tokens_of_a_minute() -> None:
    class Slow(RehearsalModel):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self

        async def ainvoke(self, *args: Any, **kwargs: Any) -> AIMessage:
            asked.append(1)
            if len(asked) == 9:
                nine.set()
            await answers.wait()
            usage = UsageMetadata(input_tokens=1500, output_tokens=500, total_tokens=2000)
            return AIMessage("yes", usage_metadata=usage)

    asked: list[int] = []
    nine = asyncio.Event()

    async def work() -> None:
        tools = [{"type": "function", "function": {"name": "t", "description": "x" * 4000}}]
        chat = Slow(script=Script({}))
        model = Model(ModelChoice("slow", lambda: chat, provider="slow", rates=Rates(tpm=10_000)), tools)

        async def ask() -> None:
            await model.ask(Asker(), [HumanMessage("?")], lambda reason, delay: None)

        calls = [asyncio.create_task(ask()) for _ in range(30)]
        await asyncio.wait_for(nine.wait(), 60)
        await asyncio.sleep(0.05)
        assert len(asked) == 9, "a thousand tokens of tools each, and not just a question mark"
        answers.set()
        await asyncio.gather(*calls[:9])
        again = [asyncio.create_task(ask()) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert len(asked) == 9, "they took two thousand each"
        for call in (*calls, *again):
            call.cancel()

    answers = asyncio.Event()
    asyncio.run(work())


def test_a_provider_has_one_gate_in_a_process_and_loop() -> None:
    async def work() -> Gate:
        one_key = gate_to(("openai", "", "a"), "OpenAI", Rates())
        assert gate_to(("openai", "", "a"), "OpenAI", Rates()) is one_key
        assert gate_to(("openai", "", "b"), "OpenAI", Rates()) is not one_key
        return one_key

    assert asyncio.run(work()) is not asyncio.run(work())


def test_whoever_rests_or_waits_when_the_run_stops_leaves_at_once() -> None:
    async def work() -> None:
        gate = Gate(rates=Rates(in_flight=1))
        line = gate.line()
        ticket = await line.enter()
        tasks = [asyncio.create_task(line.enter()), asyncio.create_task(line.rest(600))]
        await asyncio.sleep(0)
        line.leave(Left())
        assert {type(e) for e in await asyncio.gather(*tasks, return_exceptions=True)} == {Left}
        with pytest.raises(Left):
            await line.enter()
        gate.gone(ticket)
        gate.gone(await gate.line().enter())

    asyncio.run(work())


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "0.5"}, 0.5),
        ({"Retry-After": "3", "Retry-After-Ms": "2500"}, 2.5),
        ({"Retry-After": "-3"}, 0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
def test_a_wait_that_is_asked_for_is_understood_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_to_wait(headers) == seconds


def test_a_wait_until_a_time_of_day_is_as_long_as_it_is_still_to_come() -> None:
    until = datetime.now(UTC) + timedelta(minutes=10)
    before = datetime.now(UTC)
    seconds = asked_to_wait({"Retry-After": format_datetime(until, usegmt=True)})
    after = datetime.now(UTC)
    assert seconds is not None
    # A date has no fractions of a second.
    assert (until - after).total_seconds() - 1 <= seconds <= (until - before).total_seconds()


def asked_to_wait(headers: dict[str, str]) -> float | None:
    response = httpx.Response(429, headers=headers, request=httpx.Request("POST", "http://localhost"))
    fault = explain(openai.RateLimitError("429", response=response, body=None))
    assert fault.kind == "refused"
    return fault.retry_after


def test_a_provider_that_asks_to_wait_for_an_hour_counts_as_down() -> None:
    async def work() -> None:
        gate = Gate("the provider")
        with pytest.raises(ModelError, match="the provider cannot be used") as caught:
            gate.refused(await gate.line().enter(), "429: come tomorrow", 3600.0)
        assert caught.value.everyone
        # A person who resumes the run in this process tries again, and does not wait for an hour unseen.
        gate.gone(await asyncio.wait_for(gate.line().enter(), 10))

    asyncio.run(work())


# --- runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [tree_script(200), chain_script(200 - CHAIN - 3)], ids=["tree", "flat"])
def test_a_provider_that_refuses_above_twenty_is_soon_understood(tmp_path: Path, script: Script) -> None:
    async def work() -> None:
        with ModelServer(script, latency=0.1, max_in_flight=20) as server:
            async with MegaGraph("openai:scripted", base_url=server.url, home=tmp_path, limits=MANY) as mega:
                result = await (await mega.start("Write the policies.")).result()
            refused = sum(record.status == 429 for record in server.log)
            assert result.passed, result
            assert len(server.log) > 200
            assert refused < 0.1 * len(server.log)

    asyncio.run(work())


def test_those_on_the_critical_path_go_before_a_wide_team(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            ModelServer(chain_script(60), latency=0.02) as server,
            MegaGraph("openai:scripted?in_flight=4", base_url=server.url, home=tmp_path, limits=MANY) as mega,
        ):
            assert (await (await mega.start("Hurry.")).result()).passed
            order = [record.agent or "" for record in server.log]
            assert server.log.peak_in_flight() <= 4
            leaves_after = sum(name.startswith("leaf") for name in order[order.index(f"link_{CHAIN - 1}") :])
            # Each link has to wait for one of four places at most, so at most so many leaves go between two.
            assert leaves_after >= 60 - 5 * (CHAIN + 2)
            assert order.index("link_0") < order.index("leaf_20")

    asyncio.run(work())


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(models, "LONGEST_DELAY", 0.002)
    monkeypatch.setattr(gate, "DOWN_SECONDS", 0.0)


def team(size: int, act: object = None) -> Script:
    """A boss and a team; `act` is called when the members are first asked."""

    def boss(brief: object) -> Play:
        heard = yield recruit(*({"name": f"m{i}", "role": "member", "instructions": "say so"} for i in range(size)))
        heard_of: set[str] = set()
        while len(heard_of) < size:
            heard_of |= {sender for sender, kind, _ in heard.letters if kind == "report"}
            heard = (yield "I wait.") if len(heard_of) < size else heard
        yield finish("all have reported")

    def member(brief: object) -> Play:
        if callable(act):
            act()
        yield finish("done")

    return Script({"boss": boss}, default=member)


def failures(run: Run) -> Counter[str]:
    return Counter(str(event.data.get("problem")) for event in run.events() if event.kind == "failed")


@pytest.mark.parametrize("fault", ["server_error", "overloaded", "disconnect", "gone"])
def test_a_run_whose_provider_goes_down_pauses_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    quick(monkeypatch)

    async def work() -> None:
        async with ModelServer(Script({"boss": one(finish("x"))})) as gone:
            url = gone.url
        async with ModelServer(team(40)) as server:
            server.faults = {} if fault == "gone" else {fault: 1.0}
            if fault != "gone":
                url = server.url
            async with MegaGraph("openai:scripted", base_url=url, home=tmp_path, limits=MANY) as mega:
                run = await mega.start("Do it.")
                result = await run.result()
                assert result.status == "paused"
                assert "cannot be used" in result.reason and url in result.reason and "resume" in result.reason
                assert failures(run) == {"down": 1}
        async with ModelServer(team(40)) as mended:
            async with MegaGraph("openai:scripted", base_url=mended.url, home=tmp_path) as mega:
                assert (await (await mega.resume("last")).result()).passed
            assert len(mended.log) == len(mended.log.answered())

    asyncio.run(work())


def test_a_provider_that_goes_down_under_a_team_makes_no_failures_of_its_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)

    async def work() -> None:
        server = ModelServer(team(40, lambda: setattr(server, "faults", {"server_error": 1.0})))
        async with server, MegaGraph("openai:scripted", base_url=server.url, home=tmp_path, limits=MANY) as mega:
            run = await mega.start("Do it.")
            assert (await run.result()).status == "paused"
            assert failures(run) == {"down": 1}
            asked = len(server.log)
            assert asked < 40 * models.ATTEMPTS, "not everybody has used up all attempts"
            server.script, server.faults = team(40), {}
            result = await (await mega.resume(run.id)).result()
            assert result.passed
            assert [r.summary for r in [result.report] if r] == ["all have reported"]
            assert server.log.repeats() == {}

    asyncio.run(work())


def test_a_key_that_is_withdrawn_stops_the_run_once(tmp_path: Path) -> None:
    async def work() -> None:
        server = ModelServer(team(40, lambda: setattr(server, "key", "another")))
        async with server:
            options = {"base_url": server.url, "home": tmp_path, "limits": MANY}
            async with MegaGraph("openai:scripted?in_flight=4", **options) as mega:  # type: ignore[arg-type]
                run = await mega.start("Do it.")
                result = await run.result()
                assert result.status == "failed"
                assert "check OPENAI_API_KEY" in result.reason
                assert failures(run) == {"key": 1}
                assert sum(record.status == 401 for record in server.log) <= 4, "those who waited did not try"
                server.key, server.script = None, team(40)
                assert (await (await mega.resume(run.id)).result()).passed

    asyncio.run(work())


def test_a_pause_does_not_wait_for_those_in_the_line(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            ModelServer(team(40), latency=0.05) as server,
            MegaGraph("openai:x?in_flight=2", base_url=server.url, home=tmp_path, limits=MANY) as mega,
        ):
            run = await mega.start("Do it.")
            async for event in run:
                if event.kind == "thought" and event.agent != "boss":
                    break
            await run.pause("enough for now")
            assert run.status == "paused"
            assert len(server.log) < 10
            assert (await (await mega.resume(run.id)).result()).passed
            assert server.log.repeats() == {}

    asyncio.run(work())


@pytest.mark.parametrize("limits", [Limits(), Limits(agents_at_once=1)])
def test_whoever_is_dismissed_while_it_waits_for_a_call_makes_none(tmp_path: Path, limits: Limits) -> None:
    crowd = [f"w{i}" for i in range(6)]

    def boss(brief: Brief) -> Play:
        yield recruit(*map(hire, crowd), work_on=True)
        yield tool_call("dismiss", agents=crowd)
        yield finish("alone")

    idle = one("a turn", finish("worked"))

    async def work() -> None:
        async with ModelServer(Script({"boss": boss, **dict.fromkeys(crowd, idle)}), latency=0.3) as server:
            model = "openai:scripted?in_flight=1"
            async with MegaGraph(model, base_url=server.url, home=tmp_path, limits=limits) as mega:
                run = await mega.start("Dismiss.")
                result = await run.result()
                assert result.status == "done"
                asked = Counter(record.agent for record in server.log)
                assert asked["boss"] == 3
                assert sum(asked[name] for name in crowd) <= 2, "those in the line went away without a call"
                assert result.calls == len(server.log)
                assert len(result.not_done) >= 4

    asyncio.run(work())
