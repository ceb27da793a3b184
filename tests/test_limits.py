"""Limits: read, refused where they do not fit, and held over the whole organisation."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from megagraph import Limits, MegaGraph, Run, Scenario
from megagraph.errors import BranchStopped, CostNotApproved, LimitReached, UsageError
from megagraph.limits import Claim, Meter, Pool, Use
from megagraph.prices import FREE, find_price, parse_prices
from megagraph.rehearsal import (
    Brief,
    Part,
    RehearsalModel,
    Script,
    call,
    finish,
    list_files,
    recruit,
    update_todo,
    wait_for,
    write_file,
)
from megagraph.run import Result
from tests.commands import ROOT
from tests.model_server import ModelServer
from tests.scripts import Play, deep_script, one


def test_limits_are_read_from_words_and_numbers() -> None:
    assert Limits.parse({"calls": "7", "minutes": "1.5", "depth": 0}) == Limits(calls=7, minutes=1.5, depth=0)
    assert Limits.parse({"cost_usd": "none", "agents_at_once": None}) == Limits()


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"calls": 0}, "`calls`.*greater"),
        ({"calls": "many"}, "`calls`.*integer"),
        ({"calls": 1.5}, "`calls`.*integer"),
        ({"minutes": -1}, "`minutes`.*greater"),
        ({"minutes": "nan"}, "`minutes`"),
        ({"cost_usd": 0}, "`cost_usd`.*greater"),
        ({"cost_usd": "inf"}, "`cost_usd`.*finite"),
        ({"agents_at_once": 0}, "`agents_at_once`.*greater"),
        ({"calls": "none"}, "`calls`.*integer"),
        ({"call": 1}, "`call`.*Known limits: calls, input_tokens"),
        ({"calls": 0, "depth": -1}, "`calls`.*`depth`"),
    ],
)
def test_what_does_not_fit_is_named(values: dict[str, object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as error:
        Limits.parse(values)
    assert "\n" not in str(error.value)


def test_limits_cannot_be_changed_on_the_way() -> None:
    with pytest.raises(ValidationError):
        Limits().calls = 3


# --- the meter ------------------------------------------------------------------------------------------------


def test_what_a_call_has_beyond_its_messages_is_learned_once_by_however_many_first_calls() -> None:
    async def work() -> int:
        meter = Meter(Limits())
        claims = [await meter.reserve(f"agent_{i}", 1, Use(1, 10), learn_from=0) for i in range(100)]
        # A reviewer has other tools, and a later call tells nothing of them.
        claims.append(await meter.reserve("agent_0.review", 1, Use(1, 10)))
        for claim in claims:
            assert claim is not None
            meter.settle(claim, Use(1, 10 if claim.learn_from is None else 1010, 5))
        return meter.overhead

    assert asyncio.run(work()) == 1000


def test_a_call_never_has_less_than_its_messages() -> None:
    async def work() -> int:
        meter = Meter(Limits(), described=1500)
        claim = await meter.reserve("agent", 1, Use(1, 16_500), learn_from=meter.overhead)
        assert claim is not None
        meter.settle(claim, Use(1, 7_500, 5))
        return meter.overhead

    assert asyncio.run(work()) == 0


@pytest.mark.parametrize(
    ("limits", "used", "expected", "name"),
    [
        (Limits(calls=3), Use(3), Use(), "calls"),
        (Limits(input_tokens=10), Use(1, 10), Use(), "input_tokens"),
        (Limits(input_tokens=10), Use(1, 6), Use(1, 5), "input_tokens"),
        (Limits(output_tokens=10), Use(1, 0, 11), Use(), "output_tokens"),
        (Limits(cost_usd=1), Use(1, 0, 0, 0.9), Use(1, 0, 0, 0.2), "cost_usd"),
    ],
)
def test_the_meter_stops_where_the_next_call_does_not_fit(limits: Limits, used: Use, expected: Use, name: str) -> None:
    with pytest.raises(LimitReached, match=rf"limit reached: {name}=\d+ of the run \(at agent `a`\)") as error:
        asyncio.run(Meter(limits, used=used).reserve("a", 1, expected))
    assert error.value.limit == name
    assert error.value.agent == "a"
    assert f"--limit {name}=" in error.value.hint


def test_the_meter_stops_at_time_and_rounds() -> None:
    with pytest.raises(LimitReached, match="minutes=1 of the run"):
        asyncio.run(Meter(Limits(minutes=1), seconds=60).reserve("a", 1))
    with pytest.raises(LimitReached, match="rounds=2 of one agent"):
        asyncio.run(Meter(Limits(rounds=2)).reserve("a", 3))


async def claimed(meter: Meter, agent: str, expected: Use | None = None, branches: tuple[str, ...] = ()) -> Claim:
    claim = await meter.reserve(agent, 1, expected, branches)
    assert claim is not None
    return claim


def test_a_call_that_was_not_answered_is_given_back() -> None:
    async def main() -> None:
        meter = Meter(Limits(calls=2))
        first = await claimed(meter, "a")
        second = await claimed(meter, "b")
        third = asyncio.ensure_future(claimed(meter, "c"))
        fourth = asyncio.ensure_future(claimed(meter, "d"))
        await asyncio.sleep(0)
        assert not third.done(), "what is left is promised, but not used up"
        meter.release(first)
        meter.settle(await third, Use(1, 10, 5))
        meter.settle(second, Use(1, 1, 1))
        with pytest.raises(LimitReached):
            await fourth
        assert meter.used == Use(2, 11, 6)
        assert meter.in_flight == 0

    asyncio.run(main())


def test_calls_in_flight_hold_what_they_are_expected_to_use() -> None:
    async def main() -> None:
        meter = Meter(Limits(output_tokens=100, cost_usd=1.0))
        big = await claimed(meter, "a", Use(1, 0, 90, 0.1))
        waits = asyncio.ensure_future(claimed(meter, "b", Use(1, 0, 20, 0.1)))
        await asyncio.sleep(0)
        assert not waits.done()
        meter.settle(big, Use(1, 0, 10, 0.1))
        meter.settle(await waits, Use(1, 0, 20, 0.8))
        with pytest.raises(LimitReached, match="cost_usd=1 "):
            await meter.reserve("c", 1, Use(1, 0, 20, 0.2))

    asyncio.run(main())


def test_a_cost_is_approved_before_whoever_waits_is_let_through_too() -> None:
    async def main() -> None:
        meter = Meter(Limits(agents_at_once=1), ask_above=1.0)
        dear = Use(1, cost_usd=0.6)
        first = await meter.reserve("a", 1, dear)
        assert first is not None
        waiting = asyncio.ensure_future(meter.reserve("b", 1, Use(1, cost_usd=0.3)))
        with pytest.raises(CostNotApproved):
            await meter.reserve("c", 1, dear)
        meter.settle(first, Use(1, cost_usd=0.8))
        with pytest.raises(CostNotApproved) as needs:
            await waiting
        assert needs.value.spent == 0.8
        meter.approve()
        assert await meter.reserve("c", 1, dear) is not None

    asyncio.run(main())


def test_what_was_used_is_counted_anew_over_the_pool_as_well() -> None:
    async def main() -> None:
        pool = Pool(Limits(calls=20), Use(7))
        meter, other = (Meter(Limits(calls=10), used=Use(number), pool=pool) for number in (3, 4))
        meter.give("dev", {"calls": 2}, Use(2))
        meter.count_anew(Use(9, 100, 10, 0.5))
        assert meter.used == Use(9, 100, 10, 0.5)
        assert pool.account.used["calls"] == 13
        assert other.used == Use(4)
        assert not meter.divided
        meter.give("dev", {"calls": 9}, Use(8))
        meter.settle(await claimed(meter, "dev", None, ("dev",)), Use(1))
        with pytest.raises(LimitReached, match="calls=10 of the run"):
            await meter.reserve("dev", 2, None, ("dev",))

    asyncio.run(main())


def test_whoever_waits_is_served_in_turn_and_can_be_let_go() -> None:
    async def main() -> None:
        meter = Meter(Limits(agents_at_once=2))
        order: list[str] = []

        async def agent(name: str) -> None:
            claim = await meter.reserve(name, 1)
            if claim is not None:
                order.append(name)
                await asyncio.sleep(0)
                meter.settle(claim, Use())

        names = [f"a{i}" for i in range(50)]
        await asyncio.gather(*map(agent, names))
        assert order == names
        assert meter.peak == 2
        held = [await claimed(meter, "x"), await claimed(meter, "y")]
        cancelled, left = (asyncio.ensure_future(meter.reserve(name, 1)) for name in ("cancelled", "left"))
        await asyncio.sleep(0)
        cancelled.cancel()
        meter.let_go()
        assert await left is None
        for claim in held:
            meter.release(claim)
        assert meter.in_flight == 0

    asyncio.run(main())


def test_a_part_is_held_for_a_branch_and_inside_a_part() -> None:
    async def main() -> None:
        meter = Meter(Limits(calls=100))
        meter.give("lead", {"calls": 3})
        meter.give("dev", {"calls": 2}, Use(1))
        meter.settle(await claimed(meter, "dev", None, ("dev", "lead", "boss")), Use())
        with pytest.raises(BranchStopped, match="calls=2 of the part given to `dev` \\(at agent `dev`"):
            await meter.reserve("dev", 2, None, ("dev", "lead", "boss"))
        for _ in range(2):
            meter.settle(await claimed(meter, "qa", None, ("qa", "lead", "boss")), Use())
        with pytest.raises(BranchStopped, match="calls=3 of the part given to `lead` \\(at agent `qa`"):
            await meter.reserve("qa", 3, None, ("qa", "lead", "boss"))
        assert meter.used.calls == 3
        await claimed(meter, "boss", None, ("boss",))
        # Where a part was, its agent can still have had a call in flight.
        meter.give("late", {"calls": 5})
        last = await claimed(meter, "late", None, ("late", "boss"))
        for branch in ("dev", "lead", "late"):
            assert meter.divided
            meter.take_back(branch)
        assert not meter.divided
        meter.settle(last, Use(1))

    asyncio.run(main())


# --- runs -----------------------------------------------------------------------------------------------------


def hire(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "role": "worker", "instructions": f"be {name}", **more}


def play(home: Path, parts: Mapping[str, Part], limits: Limits, **kwargs: Any) -> tuple[Result, list[Any]]:
    async def work() -> tuple[Result, list[Any]]:
        model = RehearsalModel(script=Script(parts, default=kwargs.pop("default", None)))
        async with MegaGraph(model, home=home, limits=limits) as mega:
            run = await mega.start(kwargs.pop("goal", "The goal."))
            events = [event async for event in run]
            return await run.result(), events

    return asyncio.run(work())


@pytest.mark.parametrize(
    ("low", "name"),
    [
        (Limits(calls=20), "calls=20"),
        (Limits(input_tokens=60_000), "input_tokens=60000"),
        (Limits(output_tokens=400), "output_tokens=400"),
        (Limits(cost_usd=0.05), "cost_usd=0.05"),
        (Limits(rounds=4), "rounds=4"),
        (Limits(minutes=0.001), "minutes=0.001"),
    ],
)
def test_each_limit_pauses_the_run_which_goes_on_with_more(tmp_path: Path, low: Limits, name: str) -> None:
    prices = {"scripted": (0.5, 5.0)}

    async def work() -> None:
        async with (
            ModelServer(deep_script(), latency=0.01) as server,
            MegaGraph("openai:scripted", base_url=server.url, home=tmp_path, limits=low, prices=prices) as mega,
        ):
            run = await mega.start("Write the files.")
            result = await run.result()
            assert result.status == "paused"
            assert f"limit reached: {name} of " in result.reason
            assert "(at agent `" in result.reason
            assert result.calls <= low.calls
            assert (result.cost_usd or 0) <= (low.cost_usd or 1)
            before = result.calls
            result = await (await mega.resume(run.id, limits=Limits())).result()
            assert result.passed
            assert result.calls > before
            answered = [record.usage for record in server.log.answered() if record.usage]
            assert result.calls == len(answered)
            assert result.input_tokens == sum(usage["prompt_tokens"] for usage in answered)
            assert result.output_tokens == sum(usage["completion_tokens"] for usage in answered)
            cost = (result.input_tokens * 0.5 + result.output_tokens * 5.0) / 1e6
            assert result.cost_usd == pytest.approx(cost)

    asyncio.run(work())


def test_wall_time_ends_while_nobody_begins_or_ends_a_call(tmp_path: Path) -> None:
    async def work() -> None:
        boss = one(list_files(), finish("done"))
        async with ModelServer(Script({"boss": boss})) as server:
            low = Limits(minutes=0.04)
            async with MegaGraph(
                "openai:scripted?rpm=1", base_url=server.url, home=tmp_path, limits=low, prices={"scripted": (1, 1)}
            ) as mega:
                run = await mega.start("Look.")
                result = await asyncio.wait_for(run.result(), 40)
                assert result.status == "paused"
                assert "limit reached: minutes=0.04 of the run" in result.reason
                assert result.calls == len(server.log.answered()) == 1
                assert [event.data["limit"] for event in run.events() if event.kind == "limit"] == ["minutes"]

    asyncio.run(work())


def test_a_call_that_cannot_be_kept_gives_its_place_back(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("unlucky"), hire("next"))
        yield from wait_for(heard, ["next"])
        yield finish("done")

    async def work() -> None:
        model = RehearsalModel(script=Script({"boss": boss, "unlucky": one(finish("?")), "next": one(finish("ok"))}))
        async with MegaGraph(model, home=tmp_path, limits=Limits(agents_at_once=1)) as mega:
            refuse = "BEGIN SELECT RAISE(ABORT, 'no room'); END"
            trigger = f"CREATE TRIGGER no BEFORE INSERT ON calls WHEN NEW.agent = 'unlucky' {refuse}"
            mega.home.database.write_sync((trigger, ()))
            run = await mega.start("Be two.")
            result = await asyncio.wait_for(run.result(), 60)
            assert result.status == "done"
            assert "unlucky" in str(result.not_done)

    asyncio.run(work())


def crowd(size: int, turns: int = 3) -> dict[str, Part]:
    """A boss with a team of `size`, whose members work for some turns each."""

    def boss(brief: Brief) -> Play:
        names = [f"w{i}" for i in range(size)]
        heard = yield recruit(*map(hire, names))
        yield from wait_for(heard, names)
        yield finish("done")

    def worker(brief: Brief) -> Play:
        for i in range(turns - 1):
            yield update_todo([], [f"point {i}"])
        yield finish("ok")

    return {"boss": boss, **{f"w{i}": worker for i in range(size)}}


def test_two_hundred_agents_at_once_never_exceed_a_limit(tmp_path: Path) -> None:
    wide = {"agents": 201, "width": 200, "rounds": 1000}

    async def work() -> None:
        async with ModelServer(Script(crowd(200, turns=2)), latency=0.02) as server:
            limits = Limits(calls=150, **wide)
            async with MegaGraph("openai:scripted", base_url=server.url, home=tmp_path, limits=limits) as mega:
                run = await mega.start("Be many.")
                result = await run.result()
                assert result.reason.startswith("limit reached: calls=150 of the run")
                assert result.calls == 150 == len(server.log)
                answer = max(r.usage["completion_tokens"] for r in server.log if r.usage and r.agent != "boss")
                before = result.output_tokens
                limits = Limits(calls=5000, output_tokens=before + 50 * answer, **wide)
                result = await (await mega.resume(run.id, limits=limits)).result()
                assert result.reason.startswith("limit reached: output_tokens=")
                # What the calls in flight were expected to write was held: only the last one may have been longer, and
                # what the boss writes to those who have reported by then.
                replies = [r.usage["completion_tokens"] for r in server.log[150:] if r.usage and r.agent == "boss"]
                assert result.output_tokens <= limits.output_tokens + answer + max(replies, default=0)
                result = await (await mega.resume(run.id, limits=Limits(calls=5000, **wide))).result()
                assert result.passed
                assert result.calls == len(server.log), "nothing was asked twice"

    asyncio.run(work())


@pytest.mark.parametrize("most", [1, 3])
def test_so_many_agents_at_once_and_no_more(tmp_path: Path, most: int) -> None:
    async def work() -> None:
        async with ModelServer(deep_script(), latency=0.005) as server:
            limits = Limits(agents_at_once=most)
            async with MegaGraph("openai:scripted", base_url=server.url, home=tmp_path, limits=limits) as mega:
                run = await mega.start("Write the files.")
                result = await run.result()
                assert result.passed
                assert server.log.peak_in_flight() <= most
                assert {e.agent for e in run.events() if e.kind == "thought"} == set(deep_script().parts)

    asyncio.run(work())


def test_a_pause_does_not_wait_for_those_who_wait_for_their_turn(tmp_path: Path) -> None:
    async def work() -> None:
        script = Script(crowd(40, turns=50), pace=0.01)
        limits = Limits(agents_at_once=1, width=40, calls=5000)
        async with MegaGraph(RehearsalModel(script=script), home=tmp_path, limits=limits) as mega:
            run = await mega.start("Be many.")
            async for event in run:
                if event.kind == "thought" and event.agent != "boss":
                    break
            result = await run.pause()
            assert result.status == "paused"
            assert result.calls <= 4

    asyncio.run(work())


def test_the_boss_is_told_once_that_a_limit_is_near(tmp_path: Path) -> None:
    def told(run: Run) -> list[str]:
        return [str(event.data["why"]) for event in run.events() if event.kind == "limit" and not event.data["reached"]]

    heard: list[str] = []

    def boss(brief: Brief) -> Play:
        news = yield recruit(hire("slow"))
        while not news.report_of("slow"):
            heard.extend(text for _, kind, text in news.letters if kind == "notice")
            news = yield "I wait."
        yield finish("done")

    def slow(brief: Brief) -> Play:
        for i in range(30):
            yield update_todo([], [f"point {i}"])
        yield finish("ok")

    async def work() -> None:
        model = RehearsalModel(script=Script({"boss": boss, "slow": slow}))
        async with MegaGraph(model, home=tmp_path, limits=Limits(calls=20)) as mega:
            run = await mega.start("Be slow.")
            assert (await run.result()).status == "paused"
            assert told(run) == ["calls: 16 of 20 are used"]
            await (await mega.resume(run.id)).result()
            assert told(run) == ["calls: 16 of 20 are used"], "once is enough, through any number of processes"
            result = await (await mega.resume(run.id, limits=Limits(calls=40))).result()
            assert result.passed
            assert told(run) == ["calls: 16 of 20 are used", "calls: 32 of 40 are used"]
        assert any("Wind down" in text for text in heard), "it was woken for it"

    asyncio.run(work())


def test_a_part_that_is_used_up_stops_its_branch_and_nobody_else(tmp_path: Path) -> None:
    failures: list[str] = []

    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("lead", limits={"calls": 8}), hire("other"))
        while not any(kind == "failure" for _, kind, _ in heard.letters):
            heard = yield "I wait."
        failures.extend(text for _, kind, text in heard.letters if kind == "failure")
        heard = yield call("dismiss", agents=["lead"], reason="too dear")
        yield from wait_for(heard, ["other"])
        yield finish("done without the lead's part")

    def lead(brief: Brief) -> Play:
        heard = yield recruit(hire("a"), hire("b"))
        yield from wait_for(heard, ["a", "b"])
        yield finish("done")

    def endless(brief: Brief) -> Play:
        i = 0
        while True:
            i += 1
            yield write_file(f"{brief.name}.txt", f"{i}")

    def other(brief: Brief) -> Play:
        for i in range(30):
            yield write_file("other.txt", f"{i}")
        yield finish("ok", ["other.txt"])

    parts = {"boss": boss, "lead": lead, "a": endless, "b": endless, "other": other}

    async def work() -> tuple[Result, dict[str, int]]:
        async with MegaGraph(RehearsalModel(script=Script(parts)), home=tmp_path) as mega:
            run = await mega.start("Divide the work.")
            result = await run.result()
            return result, {name: use.calls for name, use in mega.home.ledger(run.id).used_by().items()}

    result, calls = asyncio.run(work())
    assert result.passed
    assert calls["lead"] + calls["a"] + calls["b"] == 8
    assert calls["other"] == 31
    assert "calls=8 of the part given to `lead`" in failures[0]
    assert [line.split(" (")[0] for line in result.not_done] == ["lead", "a", "b"]


def test_a_part_holds_through_a_pause(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield recruit(hire("dev", limits={"calls": 12}))
        while not any(kind == "failure" for _, kind, _ in heard.letters):
            heard = yield "I wait."
        yield finish("done", [])
        yield finish("dev could not")

    def dev(brief: Brief) -> Play:
        i = 0
        while True:
            i += 1
            yield update_todo([], [f"point {i}"])

    async def work() -> None:
        model = RehearsalModel(script=Script({"boss": boss, "dev": dev}))
        async with MegaGraph(model, home=tmp_path, limits=Limits(calls=9)) as mega:
            run = await mega.start("Divide the work.")
            assert (await run.result()).status == "paused"
        async with MegaGraph(model, home=tmp_path) as mega:
            result = await (await mega.resume("last", limits=Limits())).result()
            assert result.status == "done"
            assert not result.passed
            assert mega.home.ledger(result.run).used_by()["dev"].calls == 12

    asyncio.run(work())


def test_a_turn_with_too_many_tool_calls_is_cut_short_and_the_agent_is_told(tmp_path: Path) -> None:
    def boss(brief: Brief) -> Play:
        heard = yield tuple(write_file(f"{i}.txt", "x") for i in range(5))
        assert [text.startswith("Error: not carried out: a turn may have 3 tool calls") for text in heard.results] == [
            False,
            False,
            False,
            True,
            True,
        ]
        heard = yield list_files()
        assert "3.txt" not in heard.results[0]
        yield finish("done", ["0.txt"])

    result, _ = play(tmp_path, {"boss": boss}, Limits(tool_calls=3))
    assert result.passed


@pytest.mark.parametrize("calls", [1, 7, 20])
def test_a_run_never_makes_more_calls_than_it_may(tmp_path: Path, calls: int) -> None:
    async def work() -> Result:
        async with MegaGraph(RehearsalModel(script=deep_script()), home=tmp_path, limits=Limits(calls=calls)) as mega:
            return await (await mega.start("Write the files.")).result()

    result = asyncio.run(work())
    assert result.status == "paused"
    assert result.calls == calls
    assert f"calls={calls}" in result.reason


# --- prices ---------------------------------------------------------------------------------------------------


def test_prices_are_listed_or_given_and_never_guessed() -> None:
    listed = find_price("openai:gpt-5-mini")
    assert listed is not None
    assert 0 < listed.cost(1000, 0, 1000) < listed.cost(1000, 0) < listed.cost(1000, 100)
    assert listed.expected(1000, 100) == pytest.approx(listed.cost(1000, 100))
    assert find_price("openai:gpt-5-mini", base_url="http://localhost:8000/v1") is None
    assert find_price("openai:no-such-model") is None
    assert find_price("rehearsal") is FREE
    given = parse_prices({"my-model": [1, 2]})
    for label in ("openai:my-model", "openai:my-model?rpm=3", "my-model"):
        price = find_price(label, base_url="http://localhost:8000/v1", prices=given)
        assert price is not None
        assert price.cost(1_000_000, 500_000) == 2.0
    with pytest.raises(UsageError, match="the price of `x` does not fit"):
        parse_prices({"x": [1]})
    with pytest.raises(UsageError, match="the price of `x` does not fit"):
        parse_prices({"x": [1, -1]})


def test_an_unknown_price_is_said_once_and_never_taken_for_nothing(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            ModelServer(deep_script()) as server,
            MegaGraph("openai:scripted", base_url=server.url, home=tmp_path) as mega,
        ):
            with pytest.raises(UsageError, match=r"cost_usd=1 cannot be held.*openai:scripted") as error:
                await MegaGraph.start(mega, Scenario("Write the files.", limits=Limits(cost_usd=1)))
            assert "\n" not in str(error.value)
            assert mega.runs() == [], "nothing was begun"
            run = await mega.start(Scenario("Write the files.", limits=Limits(calls=5)))
            assert (await run.result()).status == "paused"
            result = await (await mega.resume(run.id, limits=Limits())).result()
            assert result.passed
            assert result.cost_usd is None
            assert [event.data["model"] for event in run.events() if event.kind == "unpriced"] == ["openai:scripted"]
            scenario = Scenario(
                "Write the files.", limits=Limits(cost_usd=1), prices=parse_prices({"scripted": [1, 1]})
            )
            result = await (await mega.start(scenario)).result()
            assert result.cost_usd == pytest.approx((result.input_tokens + result.output_tokens) / 1e6)

    asyncio.run(work())


def test_a_rehearsal_costs_nothing(tmp_path: Path) -> None:
    result, events = play(tmp_path, {"boss": one(finish("done"))}, Limits(cost_usd=0.01))
    assert result.passed
    assert result.cost_usd == 0
    assert not any(event.kind == "unpriced" for event in events)


def test_the_documented_defaults_are_the_real_ones() -> None:
    page, readme = (ROOT / "docs" / "cli.md").read_text(), (ROOT / "README.md").read_text()
    for name, value in Limits().model_dump().items():
        assert f"| `{name}` | {'none' if value is None else f'{int(value):,}'} |" in page
        assert (f"`{name}`" if value is None else f"{name}={int(value):_}") in readme
