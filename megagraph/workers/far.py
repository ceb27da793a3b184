"""What a worker has of the parts that there are only once: limits, gates, and places for programs.

Each asks the first process, which has the real ones, and tells it what became of what it was given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from megagraph.errors import ModelError
from megagraph.gate import START, Gate, Line, Rank, Rates, Ticket
from megagraph.limits import NOTHING, Claim, Limits, Meter, Use
from megagraph.specs import owner_of
from megagraph.workers.link import Link


class Granted(NamedTuple):
    """A call that was reserved, and what the run's meter knows of calls."""

    number: int
    overhead: int
    usual_output: int
    ticket: int = 0
    """The number of a ticket for the gate that was named, where that had room at once; 0 where there is none."""


class Passes:
    """Tickets for the gate that came along with a reserved call, each for the first attempt of its agent.

    There are some only where all calls of this process go through one gate, and where that does not count them: a
    ticket that was not used would be counted as well.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._gates: dict[int, Rates] = {}
        self._held: dict[str, int] = {}

    def know(self, gate: int, rates: Rates) -> None:
        """There is such a gate."""
        self._gates[gate] = rates

    def gate_for(self, agent: str) -> int | None:
        """The gate for which a ticket is of use to who reserves a call; None where there may be none.

        A review is reserved under a name of its own, and queues under another.
        """
        if len(self._gates) != 1 or owner_of(agent) != agent:
            return None
        [(gate, rates)] = self._gates.items()
        return gate if rates.rpm is None and rates.tpm is None else None

    def keep(self, agent: str, ticket: int) -> None:
        self._held[agent] = ticket

    def take(self, agent: str) -> int:
        """The agent's ticket; 0 where it has none."""
        return self._held.pop(agent, 0)

    def drop(self, agent: str) -> None:
        """Give a ticket back that is not going to be used."""
        if ticket := self.take(agent):
            self._link.tell("over", ticket, "gone", ())


class FarMeter(Meter):
    """The run's meter, asked from afar."""

    def __init__(self, limits: Limits, link: Link, passes: Passes, described: int) -> None:
        super().__init__(limits, described=described)
        self._link = link
        self._passes = passes
        self._asking: set[str] = set()
        self._usual_output = super().usual_output
        self._numbers: dict[Claim, int] = {}

    @property
    def usual_output(self) -> int:
        return self._usual_output

    @property
    def divided(self) -> bool:
        # Which branches have a part is known there.
        return True

    async def reserve(
        self,
        agent: str,
        step: int,
        expected: Use | None = None,
        branches: Sequence[str] = (),
        learn_from: int | None = None,
    ) -> Claim | None:
        gate, expected = self._passes.gate_for(agent), expected or Use()
        self._asking.add(agent)
        try:
            call = agent, step, expected, list(branches), learn_from
            granted: Granted | None = await self._link.ask("reserve", *call, gate)
        finally:
            self._asking.discard(agent)
        if granted is None:
            return None
        if granted.ticket:
            self._passes.keep(agent, granted.ticket)
        self.overhead, self._usual_output = granted.overhead, granted.usual_output
        claim = Claim(agent, step, expected, ())
        self._numbers[claim] = granted.number
        return claim

    def approve(self) -> None:
        self._link.tell("approve")

    def settle(self, claim: Claim, use: Use) -> None:
        self._passes.drop(claim.agent)
        self._link.tell("settle", self._numbers.pop(claim), use)

    def release(self, claim: Claim) -> None:
        self._passes.drop(claim.agent)
        self._link.tell("release", self._numbers.pop(claim))

    def let_go(self, agent: str = "") -> None:
        # Of the whole run, and of whom the first process dismisses, it does so itself.
        if agent in self._asking:
            self._link.tell("let_go", agent)

    def give(self, branch: str, part: Mapping[str, float], used: Use = NOTHING) -> None:
        self._link.tell("give", branch, dict(part))


