"""One model call of an organisation: reserved before it is made, journalled before it is used, then settled."""

from __future__ import annotations

import time
from collections.abc import Sequence

from langchain_core.messages import BaseMessage

from megagraph.compaction import used
from megagraph.conversation import fingerprint
from megagraph.ledger import CallRow, dump_answer, load_answer
from megagraph.limits import Claim, Use
from megagraph.models import Asker, Models
from megagraph.organisation import Organisation
from megagraph.questions import approve_cost


async def reserve(
    org: Organisation,
    agent: str,
    step: int,
    messages: Sequence[BaseMessage],
    owner: str,
    *,
    tools: int = 0,
    since: int = 0,
) -> Claim | None:
    """A claim for one call, counted for the branches that `owner` is in; None where it is dismissed meanwhile.

    `tools` are tokens of tools that not all have, and `since` the message from which on answers tell how many the
    conversation takes. Parks where the run stops meanwhile.
    """
    branches = org.chain(owner) if org.meter.divided else ()
    expected = _expected(org, messages, tools, since)
    claim = None
    if await approve_cost(org, owner, expected.cost_usd):
        claim = await org.meter.reserve(agent, step, expected, branches)
    if claim is None and not org.gone(owner):
        raise org.park()
    return claim


async def ask_model(
    org: Organisation,
    claim: Claim,
    models: Models,
    asker: Asker,
    messages: Sequence[BaseMessage],
    heard: Sequence[str],
    letters: Sequence[str],
    *,
    shown_as: str,
) -> CallRow:
    """The answer to a reserved call, durable. Its events are those of the agent `shown_as`."""

    def retrying(reason: str, delay: float) -> None:
        org.emit("retry", shown_as, step=claim.step, reason=reason, delay=round(delay, 2))

    started = time.time()
    try:
        answer = await models.ask(asker, messages, retrying, org.call_config(claim.agent, claim.step))
    except BaseException:
        org.meter.release(claim)
        raise
    # As it will be read from the journal, without what only its provider has a use for.
    kept = load_answer(dump_answer(answer.message))
    row = CallRow(claim.agent, claim.step, tuple(heard), tuple(letters), kept)
    usage = answer.message.usage_metadata
    tokens = (usage["input_tokens"], usage["output_tokens"]) if usage else (0, 0)
    cached = (usage.get("input_token_details") or {}).get("cache_read", 0) if usage else 0
    price = org.prices.get(answer.model)
    cost = price.cost(*tokens, cached) if price else None
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
        request=fingerprint(messages),
        retries=answer.retries,
        cost=cost,
    )
    try:
        await org.ledger.database.write(journalled, org.ledger.event(thought, whole=shown_as != claim.agent))
    finally:
        # Paid it is, kept or not; and a call that is never settled would keep its place from all others.
        org.meter.settle(claim, Use(1, *tokens, cost or 0.0))
    org.called(answer.seconds)
    return row


def _expected(org: Organisation, messages: Sequence[BaseMessage], tools: int, since: int) -> Use:
    """About what a call will use: what the last one did, and what has come since."""
    known, more = used(messages, since)
    tokens = more + (org.meter.overhead + tools if known is None else known)
    output = org.meter.usual_output
    costs = [price.expected(tokens, output) for price in org.prices.values() if price]
    return Use(1, tokens, output, max(costs, default=0.0))
