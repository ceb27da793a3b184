"""How much a run may use: one object of limits, and the meter that holds a run to it.

A model call is reserved before it is made and settled by what it really used, over the whole tree of agents.
"""

from __future__ import annotations

import time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from megagraph.errors import LimitReached, UsageError


class Limits(BaseModel):
    """The limits of one run, over all of its agents. The defaults are safe for a first try."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calls: int = Field(default=500, ge=1)
    """Model calls in all."""
    input_tokens: int = Field(default=5_000_000, ge=1)
    """Tokens sent to the model in all."""
    output_tokens: int = Field(default=500_000, ge=1)
    """Tokens written by the model in all."""
    minutes: float = Field(default=60.0, gt=0)
    """Wall time that the run works, pauses not counted."""
    agents: int = Field(default=60, ge=1)
    """Agents in all, the boss included."""
    depth: int = Field(default=4, ge=0)
    """Levels below the boss."""
    width: int = Field(default=20, ge=1)
    """Members of one team."""
    rounds: int = Field(default=60, ge=1)
    """Model calls of one agent."""

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Limits:
        """Limits from a scenario or a command line. Raises `UsageError` naming what is wrong."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = "; ".join(f"`{'.'.join(map(str, e['loc']))}`: {e['msg'].lower()}" for e in error.errors())
            known = ", ".join(cls.model_fields)
            raise UsageError(f"the limits do not fit: {problems}.", f"Known limits: {known}.") from error


class Meter:
    """What a run has used so far, against its limits."""

    def __init__(
        self,
        limits: Limits,
        *,
        calls: int = 0,
        input_tokens: int = 0,
        output_tokens: int = 0,
        seconds: float = 0,
    ) -> None:
        self.limits = limits
        self.calls = calls
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self._before = seconds
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds the run has worked, over all its processes."""
        return self._before + time.monotonic() - self._begun

    def reserve(self, agent: str, step: int) -> None:
        """Ask for one model call, the `step`-th of `agent`. Raises `LimitReached` where there is none left."""
        limits = self.limits
        checks = (
            ("calls", self.calls, limits.calls),
            ("input_tokens", self.input_tokens, limits.input_tokens),
            ("output_tokens", self.output_tokens, limits.output_tokens),
            ("minutes", self.seconds / 60, limits.minutes),
            ("rounds", step - 1, limits.rounds),
        )
        for name, used, allowed in checks:
            if used >= allowed:
                raise LimitReached(name, allowed, agent)
        self.calls += 1

    def settle(self, input_tokens: int, output_tokens: int) -> None:
        """Note what a reserved call has used."""
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens

    def release(self) -> None:
        """Give back a reserved call that was not answered."""
        self.calls -= 1
