"""The gate to a provider: how many calls at once and per minute, who goes next, and when to give up.

How many calls a provider takes is found out by trying. A provider refuses at once and answers late: so at first
the limit doubles as long as calls wait and no refusal comes. A refusal halves it, and tells where the ceiling
is; up to there it grows with every answer, beyond it only slowly.

All runs of an event loop share the gate to one provider and key, and take turns at it.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from megagraph.errors import ModelError

START = 32.0
MOST = 2048.0
_SILENCE = 0.05
_SILENCES = 3
"""After so many times so many seconds since the last call was let in, no refusal means that there is room for more."""
_LATE = 0.015
"""Seconds by which a loop that is too busy to hear a refusal comes late."""
_BURST = 1.0
"""Seconds in which refusals count as one: all calls of a burst are refused together."""
_PROBE = 4
"""Round trips at the ceiling before it is tried to go beyond."""
_WINDOW = 60.0

DOWN_FAILURES = 8
"""So many failures in a row, over all callers, say that the provider is down …"""
DOWN_SECONDS = 30.0
"""… if they lasted so long, moments that the provider itself asked to wait not counted."""
LONGEST_WAIT = 300.0
"""A provider that asks to wait for longer than these seconds counts as down."""

Rank = tuple[float, ...]
"""Smaller goes first."""


@dataclass(frozen=True)
class Rates:
    """What a provider is known to allow. None: not known, found out by trying."""

    in_flight: int | None = None
    rpm: int | None = None
    """Requests in any minute."""
    tpm: int | None = None
    """Tokens in any minute, sent and received."""


class Left(Exception):
    """The run stops: whoever waits in its line leaves without having been served."""


@dataclass(eq=False)
class Ticket:
    """A call's place in the line, and later at the gate."""

    line: Line
    tokens: int
    name: str = ""
    """Whose call it is."""
    """Estimated until `settle`."""
    future: asyncio.Future[None] | None = None
    time: float = 0.0
    crowd: int = 0
    """Calls in flight when it was let in, itself included."""


