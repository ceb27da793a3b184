"""The one family of errors.

`ToolError` and `BranchStopped` are signals: the one goes back to the model as its tool's result, the other to the
agent's lead as a failure, and the run goes on.
Every `MegagraphError` stops something a person started; it says what happened and what to do next.
"""

from typing import Any


class ToolError(Exception):
    """A tool said no. The message is written for the model that called it."""


class BranchStopped(Exception):
    """An agent may not go on. Its lead is told why, and decides; the message is written for the lead."""


class CostNotApproved(Exception):
    """The next call brings the run above the cost at which a person is to be asked; `spent` is what it cost so far."""

    def __init__(self, spent: float) -> None:
        super().__init__(spent)
        self.spent = spent


class MegagraphError(RuntimeError):
    """Something a person has to know. `code` is stable; `hint` says what to do next.

    A `RuntimeError`, since LangGraph's server keeps from its clients what errors of unknown kinds say.
    """

    code = "error"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        # As it is, whatever its kind is made from: it may be told to another process.
        return _again, (type(self), self.args, vars(self))


def _again(kind: type[MegagraphError], args: tuple[Any, ...], attributes: dict[str, Any]) -> MegagraphError:
    error = kind.__new__(kind)
    error.args = args
    vars(error).update(attributes)
    return error


class UsageError(MegagraphError):
    """The caller asked for something that cannot be: an unknown model, a broken scenario, a bad name."""

    code = "usage"


class HomeError(MegagraphError):
    """The home folder cannot be used: unwritable, corrupt, or written by a newer megagraph."""

    code = "home"


class RunNotFound(MegagraphError):
    """No run of this home has that id."""

    code = "run-not-found"


class RunBusy(MegagraphError):
    """Another process is working on this run."""

    code = "run-busy"


class ArchiveError(MegagraphError):
    """An exported run cannot be taken in: it is damaged, was tampered with, or comes from a newer megagraph."""

    code = "archive"


class ModelError(MegagraphError):
    """A model call failed for good: retries are used up, or retrying cannot help.

    `kind` says in a word what it was. `everyone`: no other call would fare better, so the run stops.
    """

    code = "model"

    def __init__(self, message: str, hint: str = "", *, kind: str = "failed", everyone: bool = False) -> None:
        super().__init__(message, hint)
        self.kind = kind
        self.everyone = everyone


class LimitReached(MegagraphError):
    """A limit stops the next step. The run pauses and can be resumed with a higher limit."""

    code = "limit"

    def __init__(self, limit: str, allowed: float, agent: str, scope: str = "the run") -> None:
        number = f"{allowed:g}" if isinstance(allowed, float) else allowed
        super().__init__(
            f"limit reached: {limit}={number} of {scope} (at agent `{agent}`).",
            f"Everything is kept; raise it with `megagraph resume RUN --limit {limit}=…`.",
        )
        self.limit = limit
        self.allowed = allowed
        self.agent = agent


class SandboxUnavailable(MegagraphError):
    """No sandbox can be had on this machine, and running programs without one was not allowed."""

    code = "sandbox"
