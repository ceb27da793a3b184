"""The same calls without `await`, such as `run.sync.pause()` for `await run.pause()`.

They block, in scripts and in notebooks alike; the run works in a loop in the background. Ctrl-C while one of them
waits for a run pauses it.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from megagraph.notebook.kernel import in_kernel, say_how_to_go_on
from megagraph.portal import call_sync

if TYPE_CHECKING:
    from megagraph.branches.edits import Changes, Edits
    from megagraph.branches.many import Ranked
    from megagraph.branches.plan import BranchPlan
    from megagraph.limits import Limits
    from megagraph.mega import MegaGraph
    from megagraph.run import Result, Run
    from megagraph.scenario import Scenario

T = TypeVar("T")


class RunSync:
    """The calls of a `Run` without `await`."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def result(self) -> Result:
        return self._to_end(self._run.result())

    def watch(self) -> Result:
        return self._to_end(self._run.watch())

    def pause(self, reason: str = "paused by request") -> Result:
        return self._call(self._run.pause(reason))

    def abort(self) -> Result:
        return self._call(self._run.abort())

    def answer(self, question: str, answer: str) -> None:
        self._call(self._run.answer(question, answer))

    def branch(self, at: str, edits: Edits | None = None, **changes: Unpack[Changes]) -> Run:
        return self._call(self._run.branch(at, edits, **changes))

    def plan_branch(self, at: str, edits: Edits | None = None, **changes: Unpack[Changes]) -> BranchPlan:
        return self._call(self._run.plan_branch(at, edits, **changes))

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return call_sync(coroutine, self._run.loop)

    def _to_end(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        try:
            return self._call(coroutine)
        except KeyboardInterrupt:
            self.pause("stopped by Ctrl-C")
            if in_kernel():
                say_how_to_go_on(self._run)
            raise


class MegaSync:
    """The calls of a `MegaGraph` without `await`."""

    def __init__(self, mega: MegaGraph) -> None:
        self._mega = mega

    def start(self, goal: str | Scenario, *, input: Path | str | None = None) -> Run:
        return call_sync(self._mega.start(goal, input=input))

    def resume(self, run: str, *, limits: Limits | None = None) -> Run:
        return call_sync(self._mega.resume(run, limits=limits))

    def branch_many(self, run: str, at: str, edits: Sequence[Edits], *, limits: Limits | None = None) -> list[Ranked]:
        return call_sync(self._mega.branch_many(run, at, edits, limits=limits))
