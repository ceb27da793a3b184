"""Make a branch: a reference to its files, and one transaction with everything else."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.types import Command, Overwrite

from megagraph.branches.edits import Edits, PlanEdit
from megagraph.branches.moves import Move
from megagraph.branches.plan import BranchPlan
from megagraph.branches.rows import copied
from megagraph.conversation import note
from megagraph.database import Database, Statement, connect
from megagraph.errors import UsageError
from megagraph.events import BEGINNINGS, Event
from megagraph.home import Home
from megagraph.journal import dump_answer
from megagraph.migrations import migrate
from megagraph.model_rules import ModelRules
from megagraph.saver import Saver, stored_id
from megagraph.team import agent_graph

_BEFORE = {"think": "act", "act": "think", "wait": "think"}
"""For a node, one that can lead to it."""


def make_branch(home: Home, plan: BranchPlan) -> str:
    """Make the branch, and return its id. Blocks. Nothing of it can be seen before all of it is there."""
    branch, parent = str(uuid4()), home.find(plan.run)
    edited = list(_edited_state(home, plan, branch)) if plan.edits.of_agent else []
    rows, events = copied(plan, branch, home.database)
    plan.evidence.workspace.fork(plan.version, branch)
    last = max((event.seq for event in events), default=0)
    told = Event(last + 1, time.time(), "branched", data={"parent": plan.run, "at": plan.at})
    home.database.write_sync(
        _run_row(plan, branch, parent, _worked(events)),
        *rows,
        *edited,
        *_edited_letters(plan.edits, branch),
        home.ledger(branch).event(told),
    )
    return branch


def _run_row(plan: BranchPlan, branch: str, parent: dict[str, Any], seconds: float) -> Statement:
    about = plan.dump()
    described = {key: about[key] for key in ("kept", "again", "removed", "edits")}
    values = {
        "run": branch,
        "created": time.time(),
        "status": "paused",
        "reason": f"a branch of {plan.run[:8]} at {plan.at}",
        "goal": parent["goal"] if plan.edits.goal is None else plan.edits.goal,
        "scenario": parent["scenario"],
        "model": parent["model"],
        "rehearsal": parent["rehearsal"],
        "settings": json.dumps(branch_settings(plan, json.loads(parent["settings"]))),
        "seconds": seconds,
        "parent": plan.run,
        "at": plan.at,
        "repository": parent["repository"] or plan.run,
        "branch": json.dumps(described, ensure_ascii=False),
    }
    marks = ", ".join("?" * len(values))
    return f"INSERT INTO runs ({', '.join(values)}) VALUES ({marks})", tuple(values.values())


def _worked(events: Sequence[Event]) -> float:
    """Seconds that the organisation had worked: what lies between two processes was nobody's work."""
    worked = begun = last = 0.0
    for event in events:
        if event.kind in BEGINNINGS:
            worked, begun = worked + last - begun, event.time
        last = event.time
    return worked + last - begun


