"""Which agent is answered by which model: a strong one for leads, a cheap one for the rest, others in need."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from megagraph.errors import UsageError


class ModelRules(BaseModel):
    """Names of models by agent. An empty one stands for the model of the run.

    ModelRules(leads="openai:gpt-5", leaves="openai:gpt-5-mini", agents={"*_tester": "openai:o4-mini"})
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    leads: str = ""
    """For the boss, and for everybody once they have recruited."""
    leaves: str = ""
    """For everybody else."""
    agents: Mapping[str, str] = {}
    """For agents whose names match a pattern such as `*_tester`; the first that matches counts."""
    fallback: tuple[str, ...] = ()
    """Tried in this order when the agent's own model fails for good."""

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> ModelRules:
        """Rules from a scenario. Raises `UsageError` naming what is wrong."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problems = "; ".join(f"`{'.'.join(map(str, e['loc']))}`: {e['msg'].lower()}" for e in error.errors()[:5])
            known = ", ".join(cls.model_fields)
            raise UsageError(f"`models` does not fit: {problems}.", f"Known fields: {known}.") from error

    def names(self) -> list[str]:
        """Every model that is named."""
        named = (self.leads, self.leaves, *self.agents.values(), *self.fallback)
        return list(dict.fromkeys(name for name in named if name))

    def chain(self, agent: str, *, leads: bool) -> list[str]:
        """The models for this agent, the first to be asked first."""
        by_name = next((model for pattern, model in self.agents.items() if fnmatchcase(agent, pattern)), None)
        own = by_name if by_name is not None else self.leads if leads else self.leaves
        return list(dict.fromkeys((own, *self.fallback)))
