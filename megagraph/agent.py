"""One agent as a graph: think ⇄ act, its team, and the wait for mail. The same graph for every agent.

A step is a checkpoint. `think` reads the letters that have come and calls the model; `act` carries out the tool
calls; `team` is the subgraph of the agent's recruits, grown from its plan; `wait` sleeps until there is mail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import Runnable
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, Overwrite

from megagraph.acceptance import examine, inputs_stand
from megagraph.answers import declined
from megagraph.asking import ask_model, reserve
from megagraph.compaction import Draft, Past, past_of
from megagraph.conversation import no_answer, note, requests_of, said_so_far, says_something
from megagraph.errors import ModelError
from megagraph.failures import after_bad, both, failure_at, guarded, hand_in, stay_failed, stop_branch, warn
from megagraph.file_tools import FILE_TOOLS
from megagraph.gate import Left
from megagraph.guards import TALK, Counts, Finding, Turn, last_calls, look
from megagraph.human_tools import HUMAN_TOOLS
from megagraph.journal import CallRow, ToolRow
from megagraph.memory_tools import MEMORY_TOOLS
from megagraph.messages import answer_in, heard_in, result_in
from megagraph.organisation import Organisation
from megagraph.program_tools import PROGRAM_TOOLS
from megagraph.specs import AgentSpec, Letter, Report
from megagraph.state import AgentState, Step, after_report, merge, sits_at
from megagraph.team_tools import TEAM_TOOLS
from megagraph.tools import Caller, Toolbox

TOOLBOX = Toolbox([*TEAM_TOOLS, *FILE_TOOLS, *PROGRAM_TOOLS, *HUMAN_TOOLS, *MEMORY_TOOLS])


@guarded
async def think(state: AgentState, runtime: Runtime[Organisation]) -> Command[Step]:
    """Read the mail, ask the model, and decide what comes next. The answer is journalled before it is used."""
    org, spec = runtime.context, AgentSpec.load(state["spec"])
    if org.mailroom.closed(spec.name):
        return await _closed(org, state)
    mailroom, step = org.mailroom, state.get("step", 0) + 1
    failure = failure_at(org, spec, step)
    if (spec.name, step) in org.journal:
        # Whether it is at work or at rest after this turn is known from the rows already.
        row = await org.ledger.answered(spec.name, step)
        counts, _ = await _look(org, spec, state, await org.ledger.letters_of(row.letters))
    elif failure:
        return await stay_failed(org, {**state, "step": step}, spec, failure)
    else:
        mailroom.work(spec.name)
        letters = mailroom.places[spec.name].unread
        counts, findings = await _look(org, spec, state, letters)
        if stop := next((finding for finding in findings if finding.level == "stop"), None):
            return stop_branch(org, spec, stop)
        asked = await _ask(org, spec, state, step, letters, findings)
        if asked is None:
            return Command(goto="__end__")
        row = asked
    command = await _follow(org, spec, state, row, counts, failure)
    return command if row.shortened is None else _after(past_of(org, state, row), command)


async def _follow(
    org: Organisation, spec: AgentSpec, state: AgentState, row: CallRow, counts: Counts, failure: Letter | None
) -> Command[Step]:
    """Where an answer leads."""
    org.mailroom.read(spec.name, row.letters)
    update: dict[str, Any] = {
        "messages": [*heard_in(row), *([answer_in(row)] if says_something(row.answer) else [])],
        "seen": list(row.letters),
        "step": row.step,
        **({"guards": counts} if counts else {}),
    }
    if row.answer.tool_calls or row.answer.invalid_tool_calls:
        return Command(update=update, goto="act")
    if problem := no_answer(row.answer):
        org.emit("bad_answer", spec.name, step=row.step, why=problem)
        update["messages"].append(HumanMessage(note(f"{problem[0].upper()}{problem[1:]}. Call a tool, or `finish`.")))
        return await after_bad(org, spec, state, update, problem, final=declined(row.answer) is not None)
    if failure:
        return both(update, await stay_failed(org, {**state, "step": row.step}, spec, failure))
    return await _rest(org, spec, state, update, row.answer.text)


def _after(past: Past, command: Command[Step]) -> Command[Step]:
    """The turn of an agent whose conversation was made shorter before it."""
    update = cast(dict[str, Any], command.update)
    messages = Overwrite([*past["messages"], *update["messages"]])
    return Command(update={**update, **past, "messages": messages}, goto=command.goto)


async def _closed(org: Organisation, state: AgentState) -> Command[Step]:
    """The end of an agent whose work is over. What it handed in before a kill, its state may not tell of yet."""
    name = state["spec"]["name"]
    if state.get("report"):
        return Command(goto="__end__")
    # Of one whose work was over before this process began, there are only the rows.
    place = org.mailroom.places.get(name)
    report = place.report if place else await org.ledger.report_of(name)
    return Command(update={"report": report.dump()} if report else {}, goto="__end__")


async def _look(
    org: Organisation, spec: AgentSpec, state: AgentState, letters: Sequence[Letter]
) -> tuple[Counts, list[Finding]]:
    """What the guards count of the agent's last turn, and what they find."""
    open_ = org.mailroom.open_members(spec.name)
    reports = [org.mailroom.places[name].report for name in open_]
    turn = Turn(
        calls=last_calls(said_so_far(org, state)),
        letters=letters,
        todo=state.get("todo", {}),
        members=open_,
        unaccepted=sum(report is None or not report.accepted for report in reports),
        accepted=org.mailroom.accepted_of(spec.name),
    )

    async def worked(agent: str, first: int, last: int) -> bool:
        return await org.ledger.worked(agent, first, last, TALK)

    return await look(org.guards, state.get("guards", {}), turn, worked)