def branch_settings(plan: BranchPlan, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of the branch, from those of its parent."""
    edits = plan.edits
    if edits.limits is not None:
        settings |= {"limits": edits.limits.model_dump(), "own_limits": True}
    if edits.model is not None:
        models = {plan.point.agent: edits.model} if isinstance(edits.model, str) else dict(edits.model)
        settings["own_models"] = {**settings.get("own_models", {}), **ModelRules(agents=models).model_dump()["agents"]}
    return settings


def _edited_letters(edits: Edits, branch: str) -> Iterator[Statement]:
    for id_, text in edits.letters.items():
        yield "UPDATE letters SET text = ? WHERE run = ? AND id = ?", (text, branch, id_)


def _edited_state(home: Home, plan: BranchPlan, branch: str) -> Iterator[Statement]:
    """The rows with which the agent's state at the branch point is another one.

    The state is changed as LangGraph changes it, in a database of its own, so that all rows can be written at once.
    """
    agent = plan.point.agent
    move = plan.evidence.moves.of(agent)[plan.causes.cut.at[agent]]
    if move.node not in _BEFORE:
        raise UsageError(f"{plan.at} is no moment at which {agent} can be changed.", "Take a `think` or `act` step.")
    with TemporaryDirectory(prefix="megagraph-") as folder:
        file = Path(folder) / "state.db"
        connection = connect(file)
        try:
            migrate(file, connection)
        finally:
            connection.close()
        staging = Database(file)
        try:
            yield from _stage(home, staging, plan, move, branch)
        finally:
            staging.close()


def _stage(home: Home, staging: Database, plan: BranchPlan, move: Move, branch: str) -> Iterator[Statement]:
    staging.write_sync(_named(home.database, plan.run, branch, move.namespace))
    for table, less in (("checkpoints", "<="), ("writes", "<")):
        rows = _rows_of(home.database, table, plan.run, move, less)
        staging.write_sync(*(_insertion(table, branch, move.namespace, row) for row in rows))
    graph = agent_graph(checkpointer=Saver(staging, lambda _: home.ledger(plan.run)))
    config: RunnableConfig = {"configurable": {"thread_id": branch, "checkpoint_ns": move.namespace}}
    state = graph.get_state(config).values
    update, statements = _changes(plan.edits, state, _before(home, plan, move.namespace, state), plan, move, branch)
    if update:
        graph.update_state(config, Command(update=update, goto=move.node), as_node=_BEFORE[move.node])
        for table, after in (("checkpoints", ">"), ("writes", ">=")):
            rows = _rows_of(staging, table, branch, move, after)
            yield from (_insertion(table, branch, move.namespace, row) for row in rows)
    yield from statements


def _before(home: Home, plan: BranchPlan, namespace: str, state: Mapping[str, Any]) -> list[BaseMessage]:
    """What an agent had said and heard when it sat down at the desk with this namespace; nothing at its own."""
    if not (count := state.get("before", 0)):
        return []
    above = "|".join(namespace.split("|")[:-2])
    place = {
        "thread_id": plan.run,
        "checkpoint_ns": above,
        "checkpoint_id": plan.evidence.moves.parents[namespace][above],
    }
    outer = agent_graph(checkpointer=home.saver).get_state({"configurable": place}).values
    return [*_before(home, plan, above, outer), *outer.get("messages", [])][:count]


def _changes(
    edits: Edits, state: dict[str, Any], before: Sequence[BaseMessage], plan: BranchPlan, move: Move, branch: str
) -> tuple[dict[str, Any], list[Statement]]:
    """What is otherwise in the agent's state, and in its rows. `before` is the past of one who sits at a desk."""
    update: dict[str, Any] = {}
    statements: list[Statement] = []
    said: list[BaseMessage] = [*before, *state.get("messages", [])]
    messages = list(said)
    for i, text in edits.messages.items():
        if not -len(messages) <= i < len(messages):
            raise UsageError(
                f"{move.agent} has no message {i} at {plan.at}.", f"It has {len(messages)}, counted from 0."
            )
        messages[i] = messages[i].model_copy(update={"content": text})
    spec = dict(state["spec"])
    if edits.instructions is not None:
        messages = _retold(messages, str(spec["instructions"]), edits.instructions, "Your instructions")
        spec["instructions"] = edits.instructions
        update["spec"] = {"instructions": edits.instructions}
        statements.append(
            (
                "UPDATE agents SET spec = ? WHERE run = ? AND name = ?",
                (json.dumps(spec, ensure_ascii=False), branch, move.agent),
            )
        )
    if edits.goal is not None:
        messages = _retold(messages, plan.goal, edits.goal, "The goal")
    if edits.plan is not None:
        messages, answer = _planned(messages, edits.plan, move)
        statements.append(
            (
                "UPDATE calls SET answer = ? WHERE run = ? AND agent = ? AND step = ?",
                (json.dumps(dump_answer(answer), ensure_ascii=False), branch, move.agent, move.step),
            )
        )
    if messages[: len(before)] != said[: len(before)]:
        update |= {"messages": Overwrite(messages), "before": 0}
    elif messages != said:
        update["messages"] = Overwrite(messages[len(before) :])
    if edits.todo is not None:
        update["todo"] = {"open": list(edits.todo), "done": list(state.get("todo", {}).get("done", []))}
    return update, statements


def _retold(messages: Sequence[BaseMessage], old: str, new: str, what: str) -> list[BaseMessage]:
    """The conversation as though the agent had been told so from the start; else it is told now.

    One that has not begun yet has no messages, and is told when it begins.
    """
    if not messages:
        return []
    first = messages[0]
    if old.strip() and old in first.text:
        return [first.model_copy(update={"content": first.text.replace(old, new, 1)}), *messages[1:]]
    return [*messages, HumanMessage(note(f"{what} has been changed by a person. From now on:\n{new}"))]


def _planned(messages: Sequence[BaseMessage], edit: PlanEdit, move: Move) -> tuple[list[BaseMessage], AIMessage]:
    """The conversation with another plan in its last answer, and that answer."""
    last = messages[-1] if messages else None
    calls = last.tool_calls if isinstance(last, AIMessage) else []
    place = next((i for i, call in enumerate(calls) if call["name"] == "recruit"), None)
    if move.node != "act" or place is None or not isinstance(last, AIMessage):
        raise UsageError(
            f"{move.address} recruits nobody.", "A plan is changed at the `act` step that recruits, such as boss:act#1."
        )
    args = {**calls[place]["args"], "agents": edit.apply(calls[place]["args"].get("agents", []))}
    changed = [{**call, "args": args} if i == place else call for i, call in enumerate(calls)]
    answer = last.model_copy(update={"tool_calls": changed})
    return [*messages[:-1], answer], answer


def _rows_of(database: Database, table: str, thread: str, move: Move, where: str) -> list[dict[str, Any]]:
    """Rows of the move's namespace, from those before its checkpoint or after it; without the namespace's number."""
    rows = database.read(
        f"SELECT t.* FROM {table} t JOIN namespaces n ON t.namespace = n.id"
        f" WHERE n.thread_id = ? AND n.checkpoint_ns = ? AND t.checkpoint_id {where} ?",
        (thread, move.namespace, stored_id(move.checkpoint)),
    )
    return [{name: value for name, value in dict(row).items() if name != "namespace"} for row in rows]


def _named(database: Database, run: str, branch: str, namespace: str) -> Statement:
    [(parents,)] = database.read(
        "SELECT parents FROM namespaces WHERE thread_id = ? AND checkpoint_ns = ?", (run, namespace)
    )
    return (
        "INSERT INTO namespaces (thread_id, checkpoint_ns, parents) VALUES (?, ?, ?)",
        (branch, namespace, parents),
    )


def _insertion(table: str, thread: str, namespace: str, row: dict[str, Any]) -> Statement:
    marks = ", ".join("?" * len(row))
    return (
        f"INSERT INTO {table} (namespace, {', '.join(row)}) SELECT id, {marks} FROM namespaces"
        " WHERE thread_id = ? AND checkpoint_ns = ?",
        (*row.values(), thread, namespace),
    )
