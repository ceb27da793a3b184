"""Models over the wire: which one is meant, what is tried again, and runs through every kind of fault."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import TypeAlias

import pytest

from megagraph import Limits, MegaGraph
from megagraph.errors import UsageError
from megagraph.models import choose_model
from megagraph.rehearsal import Script, finish
from megagraph.run import Result
from tests.model_server import FAULTS, ModelServer
from tests.scripts import deep_script, one
from tests.test_chaos import EXPECTED

Outcome: TypeAlias = tuple[Result, dict[str, str], Counter[str]]

SIMPLE = Script({"boss": one(finish("done"))})


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    for name in ("OPENAI_MODEL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def test_no_key_no_model_and_a_bare_goal_lists_the_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UsageError) as caught:
        choose_model(None)
    for way in ("openai:NAME", "--base-url", "rehearsal", "MegaGraph(model="):
        assert way in str(caught.value)


def test_no_key_and_no_model_rehearses_a_scenario_that_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert choose_model(None, script=SIMPLE).rehearsal


def test_with_a_key_a_rehearsal_is_not_passed_off_for_a_model() -> None:
    with pytest.raises(UsageError, match="no model was named"):
        choose_model(None, script=SIMPLE)


@pytest.mark.parametrize("name", ["gpt-5", "openai:", "martian:x", ""])
def test_a_name_that_is_not_understood_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is not understood"):
        choose_model(name)


def test_a_local_server_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UsageError, match="needs OPENAI_API_KEY"):
        choose_model("openai:x")
    assert choose_model("openai:x", base_url="http://127.0.0.1:1/v1").label == "openai:x"


async def run_on(server: ModelServer, home: Path, patience: float = 20.0) -> Outcome:
    async with MegaGraph("openai:scripted", base_url=server.url, home=home, timeout=patience, limits=Limits()) as mega:
        run = await mega.start("Write the files.")
        result = await run.result()
        kinds = Counter(event.kind for event in run.events())
        kinds.update(
            str(event.data.get("reason") or event.data.get("why"))
            for event in run.events()
            if event.kind in ("retry", "bad_answer")
        )
        return result, dict(run.files), kinds


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_completes_with_any_fault_and_the_log_shows_it(tmp_path: Path, fault: str) -> None:
    async def work() -> None:
        async with ModelServer(deep_script(), faults={fault: 0.05}, seed=3, hang=30.0) as server:
            result, files, kinds = await run_on(server, tmp_path, patience=0.5 if fault == "timeout" else 20.0)
            injected = sum(record.fault == fault for record in server.log)
            assert result.passed, result
            assert files == EXPECTED
            assert injected > 0, "the fault never happened: nothing was tested"
            assert kinds["retry"] + kinds["bad_answer"] == injected
            answered = [r for r in server.log if r.status == 200 and r.delivered]
            assert result.calls == len(answered)
            assert (result.input_tokens, result.output_tokens) == (
                sum((r.usage or {})["prompt_tokens"] for r in answered),
                sum((r.usage or {})["completion_tokens"] for r in answered),
            ), "what was paid is in the journal, spoilt answers included"

    asyncio.run(work())


def test_all_faults_together(tmp_path: Path) -> None:
    async def work() -> None:
        async with ModelServer(deep_script(), faults=dict.fromkeys(FAULTS, 0.05), seed=1, hang=30.0) as server:
            result, files, kinds = await run_on(server, tmp_path, patience=1.0)
            assert result.passed, result
            assert files == EXPECTED
            assert kinds["retry"] and kinds["bad_answer"]

    asyncio.run(work())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"key": "another"}, "check OPENAI_API_KEY"),
        ({"models": ("other",)}, "check the model's name"),
    ],
)
def test_what_cannot_be_retried_stops_the_run_in_one_line(
    tmp_path: Path, options: dict[str, object], reason: str
) -> None:
    async def work() -> None:
        async with ModelServer(SIMPLE, **options) as server:  # type: ignore[arg-type]
            result, _, kinds = await run_on(server, tmp_path)
            assert result.status == "failed"
            assert reason in result.reason
            assert kinds["retry"] == 0
            assert len(server.log) == 1

        # It can be resumed when the cause is mended: the same call is made again, and no other.
        async with (
            ModelServer(SIMPLE) as mended,
            MegaGraph("openai:scripted", base_url=mended.url, home=tmp_path) as mega,
        ):
            run = await mega.resume("last")
            assert (await run.result()).passed
            assert len(mended.log) == 1

    asyncio.run(work())


def test_a_member_whose_calls_fail_for_good_is_reported_to_its_lead(tmp_path: Path) -> None:
    script = deep_script()
    mute = Script({name: part for name, part in script.parts.items() if name != "north_c"})

    async def work() -> None:
        async with ModelServer(mute) as server:
            result, files, kinds = await run_on(server, tmp_path)
            assert result.status == "done"
            assert not result.passed
            assert kinds["failed"] == 1
            assert "south.txt" in files, "the others went on"

    asyncio.run(work())
