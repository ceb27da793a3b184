"""What a `Run` offers to those who look at it from Python and in notebooks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from megagraph.notebook.kernel import in_kernel, pausing

if TYPE_CHECKING:
    from megagraph.notebook.pictures import By
    from megagraph.notebook.svg import Picture
    from megagraph.notebook.tables import Table
    from megagraph.run import Result, Run


class Face:
    """The part of a `Run` that shows it. Each look at it is how the run stands then."""

    @property
    def agents(self) -> Table:
        """Every agent: its lead, its state, what it used, what it has reported."""
        from megagraph.notebook.tables import agents

        return agents(self._run.ledger)

    @property
    def calls(self) -> Table:
        """Every answered model call: whose, when, how long, its tokens and cost, the tools it asked for."""
        from megagraph.notebook.tables import calls

        return calls(self._run.ledger)

    @property
    def letters(self) -> Table:
        """Every letter: from whom, to whom, of which kind, its text."""
        from megagraph.notebook.tables import letters

        return letters(self._run.ledger)

    def timeline(self, most: int = 40) -> Picture:
        """A picture of who worked when, with `most` agents by name and all of them as a sum."""
        from megagraph.notebook.shown import time_picture

        return time_picture(self._run, most)

    def cost(self, by: By = "branch") -> Picture:
        """A picture of what each `branch` below the boss, each `agent` or each `level` used."""
        from megagraph.notebook.shown import cost_picture

        return cost_picture(self._run, by)

    def picture(self) -> Picture:
        """A picture of the organisation, a row for each agent or folded team."""
        from megagraph.notebook import pictures
        from megagraph.notebook.shown import head, timeline

        return pictures.outline(timeline(self._run), head(self._run))

    def show(self) -> None:
        """Show the run below this cell. The picture follows it, and the cell does not wait for it."""
        from megagraph.notebook.live import show
        from megagraph.notebook.shown import head, plain, timeline

        if in_kernel():
            show(self._run)
        else:
            print(plain(timeline(self._run), head(self._run)))

    async def watch(self) -> Result:
        """Show the run as it works, wait until the work on it has ended, and say how it stands then.

        Ctrl-C pauses the run and says how to go on with it.
        """
        from megagraph.notebook.live import show

        if in_kernel():
            async with pausing(self._run):
                await asyncio.wrap_future(show(self._run))
        else:
            async for _ in self._run:
                pass
        return await self._run.result()

    @property
    def _run(self) -> Run:
        return cast("Run", self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        from megagraph.notebook.shown import bundle

        return bundle(self._run)

    def _ipython_display_(self) -> None:
        if not in_kernel() or not self._run.at_work:
            # IPython then asks for the picture as it is.
            raise NotImplementedError
        self.show()
