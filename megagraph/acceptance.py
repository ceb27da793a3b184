"""Whether work is accepted, and on what evidence: when an agent hands in, and again when its files have changed.

A report is accepted when its deliverables are there and are no placeholders, the checks its lead asked for pass, and
no point is open. What was found is true of one version of the files. An accepted report whose files were changed
since is examined again before anybody starts from it and before its lead hands in, and its acceptance is withdrawn,
or given back, by what is found then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from megagraph.checks import BackedCheck, Check, FileCheck, parse_checks
from megagraph.claims import backed, claim_of, subjects
from megagraph.database import Statement
from megagraph.errors import CostNotApproved
from megagraph.events import EventKind, Found
from megagraph.inspection import Bench, carry_out
from megagraph.mailroom import Place
from megagraph.organisation import Organisation
from megagraph.questions import approve_cost
from megagraph.reviewer import review
from megagraph.specs import AgentSpec, Evidence, Report, Verdict

_SHOWN = 600
"""Characters of a failed check's detail that its agent is told."""


@dataclass(frozen=True)
class Examination:
    """What was found of a piece of work. `version` is empty where there was nothing to look at."""

    missing: list[str]
    evidence: tuple[Evidence, ...] = ()
    version: str = ""

    def statements(self, org: Organisation) -> list[Statement]:
        return [org.ledger.found(item) for item in self.evidence]

    def dump(self) -> list[Found]:
        return in_short(self.evidence)


def in_short(evidence: Iterable[Evidence]) -> list[Found]:
    """Evidence as events tell it."""
    return [
        {"check": item.check, "passed": item.passed, "detail": item.detail[:200], "version": item.version}
        for item in evidence
    ]


async def examine(
    org: Organisation, spec: AgentSpec, todo: Mapping[str, Sequence[str]], artefacts: Sequence[str], id_: str
) -> Examination:
    """What an agent owes, and what its checks find; `id_` is the same again after a crash."""
    open_ = [f"the open point “{point}”" for point in todo.get("open", ())]
    if not (spec.deliverables or artefacts or spec.checks):
        return Examination(open_)
    version = org.version
    missing, evidence = await _inspect(org, spec, artefacts, version, id_)
    return Examination([*missing, *open_], evidence, version)


async def _inspect(
    org: Organisation, spec: AgentSpec, artefacts: Sequence[str], version: str, id_: str, *, may_ask: bool = True
) -> tuple[list[str], tuple[Evidence, ...]]:
    there = set(await asyncio.to_thread(org.workspace.paths, version))
    missing, evidence = [], []
    for number, check in enumerate(checks_on(spec, artefacts)):
        bench = bench_of(org, version, f"{id_}/{number}", spec.name, may_ask=may_ask)
        for verdict in await carry_out(check, bench):
            place = f"{id_}/{number}"
            evidence.append(Evidence(place, spec.name, verdict.check, verdict.passed, verdict.detail, version))
            if not verdict.passed:
                missing.append(_told(check, verdict, there))
    return list(dict.fromkeys(missing)), tuple(evidence)


def checks_on(spec: AgentSpec, artefacts: Sequence[str]) -> list[Check]:
    """What is promised or named must be there; a test report or review among it must be backed; and what is asked."""
    paths = dict.fromkeys(path.removeprefix("./") for path in (*spec.deliverables, *artefacts))
    asked = parse_checks(spec.checks)
    files: list[Check] = [FileCheck(file=path) for path in paths if path]
    claims = [BackedCheck(backed=path) for path in paths if claim_of(path)]
    return [*files, *claims, *(check for check in asked if check not in claims and check not in files)]


def _told(check: Check, verdict: Verdict, there: Collection[str]) -> str:
    if isinstance(check, FileCheck) and check.file.removeprefix("./") not in there:
        return f"the file {check.file}"
    return f"{verdict.check} ({' '.join(verdict.detail.split())[:_SHOWN]})"


def bench_of(org: Organisation, version: str, id_: str, agent: str, *, may_ask: bool = True) -> Bench:
    """Where the checks on an agent's work are carried out. In its own loop, they `may_ask` a person and wait."""
    return Bench(
        workspace=org.workspace,
        version=version,
        sandbox=org.sandbox,
        programs=org.programs,
        scratch=org.scratch,
        backed=partial(backed, org, version=version),
        review=partial(review, org, id_=id_, agent=agent, may_ask=may_ask),
        most_seconds=org.programs.wall_seconds,
    )


# --- again ----------------------------------------------------------------------------------------------------


async def inputs_stand(org: Organisation, spec: AgentSpec) -> bool:
    """Whether the reports that an agent waited for still hold."""
    await recheck(org, spec.name, [name for name in spec.depends_on if not org.mailroom.closed(name)])
    return all(map(org.mailroom.released, spec.depends_on))


async def recheck(org: Organisation, asker: str, names: Iterable[str]) -> None:
    """Examine again what was accepted and has changed since, in `asker`'s loop. Leads are told what does not hold."""
    places = [org.mailroom.places[name] for name in names]
    while any(_old(org, place) for place in places):
        try:
            async with org.rechecking:
                for place in places:
                    if _old(org, place) and await _changed(org, place):
                        await _examine_again(org, asker, place)
            return
        except CostNotApproved as needs:
            # Others may examine, or ask as well, while a person thinks.
            if not await approve_cost(org, asker, needs.spent):
                if org.gone(asker):
                    return
                raise org.park() from needs


def _old(org: Organisation, place: Place) -> bool:
    """Whether an open agent's report was accepted once, on evidence of another version than the latest."""
    report = None if place.closed else place.report
    return bool(report and not (report.failed or report.missing) and report.version not in ("", org.version))


async def _changed(org: Organisation, place: Place) -> bool:
    report, spec = place.report, place.spec
    assert report is not None
    paths = {path for check in checks_on(spec, report.artefacts) for path in check.paths}
    if any(claim_of(path) for path in paths):
        paths.update(await subjects(org.ledger, spec.name) or ())
    return bool(await asyncio.to_thread(org.workspace.changed, sorted(paths), report.version, org.version))


async def _examine_again(org: Organisation, asker: str, place: Place) -> None:
    """Examine a report again. The new judgement is durable before anybody acts on it."""
    report, spec, version = place.report, place.spec, org.version
    assert report is not None
    id_ = f"{spec.name}/{version[:12]}/again"
    missing, evidence = await _inspect(org, spec, report.artefacts, version, id_, may_ask=False)
    if place.closed:
        # Its lead has dismissed it meanwhile, and taken what was accepted.
        return
    revised = Report(report.summary, report.artefacts, version=version, withdrawn=tuple(missing))
    await org.ledger.database.write(org.ledger.revised(spec.name, report, revised), *map(org.ledger.found, evidence))
    if place.report is not report:
        # It has handed in anew meanwhile, and that report counts.
        return
    if revised.accepted != report.accepted:
        kind: EventKind = "accepted" if revised.accepted else "withdrawn"
        org.emit(kind, spec.name, why="; ".join(missing), evidence=in_short(evidence))
    org.mailroom.revise(spec.name, report, revised)
    if not revised.accepted and asker != spec.lead:
        why = "; ".join(missing)
        text = (
            f"What {spec.name} handed in does not hold any more, since files were changed: {why}. Who depends on it"
            f" does not start. Write to {spec.name} to have it mended, or dismiss it and do without."
        )
        org.tell(f"notice/{spec.name}/{version}", spec.lead, text)
