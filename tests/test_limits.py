"""Limits: read, refused where they do not fit, and held over the whole organisation."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError

from megagraph import Limits, MegaGraph
from megagraph.errors import LimitReached, UsageError
from megagraph.limits import Meter
from megagraph.rehearsal import RehearsalModel
from megagraph.run import Result
from tests.commands import ROOT
from tests.scripts import deep_script


def test_limits_are_read_from_words_and_numbers() -> None:
    assert Limits.parse({"calls": "7", "minutes": "1.5", "depth": 0}) == Limits(calls=7, minutes=1.5, depth=0)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"calls": 0}, "`calls`.*greater"),
        ({"calls": "many"}, "`calls`.*integer"),
        ({"calls": 1.5}, "`calls`.*integer"),
        ({"minutes": -1}, "`minutes`.*greater"),
        ({"minutes": "nan"}, "`minutes`"),
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


@pytest.mark.parametrize(
    ("limits", "used", "step", "name"),
    [
        (Limits(calls=3), {"calls": 3}, 1, "calls"),
        (Limits(input_tokens=10), {"input_tokens": 10}, 1, "input_tokens"),
        (Limits(output_tokens=10), {"output_tokens": 11}, 1, "output_tokens"),
        (Limits(minutes=1), {"seconds": 60}, 1, "minutes"),
        (Limits(rounds=2), {}, 3, "rounds"),
    ],
)
def test_the_meter_stops_at_each_limit(limits: Limits, used: dict[str, int], step: int, name: str) -> None:
    with pytest.raises(LimitReached, match=f"limit reached: {name}=") as error:
        Meter(limits, **used).reserve("a", step)
    assert error.value.limit == name
    assert error.value.agent == "a"
    assert f"--limit {name}=" in error.value.hint


def test_a_call_is_taken_before_it_is_made_and_given_back_where_it_was_not_answered() -> None:
    meter = Meter(Limits(calls=2))
    meter.reserve("a", 1)
    meter.reserve("b", 1)
    with pytest.raises(LimitReached):
        meter.reserve("c", 1)
    meter.release()
    meter.reserve("c", 1)
    meter.settle(10, 5)
    assert (meter.calls, meter.input_tokens, meter.output_tokens) == (2, 10, 5)


@pytest.mark.parametrize("calls", [1, 7, 20])
def test_a_run_never_makes_more_calls_than_it_may(tmp_path: Path, calls: int) -> None:
    async def work() -> Result:
        async with MegaGraph(RehearsalModel(script=deep_script()), home=tmp_path, limits=Limits(calls=calls)) as mega:
            return await (await mega.start("Write the files.")).result()

    result = asyncio.run(work())
    assert result.status == "paused"
    assert result.calls == calls
    assert f"calls={calls}" in result.reason


def test_the_documented_defaults_are_the_real_ones() -> None:
    page, readme = (ROOT / "docs" / "cli.md").read_text(), (ROOT / "README.md").read_text()
    for name, value in Limits().model_dump().items():
        assert f"| `{name}` | {int(value):,} |" in page
        assert f"{name}={int(value):_}" in readme
