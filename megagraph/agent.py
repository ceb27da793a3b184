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

from megagraph.answers import MAX_IN_A_ROW, cut, declined
from megagraph.errors import BranchStopped, LimitReached, ModelError
from megagraph.file_tools import FILE_TOOLS
from megagraph.gate import Left
from megagraph.guards import FRESH, TALK, Counts, Finding, Turn, last_calls, look
from megagraph.human_tools import HUMAN_TOOLS
from megagraph.ledger import CallRow, ToolRow
from megagraph.limits import Use
from megagraph.organisation import Organisation
from megagraph.program_tools import PROGRAM_TOOLS
from megagraph.specs import AgentSpec, Letter, Report, Seat
from megagraph.team_tools import TEAM_TOOLS, owed
from megagraph.tools import Caller, Request, Toolbox

TOOLBOX = Toolbox([*TEAM_TOOLS, *FILE_TOOLS, *PROGRAM_TOOLS, *HUMAN_TOOLS])

MAX_UNREAD = 12
"""Letters handed over whole in one turn; of more, the rest is folded into a digest."""

_CHOICE = "\nWrite to it to let it try again, recruit another in its place, or dismiss it and do without."
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
    bad: int
    """Answers in a row of which nothing could be used."""
    guards: Annotated[dict[str, Any], DeltaChannel(merge, snapshot_frequency=50)]
    """What the guards count of it."""
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
        except Left as error:
            raise org.park() from error
        except LimitReached as error:
            org.stop(error.message)
            raise org.park() from error
        except Exception as error:
            if isinstance(error, ModelError) and error.everyone:
                _stop_for_all(org, spec, error)
                raise org.park() from error
            told = isinstance(error, ModelError | BranchStopped)
            reason = str(error) if told else f"{type(error).__name__}: {error}"
            org.emit("failed", spec.name, error=reason[:2000], problem=_problem(error))
            if not spec.lead:
                org.failed = True
                org.stop(f"the boss failed: {reason}")
                raise org.park() from error
            failure = await _fail(org, state, spec, reason)
            if node.__name__ == "think":
                # Its next failure is another one, with a letter of its own.
                cast(dict[str, Any], failure.update)["step"] = state.get("step", 0) + 1
            return failure

    return cast(Node, guarded_node)


def _stop_for_all(org: Organisation, spec: AgentSpec, error: ModelError) -> None:
    """What one agent met is what all would meet: the run stops once, and nobody is taken for a failure."""
    if not org.stopped:
        org.failed = error.kind != "down"
        org.emit("failed", spec.name, error=str(error)[:2000], problem=error.kind)
        org.stop(str(error))


def _problem(error: Exception) -> str:
    if isinstance(error, BranchStopped):
        return "stopped"
    return error.kind if isinstance(error, ModelError) else "error"


async def _fail(org: Organisation, state: AgentState, spec: AgentSpec, reason: str) -> Command[Step]:
    """Hand in a failure. The agent can still be woken by a letter, and then tries again, knowing what went wrong.

    The letters it has not come to are answered by the failure: they do not wake it once more.
    """
    org.close(org.mailroom.close_team(spec.name))
    report = Report(f"I failed: {reason}", failed=True)
    letters = org.mailroom.places[spec.name].unread
    await _hand_in(org, spec, report, f"{spec.name}/{state.get('step', 0)}/failure", "failure")
    org.mailroom.read(spec.name, [letter.id for letter in letters])
    heard = [*_heard(org, spec, state, letters), _note(f"You could not go on, and your lead was told: {reason}")]
    update = {
        "report": report.dump(),
        "messages": [HumanMessage(text) for text in heard],
        "seen": [letter.id for letter in letters],
        "guards": FRESH,
    }
    return Command(update=update, goto=_after_report(state["seat"]))


