"""Regular-expression search over text files, bounded in time and in what it shows."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import regex  # type: ignore[import-untyped]

from megagraph.errors import ToolError

SEARCH_SECONDS = 2.0
"""What one search may take: an expression can be made to run for years."""
MAX_EXPRESSION = 1000
"""Characters of an expression."""
MAX_LINE = 300
"""Characters of a found line that are shown, around the match."""


@dataclass(frozen=True)
class Match:
    """A line that was found. Lines count from 1."""

    path: str
    line: int
    text: str


@dataclass(frozen=True)
class Found:
    """What a search found; not `complete` if the limit or the time was reached."""

    matches: tuple[Match, ...]
    complete: bool

    def text(self) -> str:
        """A line for each match, and a last one if there may be more."""
        lines = [f"{match.path}:{match.line}: {match.text}" for match in self.matches]
        if not self.complete:
            lines.append("[… there may be more; use a narrower expression or pattern …]")
        return "\n".join(lines) or "No line matches."


def search_texts(texts: Iterable[tuple[str, str]], expression: str, limit: int) -> Found:
    """The first `limit` lines in which `expression` is found; `texts` are pairs of path and text.

    `^` and `$` mean the ends of a line. Raises `ToolError` where the expression is not one, or where nothing
    was found within `SEARCH_SECONDS`.
    """
    if len(expression) > MAX_EXPRESSION:
        raise ToolError(f"The regular expression is longer than {MAX_EXPRESSION} characters.")
    try:
        compiled = regex.compile(expression, regex.MULTILINE)
    except (regex.error, OverflowError, RecursionError) as error:
        raise ToolError(f"{expression!r} is not a regular expression: {error}.") from None
    deadline = time.monotonic() + SEARCH_SECONDS
    found: list[Match] = []
    try:
        for path, text in texts:
            line, counted, start = 1, 0, 0
            while start <= len(text):
                if (left := deadline - time.monotonic()) <= 0:
                    raise TimeoutError
                # `concurrent` lets other threads run meanwhile: one of them holds the event loop.
                match = compiled.search(text, start, timeout=left, concurrent=True)
                if match is None or (match.start() == len(text) and text.endswith("\n")):
                    break
                if len(found) == limit:
                    return Found(tuple(found), complete=False)
                line += text.count("\n", counted, match.start())
                counted = match.start()
                found.append(Match(path, line, _shown(text, counted)))
                end = text.find("\n", counted)
                start = len(text) + 1 if end < 0 else end + 1
    except TimeoutError:
        if not found:
            raise ToolError(
                f"The search took more than {SEARCH_SECONDS:g} s. "
                "Use a simpler expression, or a pattern that means fewer files."
            ) from None
        return Found(tuple(found), complete=False)
    return Found(tuple(found), complete=True)


def _shown(text: str, at: int) -> str:
    begin = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    end = len(text) if end < 0 else end
    left = begin if at - begin < MAX_LINE // 2 else at - MAX_LINE // 3
    right = min(end, left + MAX_LINE)
    return f"{'…' if left > begin else ''}{text[left:right].rstrip()}{'…' if right < end else ''}"
