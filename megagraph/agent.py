"""One agent as a graph: think ⇄ act, its team, and the wait for mail. The same graph for every agent.

A step is a checkpoint. `think` reads the letters that have come and calls the model; `act` carries out the tool
calls; `team` is the subgraph of the agent's recruits, grown from its plan; `wait` sleeps until there is mail.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import wraps
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, cast

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import Runnable
from langgraph.channels.delta import DeltaChannel
from langgraph.errors import GraphBubbleUp
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command
from typing_extensions import TypedDict

from megagraph.errors import LimitReached, ModelError
from megagraph.file_tools import FILE_TOOLS
from megagraph.human_tools import HUMAN_TOOLS
from megagraph.ledger import CallRow, ToolRow
from megagraph.organisation import Organisation
from megagraph.program_tools import PROGRAM_TOOLS
from megagraph.specs import AgentSpec, Letter, Report, Seat
from megagraph.team_tools import TEAM_TOOLS, owed
from megagraph.tools import Caller, Request, Toolbox

TOOLBOX = Toolbox([*TEAM_TOOLS, *FILE_TOOLS, *PROGRAM_TOOLS, *HUMAN_TOOLS])

MAX_UNREAD = 12
"""Letters handed over whole in one turn; of more, the rest is folded into a digest."""

_CUT = "the answer was cut at the output limit; write less in one turn"

Step: TypeAlias = Literal["think", "act", "team", "wait", "__end__"]
Node = TypeVar("Node", bound=Callable[..., Awaitable[Command[Any]]])


def _extend(old: list[Any], writes: Sequence[list[Any]]) -> list[Any]:
    return [*old, *(item for write in writes for item in write)]


def merge(old: dict[str, Any], writes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A reducer: later keys win."""
    merged = dict(old)
    for write in writes:
        merged.update(write)
    return merged


class AgentState(TypedDict, total=False):
    """All that is checkpointed of one agent. What grows, or is large and seldom changes, is kept as deltas."""

    seat: Seat
    spec: Annotated[dict[str, Any], DeltaChannel(merge, snapshot_frequency=50)]
    """An `AgentSpec`, plain."""
    messages: Annotated[list[BaseMessage], DeltaChannel(_extend, snapshot_frequency=50)]
    seen: Annotated[list[str], DeltaChannel(_extend, snapshot_frequency=50)]
    """Ids of the letters it has read."""
    versions: Annotated[dict[str, str], DeltaChannel(merge, snapshot_frequency=50)]
    """The version of each file that it has last read or written."""
    todo: Annotated[dict[str, list[str]], DeltaChannel(merge, snapshot_frequency=50)]
    plan: list[dict[str, Any]]
    """The recruits whose team is to be opened next."""
    step: int
    """Model calls so far."""
    wave: int
    """Teams opened so far, one inside the other."""
    work_on: bool
    """Whether it has work of its own to do at the desk before the first letter comes."""
    told: bool
    """Whether it has been told once what is missing."""
    report: dict[str, Any] | None
    """A `Report`, plain, once it has handed in its work."""
    version: str
    """The commit of the shared files after its last step."""


def guarded(node: Node) -> Node:
    """Turn what goes wrong inside an agent into a failure that its lead is told of; siblings go on.

    For the boss, who has no lead, it stops the run where it is.
    """

    @wraps(node)
    async def guarded_node(state: AgentState, runtime: Runtime[Organisation]) -> Command[Any]:
        org, spec = runtime.context, AgentSpec.load(state["spec"])
        try:
            return await node(state, runtime)
        except GraphBubbleUp:
            raise
        except LimitReached as error:
            org.stop(error.message)
            raise org.park() from error
        except Exception as error:
            reason = str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
            org.emit("failed", spec.name, error=reason[:2000])
            if not spec.lead:
                org.failed = True
                org.stop(f"the boss failed: {reason}")
                raise org.park() from error
            return await _fail(org, state, spec, reason)

    return cast(Node, guarded_node)


