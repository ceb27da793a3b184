"""What happens when an agent cannot go on: its lead is told, siblings go on, and the boss's failure stops the run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from typing import Any, Literal, TypeVar, cast

from langchain_core.messages import HumanMessage
from langgraph.errors import GraphBubbleUp
from langgraph.runtime import Runtime
from langgraph.types import Command

from megagraph.acceptance import in_short
from megagraph.answers import MAX_IN_A_ROW
from megagraph.conversation import heard_before, note
from megagraph.errors import BranchStopped, LimitReached, ModelError, UsageError
from megagraph.events import news_of_closed, news_of_letters, news_of_report
from megagraph.gate import Left
from megagraph.guards import FRESH, Finding
from megagraph.organisation import Organisation
from megagraph.specs import AgentSpec, Evidence, Letter, Report
from megagraph.state import AgentState, Step, after_report

_FAILED = "I failed: "
_CHOICE = "\nWrite to it to let it try again, recruit another in its place, or dismiss it and do without."

Node = TypeVar("Node", bound=Callable[..., Awaitable[Command[Any]]])


def guarded(node: Node) -> Node:
    """Turn what goes wrong inside an agent into a failure that its lead is told of; siblings go on.

    For the boss, who has no lead, it stops the run where it is.
    """

    @wraps(node)
    async def guarded_node(state: AgentState, runtime: Runtime[Organisation]) -> Command[Any]:
        if runtime.context is None:
            # LangGraph's own calls and Studio can look at an organisation; only a run has what it works with.
            raise UsageError(
                "an organisation works in its run only.",
                "Go on with `MegaGraph.resume`, or from another moment with `Run.branch`.",
            )
        org, spec = runtime.context, AgentSpec.load(state["spec"])
        try:
            return await node(state, runtime)
        except GraphBubbleUp:
            raise
        except Left as error:
            raise org.park() from error
        except LimitReached as error:
            if not org.stopped:
                used = allowed = error.allowed
                org.emit(
                    "limit", spec.name, limit=error.limit, used=used, allowed=allowed, reached=True, why=error.message
                )
            org.stop(error.message)
            raise org.park() from error
        except Exception as error:
            if isinstance(error, ModelError) and error.everyone:
                _stop_for_all(org, spec, error)
                raise org.park() from error
            if spec.lead and org.mailroom.closed(spec.name):
                # It was dismissed meanwhile: nobody is told of its failure any more.
                return Command(goto="__end__")
            told = isinstance(error, ModelError | BranchStopped)
            reason = str(error) if told else f"{type(error).__name__}: {error}"
            org.emit("failed", spec.name, error=reason[:2000], problem=_problem(error))
            if not spec.lead:
                org.failed = True
                org.stop(f"the boss failed: {reason}")
                raise org.park() from error
            if node.__name__ == "think":
                # The call that failed was a step too: each failure has a letter of its own.
                state = {**state, "step": state.get("step", 0) + 1}
            return await fail(org, state, spec, reason)

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


async def fail(org: Organisation, state: AgentState, spec: AgentSpec, reason: str) -> Command[Step]:
    """Hand in a failure. The agent can still be woken by a letter, and then tries again, knowing what went wrong.

    The letters it has not come to are answered by the failure: they do not wake it once more.
    """
    report = Report(f"{_FAILED}{reason}", failed=True)
    letters = org.mailroom.places[spec.name].unread
    ids = tuple(letter.id for letter in letters)
    await hand_in(org, spec, report, _id_of_failure(spec.name, state.get("step", 0)), "failure", settles=ids)
    return _failed(org, state, spec, report, letters)


def failure_at(org: Organisation, spec: AgentSpec, step: int) -> Letter | None:
    """The failure that an agent has handed in at a step.

    A node that is to take that step finds one only where a process died before the checkpoint.
    """
    return org.mailroom.told_lead(spec.name, _id_of_failure(spec.name, step))


async def stay_failed(org: Organisation, state: AgentState, spec: AgentSpec, failure: Letter) -> Command[Step]:
    """What `fail` came to in an earlier process. What its lead has written since is not settled by it."""
    report = Report(failure.text.removesuffix(_CHOICE), failed=True)
    return _failed(org, state, spec, report, await org.ledger.letters_of(failure.settles))


def _id_of_failure(name: str, step: int) -> str:
    return f"{name}/{step}/failure"


def _failed(
    org: Organisation, state: AgentState, spec: AgentSpec, report: Report, letters: Sequence[Letter]
) -> Command[Step]:
    org.mailroom.read(spec.name, [letter.id for letter in letters])
    reason = report.summary.removeprefix(_FAILED)
    heard = [*heard_before(org, spec, state, letters), note(f"You could not go on, and your lead was told: {reason}")]
    update = {
        "step": state.get("step", 0),
        "report": report.dump(),
        "messages": [HumanMessage(text) for text in heard],
        "seen": [letter.id for letter in letters],
        "guards": FRESH,
    }
    return Command(update=update, goto=after_report(state["seat"]))


async def hand_in(
    org: Organisation,
    spec: AgentSpec,
    report: Report,
    id_: str,
    kind: Literal["report", "failure"],
    evidence: Sequence[Evidence] = (),
    settles: tuple[str, ...] = (),
) -> None:
    """End the agent's team and file its report. Of one that was dismissed meanwhile, nothing is taken any more."""
    if org.mailroom.closed(spec.name):
        return
    text = report.text() + (_CHOICE if kind == "failure" else "")
    letters = [Letter(id_, spec.name, spec.lead, kind, text, settles)] if spec.lead else []
    team = org.mailroom.close_team(spec.name)
    news = [] if report.failed else news_of_report(spec.name, report, in_short(evidence))
    await org.ledger.database.write(
        *org.ledger.closed(team),
        org.ledger.reported(spec.name, report),
        *map(org.ledger.found, evidence),
        *map(org.ledger.letter, letters),
        *org.event_rows([*news_of_closed(team), *news, *news_of_letters(letters)]),
    )
    org.let_go(team)
    org.mailroom.report(spec.name, report)
    for letter in letters:
        org.mailroom.deliver(letter)


