"""How much a run may use: one object of limits, and the meter that holds a run to it.

A model call is reserved before it is made and settled by what it really used, over the whole tree of agents.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from megagraph.errors import BranchStopped, CostNotApproved, LimitReached, UsageError

NEARLY = 0.8
"""The part of a limit that may be used before the boss is told to wind down."""

COUNTED = ("calls", "input_tokens", "output_tokens", "cost_usd")
"""What every call uses some of."""

_FIRST_OUTPUT = 200
"""Tokens that an answer is expected to have before there was one."""


class Limits(BaseModel):
    """The limits of one run, over all of its agents. The defaults are safe for a first try."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calls: int = Field(default=500, ge=1)
    """Model calls in all."""
    input_tokens: int = Field(default=5_000_000, ge=1)
    """Tokens sent to the model in all."""
    output_tokens: int = Field(default=500_000, ge=1)
    """Tokens written by the model in all."""
    cost_usd: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """US dollars in all; without, only the tokens count."""
    minutes: float = Field(default=60.0, gt=0)
    """Wall time that the run works, pauses not counted."""
    agents: int = Field(default=60, ge=1)
    """Agents in all, the boss included."""
    agents_at_once: int | None = Field(default=None, ge=1)
    """Agents with a model call in flight; the others wait their turn. Without, as many as there are."""
    depth: int = Field(default=4, ge=0)
    """Levels below the boss."""
    width: int = Field(default=20, ge=1)
    """Members of one team."""
    rounds: int = Field(default=60, ge=1)
    """Model calls of one agent."""
    tool_calls: int = Field(default=50, ge=1)
    """Tool calls of one turn; what is above is not carried out, and the agent is told."""

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Limits:
        """Limits from a scenario or a command line, where `none` is no limit.

        Raises `UsageError` naming what is wrong.
        """
        plain = {name: None if value in ("none", "None") else value for name, value in values.items()}
        try:
            return cls.model_validate(plain)
        except ValidationError as error:
            problems = "; ".join(f"`{'.'.join(map(str, e['loc']))}`: {e['msg'].lower()}" for e in error.errors())
            known = ", ".join(cls.model_fields)
            raise UsageError(f"the limits do not fit: {problems}.", f"Known limits: {known}.") from error


class Part(BaseModel):
    """The part of a run's limits that one recruit and everybody below it may use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calls: int | None = Field(default=None, ge=1)
    input_tokens: int | None = Field(default=None, ge=1)
    output_tokens: int | None = Field(default=None, ge=1)
    cost_usd: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    def dump(self) -> dict[str, float]:
        return self.model_dump(exclude_none=True)


@dataclass(frozen=True, slots=True)
class Use:
    """What model calls used, or one is expected to use."""

    calls: int = 1
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: Use) -> Use:
        return Use(*(getattr(self, name) + getattr(other, name) for name in COUNTED))


NOTHING = Use(0)


class Account:
    """What one scope may use, has used, and has promised to calls in flight."""

    def __init__(self, branch: str, allowed: Mapping[str, float | None], used: Use) -> None:
        self.branch = branch
        """The agent at its head; empty for the whole run."""
        self.allowed = {name: most for name in COUNTED if (most := allowed.get(name)) is not None}
        self.used = {name: getattr(used, name) for name in COUNTED}
        self.held = dict.fromkeys(self.allowed, 0.0)
        self.in_flight = 0

    def spent(self, call: Use) -> str | None:
        """The limit that has no room for this call, even if nothing were in flight."""
        for name, most in self.allowed.items():
            # How long an answer will be is a guess, on which nobody is refused.
            need = 0 if name == "output_tokens" else getattr(call, name)
            if self.used[name] >= most or self.used[name] + need > most:
                return name
        return None

    def has_room(self, call: Use) -> bool:
        """Whether the call fits beside those in flight."""
        return not self.in_flight or all(
            self.used[name] + self.held[name] + getattr(call, name) <= most for name, most in self.allowed.items()
        )

    def hold(self, call: Use) -> None:
        self.in_flight += 1
        for name in self.allowed:
            self.held[name] += getattr(call, name)

    def give_back(self, call: Use) -> None:
        self.in_flight -= 1
        for name in self.allowed:
            # Nothing is nothing again, to the last bit.
            self.held[name] = self.held[name] - getattr(call, name) if self.in_flight else 0.0

    def add(self, use: Use) -> None:
        for name in COUNTED:
            self.used[name] += getattr(use, name)


@dataclass(eq=False)
class Claim:
    """One model call that may be made, with what it is expected to use. Settle or release it."""

    agent: str
    step: int
    expected: Use
    accounts: Sequence[Account] = field(repr=False)
    """Those it counts against: of the branches that the agent is in, and of the run."""
    learn_from: int | None = None
    """The meter's `overhead` that the expectation was made with, where it is to learn from the call."""


