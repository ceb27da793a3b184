"""The tool agents ask a person with. The others work on meanwhile."""

from __future__ import annotations

from langgraph.types import interrupt
from pydantic import Field

from megagraph.tools import Args, Caller, Result, Tool


class AskHuman(Args):
    """Arguments of `ask_human`."""

    question: str = Field(min_length=1, max_length=4000)


async def ask_human(caller: Caller, args: AskHuman, effect: str) -> Result:
    org, name = caller.org, caller.spec.name
    if effect not in org.answers:
        await org.ledger.database.write(org.ledger.question(effect, name, args.question))
        org.emit("asking", name, id=effect, question=args.question)
    while effect not in org.answers:
        wake = await org.mailroom.ask(name)
        if wake == "close":
            return Result("Nobody has answered, and your work is over.")
        if wake == "park":
            # Raises where there is no answer yet: the call stays unfinished, and is made again on resume.
            org.answers[effect] = str(interrupt({"id": effect, "agent": name, "question": args.question}))
    answer = org.answers[effect]
    return Result(
        f"The answer: {answer}",
        statements=[org.ledger.answer(effect, answer)],
        after=lambda: org.emit("answered", name, id=effect, answer=answer[:500]),
    )


HUMAN_TOOLS = (Tool("ask_human", AskHuman, ask_human),)
