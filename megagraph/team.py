"""A team as a graph that is grown at run time from the plan its lead made.

To LangGraph a `Team` is a subgraph like any other, though its nodes exist only once there is a plan: it compiles
them from the plan in its input when it runs, and again from the plan in its own checkpoint when its state, its
history or its picture is asked for. A fresh process needs nothing but the checkpoints.

All members are nodes of one superstep and wait inside it for what they depend on, so that nobody ever waits for
a step of somebody else to end. The lead's own loop goes on among them, at the node `desk`.

Everything that rests on LangGraph's private parts is in this file and in `spans.py`; `tests/test_team.py` holds it to
them.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, cast

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.graph import Edge, Graph
from langgraph.channels.delta import DeltaChannel
from langgraph.channels.last_value import LastValue
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import InvalidUpdateError
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel
from langgraph.pregel.protocol import PregelProtocol
from langgraph.runtime import Runtime
from langgraph.types import Overwrite, StateSnapshot, StateUpdate
from typing_extensions import TypedDict

from megagraph.agent import build_agent
from megagraph.conversation import said_so_far
from megagraph.organisation import Organisation
from megagraph.saver import Saver
from megagraph.spans import without_spans
from megagraph.specs import BOSS, AgentSpec
from megagraph.state import AgentState, merge

DESK = "desk"
_RUNTIME, _SAVER = "__pregel_runtime", "__pregel_checkpointer"
_PLACE = (
    "thread_id",
    "checkpoint_ns",
    "__pregel_task_id",
    "__pregel_resuming",
    "__pregel_resume_map",
    "__pregel_durability",
)
_CARRIED = (
    "spec",
    "versions",
    "todo",
    "step",
    "wave",
    "desks",
    "told",
    "work_on",
    "version",
    "guards",
    "compacted",
)
"""What a lead takes along from its own loop to the desk of its team. Its conversation would be kept once more for every
team: it leaves that behind, and hands back what has come to it."""


@dataclass(frozen=True)
class Grown:
    """What has grown below one agent: the members of its team, and what grew at the team's desk after them."""

    members: Mapping[str, Grown | None]
    depends_on: Mapping[str, Sequence[str]]
    desk: Grown | None = None


class TeamState(TypedDict, total=False):
    """What is checkpointed of a team; its members keep their own."""

    plan: list[dict[str, Any]]
    lead: Annotated[dict[str, Any], DeltaChannel(merge, snapshot_frequency=50)]
    """The lead's state as it sat down at the desk."""
    desk: dict[str, Any]
    """What has changed in the lead's state when it left the desk."""


class AgentGraph(CompiledStateGraph[Any, Any, Any, Any]):
    """A compiled agent graph that draws its teams under names of their own and sends its picture nowhere."""

    def get_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Graph:
        return Drawing.of(super().get_graph(config, xray=xray))

    async def aget_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Graph:
        return self.get_graph(config, xray=xray)

    def get_context_jsonschema(self) -> dict[str, Any] | None:
        """None: the context is the run's own, and nobody else has one to give."""
        return None

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        # LangGraph's own posts the graph to a public drawing service.
        return {"text/plain": repr(self), "text/vnd.mermaid": self.get_graph(xray=True).draw_mermaid()}


class Drawing(Graph):
    """A graph whose Mermaid text names each team after its lead, since Mermaid wants every box named once."""

    @classmethod
    def of(cls, graph: Graph) -> Drawing:
        return graph if isinstance(graph, Drawing) else cls(nodes=graph.nodes, edges=graph.edges)

    def draw_mermaid(self, **kwargs: Any) -> str:
        return Graph(
            nodes={_unique(id_): node.copy(id=_unique(id_)) for id_, node in self.nodes.items()},
            edges=[
                Edge(_unique(edge.source), _unique(edge.target), edge.data, edge.conditional) for edge in self.edges
            ],
        ).draw_mermaid(**kwargs)


def _unique(id_: str) -> str:
    """`team:qa:team:desk:think` as `boss_team:qa:qa_team:qa_desk:think`."""
    parts, lead, waves = [], "boss", 0
    for part in id_.split(":"):
        if part == "team":
            waves += 1
            parts.append(f"{lead}_team{waves if waves > 1 else ''}")
        elif part == DESK:
            parts.append(f"{lead}_desk{waves if waves > 1 else ''}")
        else:
            parts.append(part)
            lead, waves = part, 0
    return ":".join(parts)