class Pool:
    """Limits that several runs are held to together: what each of them uses counts against all."""

    def __init__(self, limits: Limits, used: Use = NOTHING) -> None:
        self.limits = limits
        self.account = Account("", limits.model_dump(), used)
        self.meters: list[Meter] = []

    @property
    def full(self) -> bool:
        """Whether as many calls are in flight as there may be."""
        return self.limits.agents_at_once is not None and self.account.in_flight >= self.limits.agents_at_once

    def call_in(self) -> None:
        """Let those that wait have their calls, in all runs."""
        for meter in self.meters:
            meter.call_in()


class Meter:
    """What a run has used so far, against its limits.

    `nearly(limit, used, allowed)` is called when a limit of the run is nearly used, once for each. `ask_above` are the
    US dollars above which a person has to `approve`.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        used: Use = NOTHING,
        seconds: float = 0,
        pool: Pool | None = None,
        described: int = 0,
        ask_above: float | None = None,
    ) -> None:
        self.limits = limits
        self._ask_above = ask_above
        self._pool = pool
        if pool is not None:
            pool.meters.append(self)
        self.peak = 0
        """The most calls that were in flight at once."""
        self.promised_usd = 0.0
        """What the calls in flight are expected to cost."""
        self.described = described
        """About how many tokens the tools' descriptions are."""
        self.overhead = described
        """Input tokens of a call beyond its messages, by what providers have counted."""
        self.nearly: Callable[[str, float, float], None] = lambda limit, used, allowed: None
        self._run = Account("", limits.model_dump(), used)
        self._branches: dict[str, Account] = {}
        self._told: set[str] = set()
        self._waiting: deque[tuple[Claim, asyncio.Future[bool]]] = deque()
        self._before = seconds
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds the run has worked, over all its processes."""
        return self._before + time.monotonic() - self._begun

    @property
    def used(self) -> Use:
        """What the run has used, calls in flight not counted."""
        return Use(**self._run.used)

    @property
    def in_flight(self) -> int:
        """Calls that were reserved and are neither settled nor released."""
        return self._run.in_flight

    @property
    def usual_output(self) -> int:
        """Tokens that an answer had so far, on average."""
        used = self._run.used
        return int(used["output_tokens"] / used["calls"]) if used["calls"] else _FIRST_OUTPUT

    def give(self, branch: str, part: Mapping[str, float], used: Use = NOTHING) -> None:
        """Hold the agent `branch` and everybody below it to a part of the run's limits."""
        if branch not in self._branches:
            self._branches[branch] = Account(branch, part, used)

    def take_back(self, branch: str) -> None:
        """Nobody of this branch makes calls any more."""
        self._branches.pop(branch, None)

    def approve(self) -> None:
        """A person has approved of what the run costs."""
        self._ask_above = None

    def count_anew(self, used: Use) -> None:
        """Take this for what the run has used, once nobody is at work, and forget the parts that were given."""
        for name in COUNTED:
            more = getattr(used, name) - self._run.used[name]
            for account in (self._run, *([self._pool.account] if self._pool else [])):
                account.used[name] += more
        self._branches.clear()

    @property
    def divided(self) -> bool:
        """Whether anybody was given a part."""
        return bool(self._branches)

    async def reserve(
        self,
        agent: str,
        step: int,
        expected: Use | None = None,
        branches: Sequence[str] = (),
        learn_from: int | None = None,
    ) -> Claim | None:
        """Ask for one model call, the `step`-th of `agent`, which is in these branches.

        Waits while too many agents are at work, or while what is left is promised to calls in flight. Returns None
        where the wait was ended by `let_go`. With `learn_from`, the `overhead` that was expected, what it really is is
        learned from this call. Raises `LimitReached`, `BranchStopped` where a part is used up, or `CostNotApproved`
        where a person is to be asked first.
        """
        claim = self._claim(agent, step, expected, branches, learn_from)
        if not self._waiting and self._admit(claim):
            return claim
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((claim, future))
        # Room may be left for it beside those that wait for more than there is.
        self._next()
        try:
            return claim if await future else None
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and not future.exception() and future.result():
                self.release(claim)
            raise

    def reserve_at_once(
        self,
        agent: str,
        step: int,
        expected: Use | None = None,
        branches: Sequence[str] = (),
        learn_from: int | None = None,
    ) -> Claim | None:
        """`reserve` where nobody has to wait; None where somebody has."""
        claim = self._claim(agent, step, expected, branches, learn_from)
        return claim if not self._waiting and self._admit(claim) else None

    def settle(self, claim: Claim, use: Use) -> None:
        """Note what a reserved call has used."""
        for account in claim.accounts:
            account.add(use)
        if claim.learn_from is not None and use.input_tokens:
            # Many first calls may be under way at once: each knows only what was known when it began.
            self.overhead = max(0, claim.learn_from + use.input_tokens - claim.expected.input_tokens)
        self.release(claim)
        self.tell_what_is_near()

    def tell_what_is_near(self) -> None:
        """Call `nearly` for each limit of the run that is nearly used, if it was not told yet."""
        for name, used, allowed in self._all_of_run():
            if used >= NEARLY * allowed and name not in self._told:
                self._told.add(name)
                self.nearly(name, used, allowed)

    def release(self, claim: Claim) -> None:
        """Give back a reserved call that was not answered."""
        for account in claim.accounts:
            account.give_back(claim.expected)
        self.promised_usd -= claim.expected.cost_usd
        self._next()

    def let_go(self, agent: str = "") -> None:
        """End the wait for a call: of this agent, or of everybody, where the run stops here."""
        for claim, future in self._waiting:
            if agent in ("", claim.agent) and not future.done():
                future.set_result(False)
        self._waiting = deque((claim, future) for claim, future in self._waiting if not future.done())
        self._next()

    def _claim(
        self, agent: str, step: int, expected: Use | None, branches: Sequence[str], learn_from: int | None
    ) -> Claim:
        accounts = [self._branches[name] for name in branches if name in self._branches]
        shared = [self._pool.account] if self._pool else []
        claim = Claim(agent, step, expected or Use(), [*accounts, self._run, *shared], learn_from)
        self._check(claim)
        return claim

    def _all_of_run(self) -> Iterator[tuple[str, float, float]]:
        for name, allowed in self._run.allowed.items():
            yield name, self._run.used[name], allowed
        yield "minutes", self.seconds / 60, self.limits.minutes

    def _check(self, claim: Claim) -> None:
        """Raise where this call cannot be made, whatever becomes of those in flight."""
        limits = self.limits
        if self.seconds / 60 >= limits.minutes:
            raise LimitReached("minutes", limits.minutes, claim.agent)
        if claim.step > limits.rounds:
            raise LimitReached("rounds", limits.rounds, claim.agent, "one agent")
        for account in reversed(claim.accounts):
            if (name := account.spent(claim.expected)) is None:
                continue
            most = account.allowed[name]
            if not account.branch:
                raise LimitReached(name, most, claim.agent)
            number = f"{most:g}" if isinstance(most, float) else most
            raise BranchStopped(
                f"limit reached: {name}={number} of the part given to `{account.branch}` (at agent `{claim.agent}`)."
            )
        spent = self._run.used["cost_usd"]
        if self._ask_above is not None and spent + self.promised_usd + claim.expected.cost_usd > self._ask_above:
            raise CostNotApproved(spent)

    def _admit(self, claim: Claim) -> bool:
        if self._at_most() or not all(account.has_room(claim.expected) for account in claim.accounts):
            return False
        for account in claim.accounts:
            account.hold(claim.expected)
        self.peak = max(self.peak, self.in_flight)
        self.promised_usd += claim.expected.cost_usd
        return True

    def _next(self) -> None:
        """There may be room for others now."""
        if self._pool is None:
            self.call_in()
        else:
            self._pool.call_in()

    def _at_most(self) -> bool:
        if self._pool is not None and self._pool.full:
            return True
        return self.limits.agents_at_once is not None and self.in_flight >= self.limits.agents_at_once

    def call_in(self) -> None:
        """Let those that wait have their calls, first come first served, as far as there is room."""
        left: deque[tuple[Claim, asyncio.Future[bool]]] = deque()
        while self._waiting and not self._at_most():
            claim, future = self._waiting.popleft()
            if future.done():
                continue
            try:
                self._check(claim)
            except (LimitReached, BranchStopped, CostNotApproved) as error:
                future.set_exception(error)
                continue
            if self._admit(claim):
                future.set_result(True)
                continue
            left.append((claim, future))
            if not claim.accounts[-1].has_room(claim.expected) or not self._run.has_room(claim.expected):
                # Nobody overtakes the one who waits for the run's own rest.
                break
        self._waiting.extendleft(reversed(left))