async def _ask(
    org: Organisation,
    spec: AgentSpec,
    state: AgentState,
    step: int,
    letters: Sequence[Letter],
    findings: Sequence[Finding],
) -> CallRow | None:
    """The answer to the next turn; None where the agent was dismissed while it waited for its call.

    A conversation that is too long is made shorter first, and once more where the model does not take it.
    """
    notes = [note(f"You go in circles: {spec.name} {x.why}. {x.advice}") for x in findings]
    draft = Draft(org, spec, state, letters, notes)
    draft.fit(org.models.window(spec.name, org.leads(spec.name)))
    asked = False
    while True:
        claim = await reserve(org, spec.name, step, draft.tokens, spec.name, draft.overhead)
        if claim is None:
            return None
        if org.mailroom.closed(spec.name):
            org.meter.release(claim)
            return None
        if not asked:
            asked = True
            warn(org, spec, step, findings)
            org.emit("thinking", spec.name, step=step)
        try:
            return await ask_model(org, claim, org.models, org.asker(spec.name), draft.sent, shown_as=spec.name)
        except Left:
            if org.gone(spec.name):
                return None
            raise
        except ModelError as error:
            if error.kind != "context" or not draft.give_way():
                raise


async def _rest(
    org: Organisation, spec: AgentSpec, state: AgentState, update: dict[str, Any], text: str
) -> Command[Step]:
    """A turn that asks for nothing: a lead waits for its team; anybody else has come to an end.

    It is told once if something is missing. An agent that has asked someone waits for the answer instead.
    """
    mailroom, place = org.mailroom, org.mailroom.places[spec.name]
    id_ = f"{spec.name}/{update['step']}/end"
    if place.report is not None and mailroom.told_lead(spec.name, id_):
        # An earlier process has handed it in.
        return Command(update={**update, "report": place.report.dump()}, goto=after_report(state["seat"]))
    if mailroom.has_mail(spec.name):
        return Command(update=update, goto="think")
    if state["seat"] != "boss" and (place.resting or mailroom.may_rest(spec.name)):
        if place.report is not None and not place.resting:
            await org.ledger.database.write(org.ledger.rested(spec.name, update["step"]))
        return Command(update=update, goto="wait")
    found = await examine(org, spec, state.get("todo", {}), (), id_)
    missing = found.missing
    if missing and not state.get("told"):
        await org.ledger.database.write(*found.statements(org))
        org.emit("reminded", spec.name, missing=missing, evidence=found.dump())
        text = f"You called no tool, and this is missing: {'; '.join(missing)}. Go on, or `finish` as it is."
        update["messages"].append(HumanMessage(note(text)))
        return Command(update={**update, "told": True}, goto="think")
    report = Report(text, missing=tuple(missing), version=found.version)
    await hand_in(org, spec, report, id_, "report", found.evidence)
    return Command(update={**update, "report": report.dump()}, goto=after_report(state["seat"]))