def far_gates(link: Link, passes: Passes) -> Callable[[Hashable, str, Rates, float], Gate]:
    """Finds gates as `gate_to` does: those of the first process."""
    gates: dict[Hashable, FarGate] = {}

    def gate_to(key: Hashable, name: str, rates: Rates, start: float = START) -> Gate:
        if type(key) is object:
            # It holds nothing back, and nobody shares it.
            return Gate(name, rates, start)
        if (key, rates) not in gates:
            passes.know(len(gates), rates)
            gates[key, rates] = FarGate(name, rates, start, link=link, number=len(gates), passes=passes)
            link.tell("gate", len(gates) - 1, key, name, rates, start)
        return gates[key, rates]

    return gate_to


@dataclass(eq=False)
class _FarTicket(Ticket):
    number: int = 0


class FarGate(Gate):
    """A gate of the first process. Who uses it, waits there."""

    def __init__(self, name: str, rates: Rates, start: float, *, link: Link, number: int, passes: Passes) -> None:
        super().__init__(name, rates, start)
        self._link = link
        self._number = number
        self._passes = passes

    def line(self) -> Line:
        return _FarLine(self, self._link, self._number, self._passes)

    def answered(self, ticket: Ticket, tokens: int | None = None) -> None:
        self._over(ticket, "answered", tokens)

    def refused(self, ticket: Ticket, reason: str, retry_after: float | None = None) -> None:
        self._over(ticket, "refused", reason, retry_after)

    def failed(self, ticket: Ticket, reason: str) -> None:
        self._over(ticket, "failed", reason)

    def gone(self, ticket: Ticket) -> None:
        self._over(ticket, "gone")

    async def given_up(self, since: float, reason: str) -> ModelError | None:
        # All processes of a machine have the same monotonic clock.
        error: ModelError | None = await self._link.ask("given_up", self._number, since, reason)
        return error

    def _over(self, ticket: Ticket, how: str, *args: Any) -> None:
        assert isinstance(ticket, _FarTicket)
        self._link.tell("over", ticket.number, how, args)


class _FarLine(Line):
    """The line of this process at a gate of the first one. Its sleepers are here, those who wait are there."""

    def __init__(self, gate: FarGate, link: Link, number: int, passes: Passes) -> None:
        super().__init__(gate)
        self._link = link
        self._number = number
        self._passes = passes
        self._asking: set[str] = set()

    async def enter(self, rank: Callable[[], Rank] = tuple, team: str = "", tokens: int = 0, name: str = "") -> Ticket:
        if self._left is not None:
            raise self._left
        # A ticket that came while there was one gate is no good for another.
        number = self._passes.take(name) if self._passes.gate_for(name) == self._number else 0
        if not number:
            self._passes.drop(name)
            self._asking.add(name)
            try:
                number = await self._link.ask("enter", self._number, rank(), team, tokens, name)
            finally:
                self._asking.discard(name)
        return _FarTicket(self, tokens, name, number=number)

    def leave(self, error: Exception) -> None:
        if self._left is None:
            self._link.tell("leave", self._number, error)
        super().leave(error)

    def dismiss(self, name: str) -> None:
        super().dismiss(name)
        if name in self._asking:
            self._link.tell("dismiss", self._number, name)


class FarHold:
    """What of the first process's organisation may be held by few at a time, by the name that it has there."""

    def __init__(self, link: Link, what: str) -> None:
        self._link = link
        self._what = what

    async def __aenter__(self) -> None:
        asked = asyncio.ensure_future(self._link.ask("hold", self._what))
        try:
            await asyncio.shield(asked)
        except asyncio.CancelledError:
            # It is given all the same, when its turn has come.
            asked.add_done_callback(self._give_back)
            raise

    def _give_back(self, asked: asyncio.Future[Any]) -> None:
        if not asked.cancelled() and asked.exception() is None:
            self._link.tell("let", self._what)

    async def __aexit__(self, *_: object) -> None:
        self._link.tell("let", self._what)
