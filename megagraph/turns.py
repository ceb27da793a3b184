"""The tool calls of one turn: which may go on at the same time, and what holds where they contradict one another.

The calls are carried out in the order in which the model wrote them, and each one sees what those before it did.
Only neighbours that cannot touch the same thing go on at the same time.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TOGETHER = frozenset(
    {
        "delete_file",
        "edit_file",
        "move_file",
        "read_file",
        "read_letters",
        "recall",
        "run_program",
        "search_files",
        "write_file",
    }
)
"""Tools of which neighbouring calls may go on at the same time, if they touch different paths. All others, those
that were brought from outside too, build on one another: a second call sees what the first one did."""

_PATHS = ("path", "to")
"""Arguments that name a shared file."""


@dataclass(frozen=True)
class Request:
    """One tool call of a turn as the model wrote it. `problem` says why it cannot even be tried."""

    index: int
    id: str
    tool: str
    args: Mapping[str, Any]
    problem: str = ""


@dataclass(frozen=True)
class Done:
    """How a call of the turn has ended."""

    tool: str
    ok: bool
    handed_in: bool = False


def groups(requests: Sequence[Request]) -> list[list[Request]]:
    """Runs of neighbouring calls that may go on at the same time."""
    found: list[list[Request]] = []
    for request in requests:
        last = found[-1] if found else []
        if last and last[0].tool == request.tool in TOGETHER and not any(_collide(other, request) for other in last):
            last.append(request)
        else:
            found.append([request])
    return found


def contradiction(request: Request, requests: Iterable[Request], done: Sequence[Done]) -> str:
    """Why a call of a turn is not carried out, given the others and how those before it have ended; else empty.

    `finish` stands for a turn in which all went well: a model that writes it beside other calls has not seen how
    these would end.
    """
    if any(call.handed_in for call in done):
        return "not carried out: with `finish` your turn was over."
    if request.tool != "finish":
        return ""
    if any(call.tool == "finish" for call in done):
        return "not carried out: the `finish` before it in the same turn was refused. Read why first."
    failed = [call.tool for call in done if not call.ok] + [other.tool for other in requests if other.problem]
    # Prose beside a call may have been read as a call without a name: nothing was meant by it.
    named = next((tool for tool in failed if tool), "")
    if named:
        return (
            f"not handed in: `{named[:64]}` in the same turn was not carried out or failed. Look at its result first."
        )
    return ""


def _collide(one: Request, other: Request) -> bool:
    """Whether two calls of one tool touch the same file, or one a folder above the other's file."""
    if one.tool == "run_program":
        return False
    return any(a == b or a.startswith(f"{b}/") or b.startswith(f"{a}/") for a in _paths(one) for b in _paths(other))


def _paths(request: Request) -> list[str]:
    named = (request.args.get(name) for name in _PATHS)
    return [posixpath.normpath(path).lstrip("/") for path in named if isinstance(path, str)]
