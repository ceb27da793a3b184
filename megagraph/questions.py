"""Questions to a person: asked by agents, or for an approval. Whoever asks waits; everybody else works on."""

from __future__ import annotations

from typing import Any

from langgraph.types import interrupt

from megagraph.approvals import EVERYONE, HOW, Decision, Matter, approval_id, dollars, matter_of
from megagraph.ledger import QuestionKind
from megagraph.organisation import Organisation
from megagraph.specs import BOSS


async def ask(org: Organisation, name: str, id_: str, question: str, kind: QuestionKind = "question") -> str | None:
    """A person's answer to the agent `name`; None where its work is over before there is one.

    The question is a row before anybody waits, and a LangGraph interrupt where the run stops without an answer.
    """
    whose, ledger = BOSS if id_.startswith(f"{EVERYONE}/") else name, org.ledger
    if id_ not in org.answers and org.first("asking", id_):
        await ledger.database.write(ledger.question(id_, whose, question, kind))
        org.emit("asking", whose, id=id_, question=question, about=kind)
    while id_ not in org.answers:
        wake = await org.mailroom.ask(name)
        if wake == "close":
            if whose == name and not id_.startswith(f"{EVERYONE}/"):
                ledger.database.post(ledger.answer(id_, "(withdrawn: the agent's work is over)"))
            return None
        if wake == "park":
            org.answers[id_] = _resumed(id_, whose, question, kind)
            await ledger.database.write(ledger.answer(id_, org.answers[id_]))
    answer = org.answers[id_]
    if org.first("answered", id_):
        org.emit("answered", whose, id=id_, answer=answer[:500])
    return answer


def _resumed(id_: str, name: str, question: str, kind: QuestionKind) -> str:
    """The answer that LangGraph's own `Command(resume=…)` brought. Raises where it has none: the node is made again.

    Such answers are told apart by their order alone. So an approval wants one that names it: `{"id": …, "answer": …}`.
    """
    value: dict[str, Any] = {"id": id_, "agent": name, "question": question, "kind": kind}
    while True:
        answer = interrupt(value)
        if isinstance(answer, dict) and answer.get("id") == id_:
            return str(answer.get("answer", ""))
        if kind == "question":
            return str(answer)


async def approve(org: Organisation, name: str, effect: str, matter: Matter, question: str, what: str = "") -> str:
    """Ask a person to approve what the call `effect` of `name` is to do. Why not; empty where they do.

    `what` tells one content of the same call from another: what has changed since is asked for again.
    """
    if approved_always(org, matter):
        return ""
    id_ = approval_id(effect, matter, what)
    if what and id_ not in org.answers:
        await org.ledger.database.write(org.ledger.unasked(approval_id(effect, matter), but=id_))
    answer = await ask(org, name, id_, f"{question}\n{HOW}", "approval")
    return "nobody has approved it, and your work is over" if answer is None else _objection(answer)


async def approve_cost(org: Organisation, name: str, spent: float) -> bool:
    """Ask a person, once, before the run, which has cost so many US dollars, costs more than it may without asking.

    It is the agent's own loop that waits. False where it is not to go on: its work is over, or the person said no and
    the run stops.
    """
    most = org.approve.cost_usd
    if most is None or approved_always(org, "cost"):
        org.meter.approve()
        return True
    id_ = f"{EVERYONE}/cost={most!r}"
    question = (
        f"The run has cost {dollars(spent)}, and the next model calls bring it above {dollars(most)}. May it go on?"
    )
    answer = await ask(org, name, id_, f"{question}\nAnswer `yes`, or `no: REASON`.", "approval")
    if answer is None:
        return False
    if objection := _objection(answer):
        org.stop(
            f"more than {dollars(most)} was not approved: {objection}. Resume it with a higher `--approve cost=…`,"
            " or with `--approve none`."
        )
        return False
    org.meter.approve()
    return True


def approved_always(org: Organisation, matter: Matter) -> bool:
    """Whether a person has approved everything of this kind for the rest of the run."""
    approvals = (Decision.read(answer) for id_, answer in org.answers.items() if matter_of(id_) == matter)
    return any(decision is not None and decision.always for decision in approvals)


def _objection(answer: str) -> str:
    decision = Decision.read(answer) or Decision(False, reason=answer.strip())
    return "" if decision.granted else decision.reason or "no reason was given"