class Team(Pregel[Any, Any, Any, Any]):
    """The node that becomes a lead's team. One object serves every team of every organisation.

    With `grown`, what has grown so far, it can also be drawn.
    """

    agent: CompiledStateGraph[Any, Any, Any, Any]
    """The graph of every member, and of the lead at the desk. Set once it is compiled."""

    def __init__(self, grown: Grown | None = None) -> None:
        super().__init__(
            nodes={},
            channels={"plan": LastValue(list)},
            input_channels="plan",
            output_channels="plan",
            auto_validate=False,
            name="team",
        )
        self._grown = grown

    def grow(self, names: Sequence[str]) -> CompiledStateGraph[Any, Any, Any, Any]:
        """Compile the team with these members."""
        graph = StateGraph(TeamState)
        seats = {name: Seat(self.agent, name) for name in (DESK, *names)}
        for name, seat in seats.items():
            graph.add_node(name, seat)
            graph.add_edge(START, name)
        return _compile(graph, seats)

    async def ainvoke(  # type: ignore[override]  # the overloads of the base class say no more than this
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Run the team planned in the lead's state; returns what has changed in that state."""
        state = cast(dict[str, Any], input)
        lead = {key: state[key] for key in _CARRIED if key in state}
        graph = self.grow([recruit["name"] for recruit in state["plan"]])
        with _seated(state, config) as said:
            out = await graph.ainvoke({"plan": state["plan"], "lead": {**lead, "before": said}}, config, **kwargs)
        _close_place(_conf(config))
        desk = dict(out.get("desk") or {})
        if desk.pop("rewritten", False):
            desk |= {"messages": Overwrite(desk["messages"]), "before": 0}
        return {"plan": [], **desk}

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        yield await self.ainvoke(input, config, **kwargs)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        raise NotImplementedError("an organisation runs asynchronously: use `ainvoke` or `astream`")

    # --- state, history and picture, as of a subgraph whose nodes were always there -----------------------

    def get_subgraphs(
        self, *, namespace: str | None = None, recurse: bool = False
    ) -> Iterator[tuple[str, PregelProtocol[Any, Any, Any, Any]]]:
        if namespace is None:
            if self._grown is not None:
                yield from self._drawn().get_subgraphs(recurse=recurse)
            return
        # Which members there are is known to the checkpoints only, and all of them have the same graph.
        head, _, rest = namespace.partition("|")
        if not rest:
            yield head, self.agent
        elif recurse:
            for name, graph in self.agent.get_subgraphs(namespace=rest, recurse=True):
                yield f"{head}|{name}", graph

    def get_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Graph:
        return self._drawn().get_graph(config, xray=xray) if self._grown else super().get_graph(config)

    async def aget_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Graph:
        return self.get_graph(config, xray=xray)

    def get_state(self, config: RunnableConfig, *, subgraphs: bool = False) -> StateSnapshot:
        graph = self._at(self._saver(config), config)
        return graph.get_state(config, subgraphs=subgraphs) if graph else _nothing(config)

    async def aget_state(self, config: RunnableConfig, *, subgraphs: bool = False) -> StateSnapshot:
        graph = await self._aat(self._saver(config), config)
        return await graph.aget_state(config, subgraphs=subgraphs) if graph else _nothing(config)

    def get_state_history(
        self,
        config: RunnableConfig,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[StateSnapshot]:
        if graph := self._at(self._saver(config), config):
            yield from graph.get_state_history(config, filter=filter, before=before, limit=limit)

    async def aget_state_history(
        self,
        config: RunnableConfig,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[StateSnapshot]:
        if graph := await self._aat(self._saver(config), config):
            async for state in graph.aget_state_history(config, filter=filter, before=before, limit=limit):
                yield state

    def bulk_update_state(self, config: RunnableConfig, supersteps: Sequence[Sequence[StateUpdate]]) -> RunnableConfig:
        graph = self._at(self._saver(config), config)
        if graph is None:
            raise InvalidUpdateError("this team has not been opened yet")
        return graph.bulk_update_state(config, supersteps)

    async def abulk_update_state(
        self, config: RunnableConfig, supersteps: Sequence[Sequence[StateUpdate]]
    ) -> RunnableConfig:
        graph = await self._aat(self._saver(config), config)
        if graph is None:
            raise InvalidUpdateError("this team has not been opened yet")
        return await graph.abulk_update_state(config, supersteps)

    def _saver(self, config: RunnableConfig) -> BaseCheckpointSaver[Any]:
        return self._state_checkpointer(config)

    def _at(
        self, saver: BaseCheckpointSaver[Any], config: RunnableConfig
    ) -> CompiledStateGraph[Any, Any, Any, Any] | None:
        found = saver.get_tuple(config)
        return self._from_checkpoint(found.checkpoint["channel_values"]) if found else None

    async def _aat(
        self, saver: BaseCheckpointSaver[Any], config: RunnableConfig
    ) -> CompiledStateGraph[Any, Any, Any, Any] | None:
        found = await saver.aget_tuple(config)
        return self._from_checkpoint(found.checkpoint["channel_values"]) if found else None

    def _from_checkpoint(self, values: Mapping[str, Any]) -> CompiledStateGraph[Any, Any, Any, Any]:
        # Before its first step a graph has only its input, in the channel of START.
        plan = values.get("plan") or (values.get(START) or {}).get("plan") or []
        return self.grow([recruit["name"] for recruit in plan])

    def _drawn(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        grown = self._grown or Grown({}, {})
        graph = StateGraph(TeamState)
        inside = {DESK: grown.desk, **grown.members}
        seats = {name: Seat(agent_graph(below), name) for name, below in inside.items()}
        for name, seat in seats.items():
            dependents = tuple(n for n, deps in grown.depends_on.items() if name in deps)
            graph.add_node(name, seat, destinations=dependents)
            if not grown.depends_on.get(name):
                graph.add_edge(START, name)
        return _compile(graph, seats)


def agent_graph(grown: Grown | None = None, checkpointer: BaseCheckpointSaver[Any] | None = None) -> AgentGraph:
    """The graph of an agent, and so of a whole organisation. With `grown` it draws what has grown so far."""
    team = Team(grown)
    compiled = build_agent(team).compile(name="agent")
    # `compile` always makes the base class; the subclass adds no fields.
    compiled.__class__ = AgentGraph
    without_spans(compiled)
    team.agent = compiled
    if checkpointer is None:
        return cast(AgentGraph, compiled)
    root = compiled.copy({"checkpointer": checkpointer})
    return cast(AgentGraph, root)


def grown_tree(specs: Sequence[AgentSpec], root: str) -> Grown | None:
    """What has grown below `root`, from the specs of all agents."""
    teams: dict[str, dict[int, list[AgentSpec]]] = {}
    for spec in specs:
        if spec.lead:
            inside = spec.wave if spec.inside is None else spec.inside
            teams.setdefault(spec.lead, {}).setdefault(inside, []).append(spec)

    def below(name: str) -> Grown | None:
        grown = None
        # From the innermost desk outwards. Teams that came one after the other are drawn as one.
        for _, members in sorted(teams.get(name, {}).items(), reverse=True):
            names = {m.name for m in members}
            grown = Grown(
                members={m.name: below(m.name) for m in members},
                depends_on={m.name: [d for d in m.depends_on if d in names] for m in members},
                desk=grown,
            )
        return grown

    return below(root)


class Seat(Runnable[Any, dict[str, Any]]):
    """The node of one member, or of the lead at its desk. It finds its part in the team's state, never in here."""

    def __init__(self, agent: CompiledStateGraph[Any, Any, Any, Any], name: str) -> None:
        self.agent = agent
        self.name = name

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:
        raise NotImplementedError("an organisation runs asynchronously: use `ainvoke` or `astream`")

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:
        if self.name == DESK:
            changed = await self._lead(input["lead"], config)
            _close_place(_conf(config))
            return changed
        spec = next(recruit for recruit in input["plan"] if recruit["name"] == self.name)
        state = {"seat": "member", "spec": spec, "messages": [], "step": 0, "wave": 0}
        org = _organisation(config)
        if org is not None and org.crew is not None and spec["lead"] == BOSS:
            await org.crew.work(spec["name"], state, place_of(config or {}))
        else:
            await self.agent.ainvoke(state, config)
        if org is not None:
            org.mailroom.left(spec["name"])
        _close_place(_conf(config))
        return {}

    async def _lead(self, lead: dict[str, Any], config: RunnableConfig | None) -> dict[str, Any]:
        begun = {"messages": [], **lead}
        out = await self.agent.ainvoke({**begun, "seat": "desk", "plan": [], "report": None}, config)
        changed = {key: out[key] for key in (*_CARRIED, "report") if key in out and out[key] != lead.get(key)}
        if out.get("plan"):
            # It leaves this desk to open its next team.
            changed |= {"plan": out["plan"], "up": out["up"] - 1}
        said = begun["messages"]
        changed["messages"] = out["messages"][len(said) :]
        if out.get("before", 0) != lead.get("before", 0) or out["messages"][: len(said)] != said:
            # In a branch it has another past.
            changed |= {"messages": out["messages"], "rewritten": True}
        return {"desk": changed}


@contextmanager
def _seated(state: dict[str, Any], config: RunnableConfig | None) -> Iterator[int]:
    """The number of messages that a lead has said and heard, kept for it while it sits at the desk of its team."""
    org, name = _organisation(config), state["spec"]["name"]
    if org is None:
        yield len(state.get("messages", []))
        return
    above, said = org.before.get(name, ()), said_so_far(org, cast(AgentState, state))
    org.before[name] = said
    try:
        yield len(said)
    finally:
        org.before[name] = above
        if not above:
            del org.before[name]


def _organisation(config: RunnableConfig | None) -> Organisation | None:
    """The organisation at work; None where LangGraph's own calls run the graph without one."""
    conf = _conf(config)
    return cast("Organisation | None", conf[_RUNTIME].context) if _RUNTIME in conf else None


def _conf(config: RunnableConfig | None) -> dict[str, Any]:
    return (config or {}).get("configurable", {})


def _close_place(conf: Mapping[str, Any]) -> None:
    """Nothing is written any more to where a node's own graph was: its loops have come to their ends."""
    if isinstance(saver := conf.get(_SAVER), Saver):
        saver.close(conf["thread_id"], conf["checkpoint_ns"])


def place_of(config: RunnableConfig) -> dict[str, Any]:
    """Where a node is among the checkpoints, and how it goes on there: what `work_at` needs in another process."""
    conf = config["configurable"]
    kept = {key: conf[key] for key in _PLACE if key in conf}
    kept["checkpoint_map"] = dict(conf.get("checkpoint_map", {}))
    plain = {key: x for key, x in config.get("metadata", {}).items() if isinstance(x, str | int | float | None)}
    return {"configurable": kept, "metadata": plain, "recursion_limit": config.get("recursion_limit", 1_000_000)}


async def work_at(
    place: Mapping[str, Any], state: dict[str, Any], org: Organisation, saver: BaseCheckpointSaver[Any]
) -> None:
    """Run an agent's graph at a place that another process has in its own graph, as if that had run it.

    Raises `GraphInterrupt` or `GraphDrained` where it stops before its end, as a subgraph does.
    """
    runtime = Runtime(context=org, control=org.control)
    conf = {**place["configurable"], "checkpoint_id": None, _RUNTIME: runtime, _SAVER: saver}
    await graph_for_work().ainvoke(state, cast(RunnableConfig, {**place, "configurable": conf}))
    org.mailroom.left(state["spec"]["name"])
    _close_place(conf)


@functools.cache
def graph_for_work() -> AgentGraph:
    """The graph of every agent whose place another process has. To compile it takes longer than an agent's turn."""
    return agent_graph()


def _compile(graph: StateGraph[TeamState], seats: Mapping[str, Seat]) -> CompiledStateGraph[Any, Any, Any, Any]:
    """A team's graph with these nodes. LangGraph is told which subgraph each has: finding it takes it longer."""
    team = graph.compile(name="team")
    for name, seat in seats.items():
        team.nodes[name].subgraphs = [seat.agent]
    without_spans(team)
    return team


def _nothing(config: RunnableConfig) -> StateSnapshot:
    return StateSnapshot(
        values={},
        next=(),
        config=config,
        metadata=None,
        created_at=None,
        parent_config=None,
        tasks=(),
        interrupts=(),
    )