async def _hand_in(
    org: Organisation, spec: AgentSpec, report: Report, id_: str, kind: Literal["report", "failure"]
) -> None:
    letter = Letter(id_, spec.name, spec.lead, kind, report.text() + (_CHOICE if kind == "failure" else ""))
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
    place = mailroom.places[spec.name]
    if (spec.name, step) in org.journal:
        row = await org.ledger.answered(spec.name, step)
        counts, _ = await _look(org, spec, state, [place.letters[id_] for id_ in row.letters])
    else:
        letters = place.unread
        counts, findings = await _look(org, spec, state, letters)
        if stop := next((finding for finding in findings if finding.level == "stop"), None):
            return _stop(org, spec, stop)
        asked = await _ask(org, spec, state, step, letters, findings)
        if asked is None:
            return Command(goto="__end__")
        row = asked
    mailroom.read(spec.name, row.letters)
    heard = [HumanMessage(text) for text in row.heard]
    update: dict[str, Any] = {
        "messages": [*heard, *([row.answer] if _says_something(row.answer) else [])],
        "seen": list(row.letters),
        "step": step,
        **({"guards": counts} if counts else {}),
    }
    if row.answer.tool_calls or row.answer.invalid_tool_calls:
        return Command(update=update, goto="act")
    if problem := _no_answer(row.answer):
        org.emit("bad_answer", spec.name, step=step, why=problem)
        update["messages"].append(HumanMessage(_note(f"{problem[0].upper()}{problem[1:]}. Call a tool, or `finish`.")))
        return await _after_bad(org, spec, state, update, problem, final=declined(row.answer) is not None)
    return await _rest(org, spec, state, update, row.answer.text)


def _no_answer(answer: AIMessage) -> str:
    """Why an answer without a tool call is none; empty if it is one."""
    match declined(answer):
        case "refusal":
            return f"the model refused: {answer.text[:300]}"
        case "filter":
            return "the provider's content filter stopped the answer"
    if cut(answer):
        return _CUT
    return "" if _says_something(answer) else "your answer was empty"


async def _after_bad(
    org: Organisation, spec: AgentSpec, state: AgentState, update: dict[str, Any], why: str, *, final: bool = False
) -> Command[Step]:
    """Another try after an answer of which nothing could be used; after too many in a row, or at once, a failure."""
    bad = state.get("bad", 0) + 1
    if bad < MAX_IN_A_ROW and not final:
        return Command(update={**update, "bad": bad}, goto="think")
    reason = why if final else f"{bad} answers in a row could not be used, the last because {why}"
    org.emit("failed", spec.name, error=reason, problem="declined" if final else "unfit")
    update = {**update, "bad": 0}
    if not spec.lead:
        org.failed = True
        org.stop(f"the boss failed: {reason}")
        return Command(update=update, goto="think")
    failure = await _fail(org, cast(AgentState, {**state, **update}), spec, reason)
    failed = cast(dict[str, Any], failure.update)
    for key in ("messages", "seen"):
        failed[key] = [*update.get(key, []), *failed[key]]
    return Command(update={**update, **failed}, goto=failure.goto)


async def _look(
    org: Organisation, spec: AgentSpec, state: AgentState, letters: Sequence[Letter]
) -> tuple[Counts, list[Finding]]:
    """What the guards count of the agent's last turn, and what they find."""
    places = org.mailroom.places
    members = [places[name] for name in places[spec.name].members]
    accepted = {m.spec.name for m in members if m.report is not None and m.report.accepted}
    open_ = org.mailroom.open_members(spec.name)
    turn = Turn(
        calls=last_calls(state.get("messages", [])),
        letters=letters,
        todo=state.get("todo", {}),
        members=open_,
        unaccepted=len(set(open_) - accepted),
        accepted=len(accepted),
    )

    async def worked(agent: str, first: int, last: int) -> bool:
        return await org.ledger.worked(agent, first, last, TALK)

    return await look(org.guards, state.get("guards", {}), turn, worked)


def _stop(org: Organisation, spec: AgentSpec, finding: Finding) -> Command[Step]:
    """End the branch of an agent that goes in circles. The boss has no lead: the run stops, and can be resumed."""
    org.emit("guard", spec.name, guard=finding.guard, level=finding.level, why=f"it {finding.why}")
    if spec.lead:
        raise BranchStopped(f"I go in circles: {spec.name} {finding.why}.")
    org.failed = True
    org.stop(f"the boss goes in circles: it {finding.why}.")
    return Command(update={"guards": FRESH}, goto="think")


def _warn(org: Organisation, spec: AgentSpec, step: int, findings: Sequence[Finding]) -> None:
    """Say that an agent goes in circles: to those who watch, and to its lead where the agent has not heeded a note."""
    for finding in findings:
        org.emit("guard", spec.name, guard=finding.guard, level=finding.level, why=f"it {finding.why}")
        if finding.level == "lead" and spec.lead:
            text = f"{spec.name} goes in circles: it {finding.why}. If this goes on, it will be stopped."
            org.tell(f"{spec.name}/{step}/{finding.guard}", spec.lead, text)