@guarded
async def act(state: AgentState, runtime: Runtime[Organisation]) -> Command[Step]:
    """Carry out the tool calls of the last turn. What an earlier process has finished is not done again."""
    org, spec, step = runtime.context, AgentSpec.load(state["spec"]), state["step"]
    if org.mailroom.closed(spec.name):
        return await _closed(org, state)
    requests = requests_of(state["messages"], org.meter.limits.tool_calls)
    caller = _caller(org, spec, state, step)
    done: Mapping[int, ToolRow] = {}
    if (spec.name, step) in org.done_steps:
        done = await org.ledger.finished(spec.name, step)
    failure = failure_at(org, spec, step)
    unfit = len(done) == len(requests) and all(row.effects.get("unfit") for row in done.values())
    if failure and not unfit:
        return await stay_failed(org, state, spec, failure)
    if not failure and not any("report" in row.effects for row in done.values()):
        # One that an earlier process took to its end is at rest, though its turn is not noted yet.
        org.mailroom.work(spec.name)
    rows = await TOOLBOX.perform(caller, requests, done)
    plan = [recruit for row in rows for recruit in row.effects.get("plan", [])]
    report = next((row.effects["report"] for row in rows if "report" in row.effects), None)
    update: dict[str, Any] = {
        "messages": [result_in(row, request.id) for request, row in zip(requests, rows, strict=True)],
        "version": org.version,
    }
    for key in ("versions", "todo"):
        if changed := merge({}, [row.effects[key] for row in rows if key in row.effects]):
            update[key] = changed
    if caller.told != state.get("told", False):
        update["told"] = caller.told
    if report is not None:
        return Command(update={**update, "report": report}, goto=after_report(state["seat"]))
    if rows and all(row.effects.get("unfit") for row in rows):
        return await after_bad(org, spec, state, update, rows[-1].result)
    if state.get("bad"):
        update["bad"] = 0
    if plan:
        update["work_on"] = any(row.effects.get("work_on") for row in rows)
        return _open_team(org, state, update, plan)
    return Command(update=update, goto="think")


def _open_team(
    org: Organisation, state: AgentState, update: dict[str, Any], plan: Sequence[dict[str, Any]]
) -> Command[Step]:
    """Go on to the team that was planned, away from every desk at which nobody is left.

    The teams of a lead are inside one another as far as they overlap, and no further: else every generation of a
    long run would lie one deeper than the one before.
    """
    lead, wave, desks = state["spec"]["name"], state.get("wave", 0), sits_at(state)
    kept = list(desks)
    while kept and org.mailroom.over(lead, kept[-1]):
        kept.pop()
    if len(kept) != wave:
        plan = [{**recruit, "inside": len(kept)} for recruit in plan]
        org.ledger.database.post(*(org.ledger.inside(recruit["name"], len(kept)) for recruit in plan))
    up = len(desks) - len(kept)
    update |= {"plan": plan, "wave": wave + 1, "desks": [*kept, wave], "up": up}
    return Command(update=update, goto="__end__" if up else "team")


@guarded
async def wait(state: AgentState, runtime: Runtime[Organisation]) -> Command[Step]:
    """Sleep until there is mail, the dependencies have reported, or the team is over."""
    org, spec = runtime.context, AgentSpec.load(state["spec"])
    wake = await org.mailroom.wait(spec.name)
    while wake == "work" and not state.get("step") and not await inputs_stand(org, spec):
        org.mailroom.hold(spec.name)
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
    text = next((m.text for m in reversed(said_so_far(org, state)) if isinstance(m, AIMessage)), "")
    report = Report(text or "(nothing)", missing=("the team came to a stand before its lead finished",))
    await hand_in(org, spec, report, f"{spec.name}/{state.get('step', 0)}/stand", "report")
    return Command(update={"report": report.dump()}, goto="__end__")


def build_agent(team: Runnable[Any, Any]) -> StateGraph[AgentState, Organisation, AgentState, AgentState]:
    """The agent's graph, not yet compiled. `team` is the node that grows its team."""
    graph = StateGraph(AgentState, context_schema=Organisation)
    graph.add_node("think", think, destinations=("act", "think", "wait", END))
    graph.add_node("act", act, destinations=("think", "team", "wait", END))
    graph.add_node("team", team)
    graph.add_node("wait", wait, destinations=("think", END))
    graph.add_conditional_edges(START, _enter, ["think", "wait"])
    graph.add_conditional_edges("team", _leave_team, ["team", "wait", END])
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
    if state.get("plan"):
        # The lead has left the desk of the last team for the next one, and perhaps this loop's desk as well.
        return "__end__" if state["seat"] == "desk" and state.get("up") else "team"
    return after_report(state["seat"])


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
