"""Reports on what others made: test reports and reviews, which are worth what their authors have looked at.

A file is such a claim by its name: a document with a word of testing and a word of reporting in it
(`test_report.md`, `qa-results.txt`, `playtest.md`), or a word of reviewing (`code_review.md`, `audit.md`).
"""

from __future__ import annotations

import asyncio
import re
from pathlib import PurePosixPath
from typing import Literal

from megagraph.inspection import Finding
from megagraph.ledger import Ledger
from megagraph.organisation import Organisation
from megagraph.placeholders import DOCUMENTS

_TEST = frozenset({"test", "tests", "testing", "tested", "selftest", "playtest", "playtests", "playtesting", "qa"})
_TEST |= {"verification", "validation"}
_TEST_ALONE = frozenset({"playtest", "playtests", "playtesting", "qa", "verification", "validation"})
_REPORT = frozenset({"report", "reports", "result", "results", "log", "summary", "findings", "protocol", "verdict"})
_REVIEW = frozenset({"review", "reviews", "audit", "inspection", "verdict"})
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


def claim_of(path: str) -> Literal["test", "review", ""]:
    """What a file claims, by its name: that something was tested, or that it was reviewed."""
    pure = PurePosixPath(path)
    if pure.suffix.lower() not in DOCUMENTS:
        return ""
    words = {word.lower() for word in _WORD.findall(pure.stem)}
    if words & _TEST and (words & _REPORT or words <= _TEST_ALONE):
        return "test"
    return "review" if words & _REVIEW else ""


async def subjects(ledger: Ledger, author: str) -> list[str] | None:
    """The files an agent's claims are about: what those it depends on deliver, else its team mates and its team.

    They are known by the rows, since all of them may be gone. None where the author is no agent.
    """
    known = await ledger.around(author)
    if known is None:
        return None
    spec, others = known
    paths: set[str] = set()
    for other, report in others:
        paths.update(other.deliverables, report.artefacts if report else ())
    paths = {path.removeprefix("./") for path in paths}
    return sorted(path for path in paths - set(spec.deliverables) if not claim_of(path))


async def backed(org: Organisation, path: str, *, version: str) -> Finding:
    """Whether the author of a claim has looked at what it is about, as that is in `version`, by the ledger.

    A test needs a program that was run, where programs can be run; a review a program or a read. Whatever was
    looked at before the last change of what the claim is about does not count.
    """
    workspace = org.workspace
    author = await asyncio.to_thread(workspace.who_wrote, path)
    if author is None:
        return False, f"there is no file `{path}`."
    owed = await subjects(org.ledger, author)
    if owed is None:
        return True, ""
    there = set(await asyncio.to_thread(workspace.paths, version))
    about = [subject for subject in owed if subject in there]
    must_run = claim_of(path) != "review" and org.sandbox is not None
    if not must_run and not about:
        return True, f"{author} is given no files to look at"
    looks = [
        (tool, seen, at)
        for tool, seen, at in await org.ledger.looks(author)
        if tool != "read_file" or (not must_run and seen in about)
    ]
    done = "run a program" if must_run else "run a program or read what it is about"
    if not looks:
        return False, f"it does not count: its author, {author}, has not {done}"
    for tool, seen, at in reversed(looks):
        changed = await asyncio.to_thread(workspace.changed, about, at, version)
        if not changed:
            what = f"read {seen}" if tool == "read_file" else "ran a program"
            return True, f"{author} {what} in version {at[:12]}, and what it is about is the same since"
    since = ", ".join(changed[:5])
    return False, f"it does not count: its author, {author}, has not {done} since {since} was changed"
