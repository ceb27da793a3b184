"""What is checkpointed of one agent, and the steps it can take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from langchain_core.messages import BaseMessage
from langgraph.channels.delta import DeltaChannel
from typing_extensions import TypedDict

from megagraph.specs import Seat

Step: TypeAlias = Literal["think", "act", "team", "wait", "__end__"]


def extend(old: list[Any], writes: Sequence[list[Any]]) -> list[Any]:
    return [*old, *(item for write in writes for item in write)]


def merge(old: dict[str, Any], writes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A reducer: later keys win."""
    merged = dict(old)
    for write in writes:
        merged.update(write)
    return merged


def latest(old: list[str], writes: Sequence[list[str]]) -> list[str]:
    return writes[-1] if writes else old


class AgentState(TypedDict, total=False):
    """All that is checkpointed of one agent. What grows, or is large and seldom changes, is kept as deltas."""

    seat: Seat
    spec: Annotated[dict[str, Any], DeltaChannel(merge, snapshot_frequency=50)]
    """An `AgentSpec`, plain."""
    messages: Annotated[list[BaseMessage], DeltaChannel(extend, snapshot_frequency=50)]
    """Its conversation; at a desk, what has come to it there."""
    compacted: int
    """How many messages were left of its conversation, the ones above included, when it was last compacted."""
    before: int
    """How many messages it had said and heard when it sat down at its desk, which are in the state above."""
    seen: Annotated[list[str], DeltaChannel(latest, snapshot_frequency=50)]
    """Ids of the letters it has read last, in this loop: for who looks at its moves. All that it has read are in the
    rows of its calls."""
    versions: Annotated[dict[str, str], DeltaChannel(merge, snapshot_frequency=50)]
    """The version of each file that it has last read or written."""
    todo: Annotated[dict[str, list[str]], DeltaChannel(merge, snapshot_frequency=50)]
    plan: list[dict[str, Any]]
    """The recruits whose team is to be opened next."""
    step: int
    """Model calls so far."""
    wave: int
    """Teams opened so far."""
    desks: list[int]
    """The waves of the teams at whose desks it sits, one inside the other, once the next one is opened."""
    up: int
    """How many of its desks it leaves before it opens the team that is planned."""
    work_on: bool
    """Whether it has work of its own to do at the desk before the first letter comes."""
    told: bool
    """Whether it has been told once what is missing."""
    bad: int
    """Answers in a row of which nothing could be used."""
    guards: Annotated[dict[str, Any], DeltaChannel(merge, snapshot_frequency=50)]
    """What the guards count of it."""
    report: dict[str, Any] | None
    """A `Report`, plain, once it has handed in its work."""
    version: str
    """The commit of the shared files after its last step."""


def after_report(seat: Seat) -> Literal["wait", "__end__"]:
    """A member that has reported can be woken for rework; at a desk or at the top, the report is the end."""
    return "wait" if seat == "member" else "__end__"


def sits_at(state: AgentState) -> list[int]:
    """The waves of the teams at whose desks the agent sits, the outermost first."""
    if state["seat"] != "desk":
        return []
    # In runs of before, each team was inside the one before it.
    return state.get("desks", list(range(state.get("wave", 0))))