def _heard(org: Organisation, spec: AgentSpec, state: AgentState, letters: Sequence[Letter]) -> list[str]:
    """What the agent hears before its next turn."""
    task = [] if state.get("messages") else [_task(org, spec)]
    return [*task, _mail(letters)] if letters else task


async def _ask(
    org: Organisation,
    spec: AgentSpec,
    state: AgentState,
    step: int,
    letters: Sequence[Letter],
    findings: Sequence[Finding],
) -> CallRow | None:
    """The answer to the next turn; None where the agent was dismissed while it waited for its call."""
    notes = [_note(f"You go in circles: {spec.name} {x.why}. {x.advice}") for x in findings]
    heard = [*_heard(org, spec, state, letters), *notes]
    messages = [
        SystemMessage(org.prompts.system(spec)),
        *state.get("messages", []),
        *(HumanMessage(text) for text in heard),
    ]
    branches = org.chain(spec.name) if org.meter.divided else ()
    claim = await org.meter.reserve(spec.name, step, _expected(org, messages), branches)
    if claim is None:
        raise org.park()
    if org.mailroom.closed(spec.name):
        org.meter.release(claim)
        return None
    _warn(org, spec, step, findings)
    org.emit("thinking", spec.name, step=step)
    started = time.time()

    def retrying(reason: str, delay: float) -> None:
        org.emit("retry", spec.name, step=step, reason=reason, delay=round(delay, 2))

    try:
        answer = await org.models.ask(org.asker(spec.name), messages, retrying)
    except BaseException:
        org.meter.release(claim)
        raise
    row = CallRow(spec.name, step, tuple(heard), tuple(letter.id for letter in letters), answer.message)
    usage = answer.message.usage_metadata
    tokens = (usage["input_tokens"], usage["output_tokens"]) if usage else (0, 0)
    cached = (usage.get("input_token_details") or {}).get("cache_read", 0) if usage else 0
    price = org.prices.get(answer.model)
    cost = price.cost(*tokens, cached) if price else None
    thought = org.event(
        "thought",
        spec.name,
        step=step,
        seconds=round(answer.seconds, 3),
        input_tokens=tokens[0],
        output_tokens=tokens[1],
        calls=[call["name"] for call in answer.message.tool_calls],
        text=answer.message.text[:200],
    )
    journalled = org.ledger.call(
        row,
        started=started,
        seconds=answer.seconds,
        model=answer.model,
        request=_fingerprint(messages),
        retries=answer.retries,
        cost=cost,
    )
    await org.ledger.database.write(journalled, org.ledger.event(thought))
    org.stream.send(thought)
    org.called(answer.seconds)
    org.meter.settle(claim, Use(1, *tokens, cost or 0.0))
    return row


def _expected(org: Organisation, messages: Sequence[BaseMessage]) -> Use:
    """About what a call will use: what the last one did, and four characters a token for what has come since."""
    tokens = characters = 0
    for message in reversed(messages):
        if isinstance(message, AIMessage) and (usage := message.usage_metadata):
            tokens = usage["input_tokens"] + usage["output_tokens"]
            break
        characters += len(message.text)
    else:
        tokens = org.meter.overhead
    tokens += characters // 4
    output = org.meter.usual_output
    costs = [price.expected(tokens, output) for price in org.prices.values() if price]
    return Use(1, tokens, output, max(costs, default=0.0))


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
    requests = _requests(state["messages"], org.meter.limits.tool_calls)
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
    if rows and all(row.effects.get("unfit") for row in rows):
        return await _after_bad(org, spec, state, update, rows[-1].result)
    if state.get("bad"):
        update["bad"] = 0
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


def _requests(messages: Sequence[BaseMessage], most: int) -> list[Request]:
    """The tool calls of the last answer, malformed ones included, in a fixed order; above `most` only to say no."""
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
    above = f"not carried out: a turn may have {most} tool calls. Make the others in your next turn."
    return [
        Request(i, id_ or f"call_{i}", name, args, why if i < most else above)
        for i, (id_, name, args, why) in enumerate(calls)
    ]


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
