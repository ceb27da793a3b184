"""The tool agents ask a person with. The others work on meanwhile."""

from __future__ import annotations

from pydantic import Field

from megagraph.questions import ask
from megagraph.tools import Args, Caller, Result, Tool


class AskHuman(Args):
    """Arguments of `ask_human`."""

    question: str = Field(min_length=1, max_length=4000)


async def ask_human(caller: Caller, args: AskHuman, effect: str) -> Result:
    answer = await ask(caller.org, caller.spec.name, effect, args.question)
    return Result("Nobody has answered, and your work is over." if answer is None else f"The answer: {answer}")


HUMAN_TOOLS = (Tool("ask_human", AskHuman, ask_human),)