async def _fail(org: Organisation, state: AgentState, spec: AgentSpec, reason: str) -> Command[Step]:
    """Hand in a failure. The agent can still be woken by a letter, and then tries again."""
    org.close(org.mailroom.close_team(spec.name))
    report = Report(f"I failed: {reason}", failed=True)
    await _hand_in(org, spec, report, f"{spec.name}/{state.get('step', 0)}/failure", "failure")
    return Command(update={"report": report.dump()}, goto=_after_report(state["seat"]))


async def _hand_in(
    org: Organisation, spec: AgentSpec, report: Report, id_: str, kind: Literal["report", "failure"]
) -> None:
    letter = Letter(id_, spec.name, spec.lead, kind, report.text())
    statements = [org.ledger.reported(spec.name, report)]
    if spec.lead:
        statements.append(org.ledger.letter(letter))
    await org.ledger.database.write(*statements)
    if not report.failed:
        org.emit("reported", spec.name, summary=report.summary[:500], missing=list(report.missing))
    org.mailroom.report(spec.name, report)
    if spec.lead:
        org.deliver([letter])


@guarded
async def think(state: AgentState, runtime: Runtime[Organisation]) -> Command[Step]:
    """Read the mail, ask the model, and decide what comes next. The answer is journalled before it is used."""
    org, spec = runtime.context, AgentSpec.load(state["spec"])
    mailroom, step = org.mailroom, state.get("step", 0) + 1
    if mailroom.closed(spec.name):
        return Command(goto="__end__")
    mailroom.work(spec.name)
    mailroom.read(spec.name, state.get("seen", []))
    if (spec.name, step) in org.journal:
        row = await org.ledger.answered(spec.name, step)
    else:
        row = await _ask(org, spec, state, step)
    mailroom.read(spec.name, row.letters)
    heard = [HumanMessage(text) for text in row.heard]
    update: dict[str, Any] = {
        "messages": [*heard, *([row.answer] if _says_something(row.answer) else [])],
        "seen": list(row.letters),
        "step": step,
    }
    if row.answer.tool_calls or row.answer.invalid_tool_calls:
        return Command(update=update, goto="act")
    if not _says_something(row.answer):
        org.emit("bad_answer", spec.name, step=step, why="the answer was empty")
        update["messages"].append(HumanMessage(_note("Your answer was empty. Call a tool, or `finish`.")))
        return Command(update=update, goto="think")
    return await _rest(org, spec, state, update, row.answer.text)


async def _ask(org: Organisation, spec: AgentSpec, state: AgentState, step: int) -> CallRow:
    letters = org.mailroom.places[spec.name].unread
    heard: list[str] = [] if state.get("messages") else [_task(org, spec)]
    if letters:
        heard.append(_mail(letters))
    messages = [
        SystemMessage(org.prompts.system(spec)),
        *state.get("messages", []),
        *(HumanMessage(text) for text in heard),
    ]
    org.meter.reserve(spec.name, step)
    org.emit("thinking", spec.name, step=step)
    started = time.time()

    def retrying(reason: str, delay: float) -> None:
        org.emit("retry", spec.name, step=step, reason=reason, delay=round(delay, 2))

    try:
        answer = await org.model.ask(messages, retrying)
    except BaseException:
        org.meter.release()
        raise
    row = CallRow(spec.name, step, tuple(heard), tuple(letter.id for letter in letters), answer.message)
    await org.ledger.database.write(
        org.ledger.call(
            row,
            started=started,
            seconds=answer.seconds,
            model=org.model.choice.label,
            request=_fingerprint(messages),
            retries=answer.retries,
        )
    )
    org.called(answer.seconds)
    usage = answer.message.usage_metadata
    tokens = (usage["input_tokens"], usage["output_tokens"]) if usage else (0, 0)
    org.meter.settle(*tokens)
    org.emit(
        "thought",
        spec.name,
        step=step,
        seconds=round(answer.seconds, 3),
        input_tokens=tokens[0],
        output_tokens=tokens[1],
        calls=[call["name"] for call in answer.message.tool_calls],
        text=answer.message.text[:200],
    )
    return row


