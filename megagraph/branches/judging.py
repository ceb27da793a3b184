"""What accepting work has looked at: the files that a report is about, and what the author of a claim has run or read.

Where it is not known what an examination has looked at, it has looked at everything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from megagraph.acceptance import checks_on
from megagraph.checks import BackedCheck, FileCheck

if TYPE_CHECKING:
    from megagraph.branches.evidence import Evidence


class Judging:
    """The examinations of one run: when reports were handed in, and again when their files had changed."""

    def __init__(self, evidence: Evidence) -> None:
        self._members = evidence.members
        self._named: dict[str, dict[str, None]] = {}
        for did in evidence.tools:
            if did.tool == "finish":
                self._named.setdefault(did.agent, {}).update(dict.fromkeys(named(did.args)))
        self._again: dict[str, float] = {}
        for finding in evidence.findings:
            if finding.again:
                self._again.setdefault(finding.agent, finding.found)
        self._authors: dict[str, set[str]] = {}
        for change in evidence.changes:
            for path in change.paths:
                self._authors.setdefault(path, set()).add(change.agent)
        self._team: dict[str, list[str]] = {}
        for name, member in self._members.items():
            self._team.setdefault(member.spec.lead, []).append(name)
        self._about = {name: self._files_about(name) for name in self._members}
        self._team_about = {
            lead: frozenset[str]().union(*(self._about[name] for name in team)) for lead, team in self._team.items()
        }
        self._whole = {name for name in self._again if self.files(name, self._all_named(name)) is None}
        self._team_whole = {
            lead: min((self._again[name] for name in team if name in self._whole), default=math.inf)
            for lead, team in self._team.items()
        }
        self.files = lru_cache(maxsize=None)(self.files)  # type: ignore[method-assign]
        self.claimants = lru_cache(maxsize=None)(self.claimants)  # type: ignore[method-assign]

    def files(self, agent: str, artefacts: tuple[str, ...]) -> frozenset[str] | None:
        """The files that were looked at when an agent handed in with these artefacts; None for all."""
        checks = checks_on(self._members[agent].spec, artefacts)
        if not all(isinstance(check, FileCheck) for check in checks):
            return None
        return frozenset(_plain(path for check in checks for path in check.paths))

    def again(self, agent: str, path: str, time: float) -> bool:
        """Whether a look at an agent's accepted work before `time` may have depended on this file."""
        return path in self._about[agent] or (agent in self._whole and self._again[agent] <= time)

    def team_again(self, lead: str, path: str, time: float) -> bool:
        """The same of all in a lead's team."""
        if lead not in self._team:
            return False
        if path in self._team_about[lead]:
            return True
        return self._team_whole[lead] <= time

    def claimants(self, agent: str, artefacts: tuple[str, ...]) -> frozenset[str]:
        """Others whose doings decide whether the claims among an agent's work count."""
        checks = checks_on(self._members[agent].spec, artefacts)
        found: set[str] = set()
        for check in checks:
            if isinstance(check, BackedCheck):
                authors = {agent, *self._authors.get(check.backed.removeprefix("./"), ())} & self._members.keys()
                found |= authors.union(*map(self._others, authors))
        return frozenset(found - {agent})

    def claimants_again(self, agent: str, time: float) -> frozenset[str]:
        """The same of accepted work that was examined again before `time`."""
        return (
            self.claimants(agent, self._all_named(agent)) if self._again.get(agent, math.inf) <= time else frozenset()
        )

    def _files_about(self, agent: str) -> frozenset[str]:
        """The files of which a change makes accepted work be examined again."""
        checks = checks_on(self._members[agent].spec, self._all_named(agent))
        paths = {path for check in checks for path in check.paths}
        if any(isinstance(check, BackedCheck) for check in checks):
            for other in self._others(agent):
                paths.update(self._members[other].spec.deliverables, self._all_named(other))
        return frozenset(_plain(paths))

    def _others(self, author: str) -> Sequence[str]:
        """Those whose files an author's claims are about."""
        spec = self._members[author].spec
        mates = self._team.get(spec.lead, []) if spec.lead else []
        return spec.depends_on or [*mates, *self._team.get(author, [])]

    def _all_named(self, agent: str) -> tuple[str, ...]:
        return tuple(self._named.get(agent, ()))


def named(args: Mapping[str, object]) -> tuple[str, ...]:
    """The artefacts that a call of `finish` names."""
    given = args.get("artefacts")
    return tuple(str(name) for name in given) if isinstance(given, list) else ()


def _plain(paths: Iterable[str]) -> Iterable[str]:
    return (path.removeprefix("./") for path in paths)
