"""What a person may change at the beginning of a branch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, TypedDict

from megagraph.errors import UsageError
from megagraph.limits import Limits


@dataclass(frozen=True)
class PlanEdit:
    """A change of the recruits that a turn asks for: the arguments of `recruit`, by name."""

    add: Sequence[Mapping[str, Any]] = ()
    """Recruits as an agent writes them: `name`, `role`, `instructions`, and what else there is to say."""
    drop: Sequence[str] = ()
    change: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """For a recruit's name, the fields that are otherwise."""

    def apply(self, wishes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The plan as it is now. Raises `UsageError` where it names somebody who is not in it."""
        names = [str(wish.get("name")) for wish in wishes]
        if unknown := [name for name in (*self.drop, *self.change) if name not in names]:
            raise UsageError(f"the plan has no {', '.join(unknown)}.", f"It recruits: {', '.join(names)}.")
        kept = [{**wish, **self.change.get(str(wish.get("name")), {})} for wish in wishes]
        plan = [*(wish for wish, name in zip(kept, names, strict=True) if name not in self.drop), *map(dict, self.add)]
        if not plan:
            raise UsageError("a plan cannot be empty.", "Branch before the turn, and say in a message what to do.")
        return plan


class Changes(TypedDict, total=False):
    """The fields of `Edits`, as keywords."""

    instructions: str
    plan: PlanEdit
    messages: Mapping[int, str]
    todo: Sequence[str]
    model: str | Mapping[str, str]
    letters: Mapping[str, str]
    files: Mapping[str, str | bytes | None]
    limits: Limits
    goal: str


@dataclass(frozen=True)
class Edits:
    """Changes at a branch point. The first four concern the agent whose step it is; all can be left out."""

    instructions: str | None = None
    plan: PlanEdit | None = None
    """At an `act` step that recruits."""
    messages: Mapping[int, str] = field(default_factory=dict)
    """Another text for messages of its conversation, by their place in it; -1 is the last one."""
    todo: Sequence[str] | None = None
    """Its open points."""
    model: str | Mapping[str, str] | None = None
    """The model that answers it from here on, or models by agents' names."""
    letters: Mapping[str, str] = field(default_factory=dict)
    """Another text for letters, by id. Whoever had read one reads it anew."""
    files: Mapping[str, str | bytes | None] = field(default_factory=dict)
    """Another content for files, by path; None deletes."""
    limits: Limits | None = None
    goal: str | None = None
    """At a step of the boss."""

    @classmethod
    def of(cls, edits: Edits | None, changes: Mapping[str, Any]) -> Edits:
        """`edits` with some changes more. Raises `UsageError` for what cannot be changed."""
        known = [field.name for field in fields(cls)]
        for name in changes:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                hint = f"Did you mean `{near[0]}`? " if near else ""
                raise UsageError(f"`{name}` cannot be changed in a branch.", f"{hint}Known: {', '.join(known)}.")
        return replace(edits or cls(), **changes)

    @property
    def of_agent(self) -> list[str]:
        """The names of those that need an agent's step."""
        given = {"instructions": self.instructions, "plan": self.plan, "todo": self.todo, "goal": self.goal}
        named = [name for name, value in given.items() if value is not None]
        return [*named, *(["messages"] if self.messages else []), *(["model"] if isinstance(self.model, str) else [])]

    def dump(self) -> dict[str, Any]:
        """Those that are given, JSON-plain; of files only the sizes."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) not in (None, {}, ())}
        if self.plan is not None:
            plain["plan"] = {
                "add": [dict(wish) for wish in self.plan.add],
                "drop": list(self.plan.drop),
                "change": {name: dict(change) for name, change in self.plan.change.items()},
            }
        if self.limits is not None:
            plain["limits"] = self.limits.model_dump()
        if self.todo is not None:
            plain["todo"] = list(self.todo)
        if isinstance(self.model, Mapping):
            plain["model"] = dict(self.model)
        for name in ("messages", "letters"):
            if name in plain:
                plain[name] = {str(key): value for key, value in plain[name].items()}
        if self.files:
            plain["files"] = {path: None if data is None else len(data) for path, data in self.files.items()}
        return plain