async def _rest(
    org: Organisation, spec: AgentSpec, state: AgentState, update: dict[str, Any], text: str
) -> Command[Step]:
    """A turn that asks for nothing: a lead waits for its team; anybody else has come to an end.

    It is told once if something is missing. An agent that has asked someone waits for the answer instead.
    """
    mailroom = org.mailroom
    if mailroom.has_mail(spec.name):
        return Command(update=update, goto="think")
    if state["seat"] != "boss" and mailroom.may_rest(spec.name):
        return Command(update=update, goto="wait")
    missing = await owed(_caller(org, spec, state, update["step"]))
    if missing and not state.get("told"):
        org.emit("reminded", spec.name, missing=missing)
        text = f"You called no tool, and this is missing: {'; '.join(missing)}. Go on, or `finish` as it is."
        update["messages"].append(HumanMessage(_note(text)))
        return Command(update={**update, "told": True}, goto="think")
    report = Report(text, missing=tuple(missing))
    await _hand_in(org, spec, report, f"{spec.name}/{update['step']}/end", "report")
    return Command(update={**update, "report": report.dump()}, goto=_after_report(state["seat"]))


@guarded
async def act(state: AgentState, runtime: Runtime[Organisation]) -> Command[Step]:
    """Carry out the tool calls of the last turn. What an earlier process has finished is not done again."""
    org, spec, step = runtime.context, AgentSpec.load(state["spec"]), state["step"]
    if org.mailroom.closed(spec.name):
        return Command(goto="__end__")
    org.mailroom.work(spec.name)
    requests = _requests(state["messages"])
    caller = _caller(org, spec, state, step)
    done: Mapping[int, ToolRow] = {}
    if (spec.name, step) in org.done_steps:
        done = await org.ledger.finished(spec.name, step)
    rows = await TOOLBOX.perform(caller, requests, done)
    plan = [recruit for row in rows for recruit in row.effects.get("plan", [])]
    report = next((row.effects["report"] for row in rows if "report" in row.effects), None)
    update: dict[str, Any] = {
        "messages": [
            ToolMessage(row.result, tool_call_id=request.id, status="success" if row.ok else "error")
            for request, row in zip(requests, rows, strict=True)
        ],
        "version": org.version,
    }
    for key in ("versions", "todo"):
        if changed := merge({}, [row.effects[key] for row in rows if key in row.effects]):
            update[key] = changed
    if caller.told != state.get("told", False):
        update["told"] = caller.told
    if report is not None:
        return Command(update={**update, "report": report}, goto=_after_report(state["seat"]))
    if plan:
        work_on = any(row.effects.get("work_on") for row in rows)
        return Command(update={**update, "plan": plan, "wave": caller.wave + 1, "work_on": work_on}, goto="team")
    return Command(update=update, goto="think")


@guarded
async def wait(state: AgentState, runtime: Runtime[Organisation]) -> Command[Step]:
    """Sleep until there is mail, the dependencies have reported, or the team is over."""
    org, spec = runtime.context, AgentSpec.load(state["spec"])
    org.mailroom.read(spec.name, state.get("seen", []))
    wake = await org.mailroom.wait(spec.name)
    if wake == "park":
        raise org.park()
    if wake == "work":
        return Command(update={"told": False} if state.get("told") else {}, goto="think")
    if state["seat"] == "desk" and not org.mailroom.closed(spec.name):
        return await _end_at_a_stand(org, spec, state)
    return Command(goto="__end__")


async def _end_at_a_stand(org: Organisation, spec: AgentSpec, state: AgentState) -> Command[Step]:
    """The team was ended because nobody in it, its lead included, moved any more."""
    org.close(org.mailroom.close_team(spec.name))
    text = next((m.text for m in reversed(state.get("messages", [])) if isinstance(m, AIMessage)), "")
    report = Report(text or "(nothing)", missing=("the team came to a stand before its lead finished",))
    await _hand_in(org, spec, report, f"{spec.name}/{state.get('step', 0)}/stand", "report")
    return Command(update={"report": report.dump()}, goto="__end__")


