"""What a person wants to be asked before it happens, and what their answer means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from megagraph.errors import UsageError

Matter = Literal["plan", "programs", "cost"]

EVERYONE = "everyone"
"""In the id of a question, in place of an agent: all who would make a model call wait for the answer."""

HOW = "Answer `yes`, `yes, always` (for the rest of the run), or `no: REASON`."

_KNOWN = "Known: `plan`, `programs`, `cost=DOLLARS`; `none` for nothing."
_ANSWER = re.compile(r"\s*(yes|y|no|n)\b[\s,:;.!–—-]*(.*?)\s*", re.I | re.S)


class Approve(BaseModel):
    """What waits for a person's approval. By default nothing does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plan: bool = False
    """Before the first recruits, who are shown."""
    programs: bool = False
    """Before a program of an agent's runs; it is shown."""
    cost_usd: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Before a model call that is expected to bring the cost of the run above so many US dollars."""

    @classmethod
    def parse(cls, words: str | Sequence[str]) -> Approve:
        """`plan`, `programs` and `cost=5`, in a list or with commas between. Raises `UsageError`."""
        given = [words] if isinstance(words, str) else words
        policy: dict[str, bool | float] = {}
        for word in (part.strip() for text in given for part in str(text).split(",")):
            name, sep, value = word.partition("=")
            if name == "cost" and sep:
                policy["cost_usd"] = _dollars(word, value)
            elif word in ("plan", "programs"):
                policy[word] = True
            elif word not in ("", "none"):
                raise UsageError(f"`approve` does not know `{word[:60]}`.", _KNOWN)
        return cls.model_validate(policy)

    def words(self) -> list[str]:
        """What `parse` reads."""
        flags = [name for name in ("plan", "programs") if getattr(self, name)]
        return [*flags, *([] if self.cost_usd is None else [f"cost={self.cost_usd!r}"])]


def _dollars(word: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise UsageError(f"`approve` does not understand `{word[:60]}`: it wants a number of US dollars.", _KNOWN)
    return number


@dataclass(frozen=True)
class Decision:
    """What a person has decided. `always`: and for everything of the kind; `reason`: why not."""

    granted: bool
    always: bool = False
    reason: str = ""

    @classmethod
    def read(cls, answer: str) -> Decision | None:
        """What an answer decides; None where that is not clear."""
        said = _ANSWER.fullmatch(answer)
        if said is None:
            return None
        if said[1].lower() in ("no", "n"):
            return cls(False, reason=said[2])
        always = said[2].lower().rstrip(".!") == "always"
        return cls(True, always) if always or not said[2] else None


def approval_id(who: str, matter: Matter, what: str = "") -> str:
    """The id of the question; the same again after a crash."""
    return f"{who}/{matter}" + (f"/{what}" if what else "")


def matter_of(question: str) -> str:
    """What an approval with this id is about; empty for a question of another kind."""
    parts = question.split("/")
    if parts[0] == EVERYONE:
        return parts[1].partition("=")[0]
    return parts[3] if len(parts) > 3 else ""


def dollars(cost: float) -> str:
    """An amount as people read it: cents, or two digits of what is less."""
    return f"${cost:,.2f}" if cost >= 0.1 or not cost else f"${cost:.2g}"