async def after_bad(
    org: Organisation, spec: AgentSpec, state: AgentState, update: dict[str, Any], why: str, *, final: bool = False
) -> Command[Step]:
    """Another try after an answer of which nothing could be used; after too many in a row, or at once, a failure."""
    bad = state.get("bad", 0) + 1
    if bad < MAX_IN_A_ROW and not final:
        return Command(update={**update, "bad": bad}, goto="think")
    reason = why if final else f"{bad} answers in a row could not be used, the last because {why}"
    update = {**update, "bad": 0}
    state = cast(AgentState, {**state, **update})
    if earlier := failure_at(org, spec, state["step"]):
        return both(update, await stay_failed(org, state, spec, earlier))
    org.emit("failed", spec.name, error=reason, problem="declined" if final else "unfit")
    if not spec.lead:
        org.failed = True
        org.stop(f"the boss failed: {reason}")
        return Command(update=update, goto="think")
    return both(update, await fail(org, state, spec, reason))


def both(update: dict[str, Any], failure: Command[Step]) -> Command[Step]:
    """A failure after what has changed in the agent's state before it."""
    failed = cast(dict[str, Any], failure.update)
    for key in ("messages", "seen"):
        failed[key] = [*update.get(key, []), *failed[key]]
    return Command(update={**update, **failed}, goto=failure.goto)


def stop_branch(org: Organisation, spec: AgentSpec, finding: Finding) -> Command[Step]:
    """End the branch of an agent that goes in circles. The boss has no lead: the run stops, and can be resumed."""
    org.emit("guard", spec.name, guard=finding.guard, level=finding.level, why=f"it {finding.why}")
    if spec.lead:
        raise BranchStopped(f"I go in circles: {spec.name} {finding.why}.")
    org.failed = True
    org.stop(f"the boss goes in circles: it {finding.why}.")
    return Command(update={"guards": FRESH}, goto="think")


def warn(org: Organisation, spec: AgentSpec, step: int, findings: Sequence[Finding]) -> None:
    """Say that an agent goes in circles: to those who watch, and to its lead where the agent has not heeded a note."""
    for finding in findings:
        org.emit("guard", spec.name, guard=finding.guard, level=finding.level, why=f"it {finding.why}")
        if finding.level == "lead" and spec.lead:
            text = f"{spec.name} goes in circles: it {finding.why}. If this goes on, it will be stopped."
            org.tell(f"{spec.name}/{step}/{finding.guard}", spec.lead, text)