def build_agent(team: Runnable[Any, Any]) -> StateGraph[AgentState, Organisation, AgentState, AgentState]:
    """The agent's graph, not yet compiled. `team` is the node that grows its team."""
    graph = StateGraph(AgentState, context_schema=Organisation)
    graph.add_node("think", think, destinations=("act", "think", "wait", END))
    graph.add_node("act", act, destinations=("think", "team", "wait", END))
    graph.add_node("team", team)
    graph.add_node("wait", wait, destinations=("think", END))
    graph.add_conditional_edges(START, _enter, ["think", "wait"])
    graph.add_conditional_edges("team", _leave_team, ["wait", END])
    return graph


# Asynchronous, since LangGraph sends a synchronous routing function through a thread pool.
async def _enter(state: AgentState) -> Literal["think", "wait"]:
    match state["seat"]:
        case "boss":
            return "think"
        case "desk":
            return "think" if state.get("work_on") else "wait"
        case "member":
            return "wait" if state["spec"]["depends_on"] else "think"


async def _leave_team(state: AgentState) -> Step:
    return _after_report(state["seat"])


def _after_report(seat: Seat) -> Literal["wait", "__end__"]:
    """A member that has reported can be woken for rework; at a desk or at the top, the report is the end."""
    return "wait" if seat == "member" else "__end__"


def _caller(org: Organisation, spec: AgentSpec, state: AgentState, step: int) -> Caller:
    return Caller(
        org,
        spec,
        step,
        versions=dict(state.get("versions", {})),
        todo=dict(state.get("todo", {})),
        told=state.get("told", False),
        wave=state.get("wave", 0),
    )


def _requests(messages: Sequence[BaseMessage]) -> list[Request]:
    """The tool calls of the last answer, malformed ones included, in a fixed order."""
    answer = next(m for m in reversed(messages) if isinstance(m, AIMessage))
    calls = [(c["id"], c["name"], c["args"], "") for c in answer.tool_calls]
    if calls and answer.response_metadata.get("finish_reason") == "length" and not answer.invalid_tool_calls:
        # A repaired call may look whole although the end of an argument is missing.
        calls[-1] = (*calls[-1][:3], f"the call was not carried out: {_CUT}")
    calls += [
        (
            c["id"],
            c["name"] or "",
            {},
            f"the arguments are no valid JSON ({_why_cut(answer, c.get('error'))})",
        )
        for c in answer.invalid_tool_calls
    ]
    return [Request(i, id_ or f"call_{i}", name, args, why) for i, (id_, name, args, why) in enumerate(calls)]


def _why_cut(answer: AIMessage, error: str | None) -> str:
    if answer.response_metadata.get("finish_reason") == "length":
        return _CUT
    return " ".join((error or "malformed").split())[:300]


def _says_something(answer: AIMessage) -> bool:
    return bool(answer.tool_calls or answer.invalid_tool_calls or answer.text.strip())


def _task(org: Organisation, spec: AgentSpec) -> str:
    places = org.mailroom.places
    mates = [places[n].spec for n in places[spec.lead].members if n != spec.name] if spec.lead else []
    inputs = {name: None if places[name].closed else places[name].report for name in spec.depends_on}
    return org.prompts.task(spec, org.goal, mates, inputs)


def _note(text: str) -> str:
    """A word from the system itself, told from letters and from the task."""
    return f"<note>{text}</note>"


def _mail(letters: Sequence[Letter]) -> str:
    """The letters as the agent reads them. Of very many, the oldest are folded to a line each."""
    folded, whole = letters[:-MAX_UNREAD], letters[-MAX_UNREAD:]
    parts = [letter.render() for letter in whole]
    if folded:
        lines = [f"- {x.sender} ({x.kind}): {' '.join(x.text.split())[:160]}" for x in folded]
        head = f"({len(folded)} older letters, in short; `read_letters` shows them whole:)"
        parts.insert(0, "\n".join([head, *lines]))
    return "\n".join(parts)


def _fingerprint(messages: Sequence[BaseMessage]) -> str:
    """A short hash of what was sent."""
    digest = hashlib.blake2b(digest_size=16)
    for message in messages:
        digest.update(f"{message.type}\0{message.content}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