class Line:
    """The calls of one run that wait at a gate: the lowest rank first, teams of one rank in turns."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self._heap: list[tuple[Rank, int, int, Ticket]] = []
        self._rounds: dict[str, int] = {}
        """The last round in which each team has a call waiting."""
        self._round = 0
        self._count = 0
        self._resting: dict[asyncio.Future[None], str] = {}
        """Those who sleep before another attempt, and who they are."""
        self._left: Exception | None = None

    async def enter(self, rank: Callable[[], Rank] = tuple, team: str = "", tokens: int = 0, name: str = "") -> Ticket:
        """Wait until a call may be made; hand the ticket to one of the gate's methods when it is over.

        `rank` is only asked for where there is a wait. Raises what `leave` was called with.
        """
        if ticket := self.enter_at_once(tokens, name):
            return ticket
        ticket, gate = Ticket(self, tokens, name), self.gate
        ticket.future = asyncio.get_running_loop().create_future()
        self._push(ticket, rank(), team)
        gate.wait(self)
        try:
            await ticket.future
        except asyncio.CancelledError:
            if ticket.future.done() and not ticket.future.cancelled() and ticket.future.exception() is None:
                gate.gone(ticket)
            raise
        return ticket

    def enter_at_once(self, tokens: int = 0, name: str = "") -> Ticket | None:
        """`enter` where nobody has to wait; None where somebody has."""
        if self._left is not None:
            raise self._left
        ticket = Ticket(self, tokens, name)
        return ticket if self.gate.admit_at_once(ticket) else None

    def pass_for(self, name: str) -> Ticket | None:
        """A ticket for a call that is about to be made; None where that would have to wait, or has no use any more."""
        return self.enter_at_once(name=name) if self._left is None else None

    async def rest(self, seconds: float, name: str = "") -> None:
        """Sleep before another attempt. Raises what `leave` was called with."""
        if self._left is not None:
            raise self._left
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._resting[future] = name
        timer = loop.call_later(seconds, _end, future)
        try:
            await future
        finally:
            timer.cancel()
            del self._resting[future]

    def leave(self, error: Exception) -> None:
        """Let all who wait or rest in this line, and who would from now on, fail with `error`."""
        if self._left is not None:
            return
        self._left = error
        for future in (*(ticket.future for *_, ticket in self._heap), *self._resting):
            if future is not None and not future.done():
                future.set_exception(error)
        self._heap.clear()

    def dismiss(self, name: str) -> None:
        """Let those of this name who wait or rest in this line leave it."""
        waiting = [ticket.future for *_, ticket in self._heap if ticket.name == name]
        for future in (*waiting, *(future for future, who in self._resting.items() if who == name)):
            if future is not None and not future.done():
                future.set_exception(Left())

    def first(self) -> Ticket | None:
        """Who goes next, without those who have gone away."""
        while self._heap and (future := self._heap[0][-1].future) is not None and future.done():
            heappop(self._heap)
        return self._heap[0][-1] if self._heap else None

    def pop(self) -> None:
        """The first goes through."""
        _, round_, _, ticket = heappop(self._heap)
        self._round = max(self._round, round_)
        if not self._heap:
            self._rounds.clear()
        if ticket.future is not None:
            ticket.future.set_result(None)

    def _push(self, ticket: Ticket, rank: Rank, team: str) -> None:
        round_ = self._rounds[team] = max(self._rounds.get(team, -1) + 1, self._round)
        self._count += 1
        heappush(self._heap, (rank, round_, self._count, ticket))


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


@dataclass
class _Streak:
    """Failures in a row, over all callers of a gate."""

    failures: int = 0
    since: float = 0.0


@dataclass
class Tally:
    """What went through a gate."""

    answered: int = 0
    refused: int = 0
    failed: int = 0
    peak: int = 0
    """The most calls in flight at once."""


@dataclass(eq=False)
class Gate:
    """The way to one provider with one key. `name` is how a person knows it."""

    name: str = "the provider"
    rates: Rates = field(default_factory=Rates)
    start: float = START
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self.in_flight = 0
        self._most = float(self.rates.in_flight or MOST)
        self.limit = min(self.start, self._most)
        self._ceiling: float | None = None
        """In flight at the last refusal; None until there is one."""
        self._cut_at = self._closed_until = self._answered_at = self._let_in_at = float("-inf")
        self._silences = 0
        self._waiting: dict[Line, None] = {}
        """The lines in which somebody waits, the next to be served first."""
        self._lines: weakref.WeakSet[Line] = weakref.WeakSet()
        self._window: deque[Ticket] = deque()
        """The calls of the last minute, where there are rates to be kept."""
        self._streak = _Streak()
        self._timer: asyncio.TimerHandle | None = None

    def line(self) -> Line:
        """A line for one run."""
        line = Line(self)
        self._lines.add(line)
        return line

    # --- how a call ends; exactly one of these for every ticket -----------------------------------------------

    def answered(self, ticket: Ticket, tokens: int | None = None) -> None:
        """The call was answered and used so many tokens."""
        self.tally.answered += 1
        self._streak, self._answered_at = _Streak(), time.monotonic()
        if tokens is not None:
            ticket.tokens = tokens
        # A limit that is not even half used was not put to the test.
        if self._waiting or 2 * ticket.crowd >= self.limit:
            self._grow()
        self._end()

    def refused(self, ticket: Ticket, reason: str, retry_after: float | None = None) -> None:
        """It was too much for the provider, which perhaps says for how many seconds."""
        self.tally.refused += 1
        ticket.tokens = 0
        now, room = time.monotonic(), float(max(1, self.in_flight - 1))
        if now - self._cut_at > _BURST:
            self._cut_at, self._ceiling = now, room
            self.limit = max(1.0, room / 2)
        else:
            self._ceiling = min(self._ceiling or room, room)
            self.limit = max(1.0, min(self.limit, self._ceiling / 2))
        if retry_after is not None:
            longer = now + retry_after - max(now, self._closed_until)
            if longer > 0:
                self._closed_until = now + retry_after
                self._streak.since += longer
        self._end()
        self._count_failure(reason, at_once=(retry_after or 0) > LONGEST_WAIT)

    def failed(self, ticket: Ticket, reason: str) -> None:
        """The call came to nothing, and it was the provider's or the network's fault.

        Raises a `ModelError`, to all who wait as well, where the provider has to be taken for down.
        """
        self.tally.failed += 1
        self._end()
        self._count_failure(reason)

    def gone(self, ticket: Ticket) -> None:
        """The call ended in a way that says nothing about the provider."""
        self._end()

    def silent_since(self, moment: float) -> bool:
        """Whether no call was answered since this moment of the monotonic clock."""
        return self._answered_at < moment

    async def given_up(self, since: float, reason: str) -> ModelError | None:
        """Somebody gives a call up that was begun at `since`: the error of all, if nobody was answered meanwhile."""
        return self.down(reason) if self.silent_since(since) else None

    def down(self, reason: str) -> ModelError:
        """The error of a provider that is down; all who wait at the gate get it too."""
        failures = self._streak.failures
        error = ModelError(
            f"{self.name} cannot be used: {failures} calls in a row failed, the last with “{reason}”.",
            "Everything is kept; resume the run when the provider is back.",
            kind="down",
            everyone=True,
        )
        self._streak = _Streak()
        # Whoever resumes the run means to try again now, and not to wait unseen for what was asked for before.
        self._closed_until = float("-inf")
        for line in list(self._lines):
            line.leave(error)
        self._waiting.clear()
        return error

    # --- admission --------------------------------------------------------------------------------------------

    def admit_at_once(self, ticket: Ticket) -> bool:
        """Whether the call could be let through with nobody before it."""
        if self._waiting or self.in_flight >= int(self.limit) or self._delay(ticket) > 0:
            return False
        self._let_in(ticket)
        return True

    def wait(self, line: Line) -> None:
        """Somebody waits in this line."""
        self._waiting.setdefault(line)
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            line = next(iter(self._waiting))
            ticket = line.first()
            if ticket is None:
                del self._waiting[line]
                continue
            if self.in_flight >= int(self.limit):
                if self._ceiling is None and self.limit < self._most:
                    self._listen()
                return
            if (delay := self._delay(ticket)) > 0:
                self._wake_in(delay, self._admit)
                return
            self._let_in(ticket)
            line.pop()
            # To the end of those who wait: runs take turns.
            del self._waiting[line]
            if line.first() is not None:
                self._waiting[line] = None

    def _let_in(self, ticket: Ticket) -> None:
        self.in_flight += 1
        self.tally.peak = max(self.tally.peak, self.in_flight)
        ticket.crowd, ticket.time = self.in_flight, time.monotonic()
        self._let_in_at = ticket.time
        if self.rates.rpm or self.rates.tpm:
            self._window.append(ticket)

    def _delay(self, ticket: Ticket) -> float:
        """Seconds until this call may go."""
        now = time.monotonic()
        delay = self._closed_until - now
        while self._window and self._window[0].time <= now - _WINDOW:
            self._window.popleft()
        if self.rates.rpm and len(self._window) >= self.rates.rpm:
            delay = max(delay, self._window[-self.rates.rpm].time + _WINDOW - now)
        if self.rates.tpm and self._window:
            # One call larger than a minute's tokens goes alone.
            over = sum(call.tokens for call in self._window) + ticket.tokens - self.rates.tpm
            for call in self._window:
                if over <= 0:
                    break
                over -= call.tokens
                delay = max(delay, call.time + _WINDOW - now)
        return delay

    def _end(self) -> None:
        self.in_flight -= 1
        self._admit()

    # --- inside -----------------------------------------------------------------------------------------------

    def _grow(self) -> None:
        if self._ceiling is None:
            self.limit += 1
        elif self.limit < self._ceiling:
            self.limit = min(self.limit + 1, self._ceiling)
        else:
            self.limit += max(1.0, self._ceiling / 20) / (_PROBE * self.limit)
            if self.limit > 1.25 * self._ceiling + 1:
                self._ceiling = None
        self.limit = min(self.limit, self._most)

    def _listen(self) -> None:
        """Wait for a refusal; where none comes, let more in."""
        since, due = self._let_in_at, time.monotonic() + _SILENCE

        def heard() -> None:
            in_time = time.monotonic() - due < _LATE and self._let_in_at == since
            self._silences = self._silences + 1 if in_time else 0
            if self._silences >= _SILENCES and self._ceiling is None:
                self._silences = 0
                self.limit = min(self.limit * 2, self._most)
            self._admit()

        self._wake_in(_SILENCE, heard)

    def _wake_in(self, seconds: float, then: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self._woken, then)

    def _woken(self, then: Callable[[], None]) -> None:
        self._timer = None
        then()

    def _count_failure(self, reason: str, *, at_once: bool = False) -> None:
        streak, now = self._streak, time.monotonic()
        if not streak.failures:
            streak.since = max(now, self._closed_until)
        streak.failures += 1
        lasted = streak.failures >= DOWN_FAILURES and now - streak.since >= DOWN_SECONDS
        if lasted or at_once:
            raise self.down(reason)


_GATES: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, Gate]] = weakref.WeakKeyDictionary()


def gate_to(key: Hashable, name: str, rates: Rates, start: float = START) -> Gate:
    """The one gate of the running event loop to this provider and key."""
    gates = _GATES.setdefault(asyncio.get_running_loop(), {})
    gate = gates.get((key, rates))
    if gate is None:
        gate = gates[key, rates] = Gate(name, rates, start)
    return gate
