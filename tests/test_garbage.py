"""The collector is slowed down while runs work, and only then."""

from __future__ import annotations

import gc
from pathlib import Path

from megagraph import MegaGraph
from megagraph.garbage import THRESHOLDS
from megagraph.rehearsal import Brief, RehearsalModel, Script, finish
from tests.scripts import Play


def test_the_collector_is_slow_while_a_run_works_and_as_it_was_afterwards(tmp_path: Path) -> None:
    usual, seen = gc.get_threshold(), []

    def boss(brief: Brief) -> Play:
        seen.append((gc.get_threshold(), gc.get_freeze_count() > 0))
        yield finish("done")

    with MegaGraph(RehearsalModel(script=Script({"boss": boss})), home=tmp_path) as mega:
        assert mega.run("The goal.").passed
    assert seen == [(THRESHOLDS, True)]
    assert (gc.get_threshold(), gc.get_freeze_count()) == (usual, 0)
