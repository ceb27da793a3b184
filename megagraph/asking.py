"""One model call of an organisation: reserved before it is made, journalled before it is used, then settled."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from langchain_core.messages import BaseMessage

from megagraph.conversation import fingerprint
from megagraph.errors import CostNotApproved
from megagraph.events import News
from megagraph.journal import CallRow, Shortened, dump_answer, load_answer
from megagraph.limits import Claim, Use
from megagraph.models import Asker, Models
from megagraph.organisation import Organisation
from megagraph.questions import approve_cost


@dataclass(frozen=True)
class Sent:
    """What is sent to a model, and what is kept of it with the answer."""

    messages: Sequence[BaseMessage]
    heard: Sequence[str] = ()
    """What the agent was told since its last turn."""
    letters: Sequence[str] = ()
    """The ids of the letters among it."""
    shortened: Shortened | None = None
    news: Sequence[News] = ()
    """Events that are written with the answer."""


async def reserve(
    org: Organisation,
    agent: str,
    step: int,
    tokens: int,
    owner: str,
    overhead: int | None = None,
    *,
    may_ask: bool = True,
) -> Claim | None:
    """A claim for one call of about so many tokens, counted for the branches that `owner` is in.

    Where it is said with which `overhead` of the meter's they were counted, it learns from an agent's first call. None
    where `owner` is dismissed meanwhile. Parks where the run stops meanwhile. Raises `CostNotApproved` where it is not
    the owner's loop that waits for the call, and so could not wait for a person on its behalf.
    """
    branches = org.chain(owner) if org.meter.divided else ()
    output = org.meter.usual_output
    costs = [price.expected(tokens, output) for price in org.prices.values() if price]
    expected = Use(1, tokens, output, max(costs, default=0.0))
    call = agent, step, expected, branches, overhead if step == 1 else None
    try:
        claim = await org.meter.reserve(*call)
    except CostNotApproved as needs:
        if not may_ask:
            raise
        claim = await org.meter.reserve(*call) if await approve_cost(org, owner, needs.spent) else None
    if claim is None and not org.gone(owner):
        raise org.park()
    return claim


async def ask_model(
    org: Organisation,
    claim: Claim,
    models: Models,
    asker: Asker,
    sent: Sent,
    *,
    shown_as: str,
) -> CallRow:
    """The answer to a reserved call, durable. Its events are those of the agent `shown_as`."""

    def retrying(reason: str, delay: float) -> None:
        org.emit("retry", shown_as, step=claim.step, reason=reason, delay=round(delay, 2))

    started = time.time()
    try:
        config = org.call_config(claim.agent, claim.step)
        answer = await models.ask(asker, sent.messages, retrying, config, tokens=claim.expected.input_tokens)
    except BaseException:
        org.meter.release(claim)
        raise
    # As it will be read from the journal, without what only its provider has a use for.
    kept = load_answer(dump_answer(answer.message))
    row = CallRow(claim.agent, claim.step, tuple(sent.heard), tuple(sent.letters), kept, sent.shortened)
    usage = answer.message.usage_metadata
    tokens = (usage["input_tokens"], usage["output_tokens"]) if usage else (0, 0)
    cached = (usage.get("input_token_details") or {}).get("cache_read", 0) if usage else 0
    price = org.prices.get(answer.model)
    cost = price.cost(*tokens, cached) if price else None
    told = org.event_rows(sent.news)
    thought = org.event(
        "thought",
        shown_as,
        step=claim.step,
        seconds=round(answer.seconds, 3),
        input_tokens=tokens[0],
        output_tokens=tokens[1],
        cost=cost,
        calls=[call["name"] for call in answer.message.tool_calls],
        text=answer.message.text[:200],
    )
    journalled = org.ledger.call(
        row,
        started=started,
        seconds=answer.seconds,
        model=answer.model,
        request=fingerprint(sent.messages),
        retries=answer.retries,
        cost=cost,
    )
    try:
        told.append(org.ledger.event(thought, whole=shown_as != claim.agent))
        await org.ledger.database.write(journalled, *told)
    finally:
        # Paid it is, kept or not; and a call that is never settled would keep its place from all others.
        org.meter.settle(claim, Use(1, *tokens, cost or 0.0))
    org.called(answer.seconds)
    return row
