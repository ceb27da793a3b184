"""The rehearsal of national policy making, for a nation of any size: who does what, and hears what from whom.

The leader (or, in a large nation, the secretary of each department) recruits ministers. Each recruits two drafters, who
write different clauses of one file at the same time, and citizens, who object by letter until a drafter has answered
in the text. Ministers write to one another about the matter they share, settle what contradicts, and are sent back
where the nation's budget does not hold. Nobody waits for anybody but those whose work he needs.

What the agents write is in `texts.py`; what they know of one another they have read in letters and files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from megagraph.rehearsal import (
    Brief,
    Call,
    Heard,
    Part,
    Script,
    Turn,
    edit_file,
    finish,
    read_file,
    recruit,
    search_files,
    talk,
    update_todo,
    wait_for,
    write_file,
)

from .texts import (
    CLAUSES,
    FIELDS,
    MATTER_CLAUSE,
    Ministry,
    Nation,
    anchor,
    capital,
    citizen,
    clause,
    clauses,
    matter_line,
    outline,
    settlement,
    share_line,
    slot,
    test_report,
)

Playing: TypeAlias = Generator[Turn, Heard, None]
Waiting: TypeAlias = Generator[Turn, Heard, Heard]
Reviewing: TypeAlias = Generator[Turn, Heard, "Reviewed"]

MATTER = "On what we share"
CUT = "Cut your share of the national budget to"
OUTCOME = "Outcome:"
READ_AT_ONCE = 40
"""Files that are read in one turn."""

_SHARE = re.compile(r"policies/(\w+)\.md:\d+: Share of the national budget: ([\d.]+) %")
_STANDING = re.compile(r"policies/(\w+)\.md, version .*?\n## Where we stand\n\n([^\n]+)", re.S)
_SETTLED = re.compile(r"policies/(\w+)\.md:\d+: (Settled with .*)")


@dataclass(frozen=True)
class Reviewed:
    """What a lead has found in the policies of its ministries."""

    shares: Mapping[str, float]
    """Of the national budget, in per cent, by ministry."""
    settled: Sequence[str]
    """A line for each contradiction that was settled."""
    standings: Mapping[str, str]
    """How each policy says that things stand."""

    @property
    def total(self) -> float:
        return sum(self.shares.values())


def script(size: int = 60) -> Script:
    """The parts of a nation of `size` agents."""
    nation = Nation(size)

    def play(brief: Brief) -> Playing:
        if brief.name in nation.departments:
            return secretary(nation, brief.name)
        if brief.name in nation.ministries:
            return minister(nation, nation.ministries[brief.name], brief)
        name, kind, number = brief.name.rsplit("_", 2)
        ministry = nation.ministries[name]
        return drafter(ministry, int(number)) if kind == "drafter" else tester(ministry, brief.name)

    boss: Part = (lambda brief: leader_of_departments(nation)) if nation.departments else lambda brief: leader(nation)
    return Script({"boss": boss}, default=play)


# What agents do with what they hear


def messages(heard: Heard | Brief, start: str = "") -> dict[str, str]:
    """The letters that begin so, by sender; reports and the system's own words are others."""
    return {sender: text for sender, kind, text in heard.letters if kind == "message" and text.startswith(start)}


def hand_in(summary: str, artefacts: Sequence[str], *before: Call) -> Waiting:
    """Finish; where that is refused because the team is still at work, when it has come to rest."""
    heard = yield [*before, finish(summary, artefacts)]
    while heard.results and heard.results[-1].startswith("Error:"):
        if "still at work" in heard.results[-1]:
            heard = yield "I wait for my team to come to rest."
        heard = yield finish(summary, artefacts)
    return heard


# The leader, and the secretaries of departments


def leader(nation: Nation) -> Playing:
    """The boss of a nation whose ministries are one team."""
    found = yield from review(nation, "boss")
    policies = "\n\n".join(_entries(nation, found, "###"))
    yield from hand_in(
        _summary(nation.below("boss"), found),
        ["nation.md"],
        write_file("nation.md", document(nation, list(found.shares), policies, found.settled, found.total)),
        update_todo([], ["Found the ministries", "Review what they hand in", "Publish nation.md"]),
    )


def leader_of_departments(nation: Nation) -> Playing:
    """The boss of a nation that has a department for each region."""
    todo = ["Found the departments", "Review what they hand in", "Publish nation.md"]
    places = list(nation.departments)
    heard = yield update_todo(todo), recruit(*(_department(nation, name) for name in places))
    yield from wait_for(heard, places)
    policies, settled, total = [], [], 0.0
    for first in range(0, len(places), READ_AT_ONCE):
        heard = yield [read_file(f"departments/{name}.md") for name in places[first : first + READ_AT_ONCE]]
        for text in heard.results:
            body = text.split("## Ministries\n")[-1].replace("](../", "](")
            ministries, _, contradictions = body.partition("## Contradictions settled\n")
            name = re.match(r"departments/(\w+)\.md", text)
            policies.append(f"### {capital(nation.departments[name[1]]) if name else ''}\n\n{ministries.strip()}")
            settled += re.findall(r"^- (.*)$", contradictions, re.M)
            total += sum(map(float, re.findall(r"share ([\d.]+) %", ministries)))
    yield from hand_in(
        f"{len(nation.ministries)} ministries in {len(places)} departments have tested policies, which together claim"
        f" {total:.2f} % of the budget; {len(settled)} contradictions were settled. All of it is in nation.md.",
        ["nation.md"],
        write_file("nation.md", document(nation, list(nation.ministries), "\n\n".join(policies), settled, total)),
        update_todo([], todo),
    )


def secretary(nation: Nation, name: str) -> Playing:
    """The head of a department: founds the ministries of a region, reviews them, and sums them up for the leader."""
    found = yield from review(nation, name)
    lines = "\n\n".join(_entries(nation, found, "####", "../"))
    path = f"departments/{name}.md"
    yield from hand_in(
        _summary(nation.below(name), found),
        [path],
        write_file(
            path,
            f"# The department for {nation.departments[name]}\n\nIts {len(found.shares)} ministries claim"
            f" {found.total:.2f} % of the national budget and may claim {nation.budget():.2f} %.\n\n"
            f"## Ministries\n\n{lines}\n\n## Contradictions settled\n\n"
            + "\n".join(f"- {line.replace('](', '](../')}" for line in found.settled)
            + "\n",
        ),
        update_todo([], ["Found the ministries", "Review what they hand in"]),
    )


def review(nation: Nation, lead: str) -> Reviewing:
    """Found the ministries below `lead`, see that their budgets fit together, and read what they have written."""
    ministries = {ministry.name: ministry for ministry in nation.below(lead)}
    todo = ["Found the ministries", "Review what they hand in", *(["Publish nation.md"] if lead == "boss" else [])]
    heard = yield update_todo(todo), recruit(*(_ministry(nation, ministry) for ministry in ministries.values()))
    yield from wait_for(heard, list(ministries))
    pattern = "policies/" if lead == "boss" else f"policies/{lead}_*"
    while True:
        heard = yield (
            search_files("^Share of the national budget: .*", pattern),
            search_files("^Settled with .*", pattern),
            update_todo(todo[1:], todo[:1]),
        )
        shares = {name: float(share) for name, share in _SHARE.findall(heard.text)}
        excess = sum(shares.values()) - nation.budget()
        if excess < 0.005:
            break
        greedy = sorted(shares, key=lambda name: -shares[name])[: max(3, len(shares) // 8)]
        cut = math.ceil(excess / len(greedy) * 100 - 1e-9) / 100
        heard = yield [
            talk(name, f"{CUT} {shares[name] - cut:.2f} %: together you claim {excess:.2f} % more than there is.")
            for name in greedy
        ]
        yield from wait_for(heard, greedy)
    settled = list(_contradictions(nation, heard.text))
    standings: dict[str, str] = {}
    paths = [ministry.policy for ministry in ministries.values()]
    for first in range(0, len(paths), READ_AT_ONCE):
        heard = yield [read_file(path) for path in paths[first : first + READ_AT_ONCE]]
        standings |= {found[1]: found[2] for text in heard.results if (found := _STANDING.search(text))}
    return Reviewed(shares, settled, standings)


def document(nation: Nation, names: Sequence[str], policies: str, settled: Sequence[str], total: float) -> str:
    """The one document of the nation."""
    listed = "\n".join(
        f"  - [{nation.ministries[name].full_title}]({nation.ministries[name].policy})" for name in sorted(names)
    )
    contradictions = "\n\n".join(f"### Contradiction {n}\n\n{line}" for n, line in enumerate(settled, 1))
    heads = ["The budget", "Policies by ministry", "Contradictions settled"]
    return (
        "# The policy of the nation\n\n## Contents\n\n"
        + "\n".join(f"- [{head}](#{anchor(head)})" for head in heads[:2])
        + f"\n{listed}\n- [{heads[2]}](#{anchor(heads[2])})\n\n"
        f"## {heads[0]}\n\n{len(names)} ministries claim {total:.2f} % of the national budget together.\n\n"
        f"## {heads[1]}\n\n{policies}\n\n## {heads[2]}\n\n{contradictions}\n"
    )


def _entries(nation: Nation, found: Reviewed, mark: str, up: str = "") -> Iterator[str]:
    """What a summary says of each ministry; `up` leads from its folder to the top."""
    for name, share in found.shares.items():
        ministry = nation.ministries[name]
        listed = "; ".join(
            f"[{capital(topic)}]({ministry.link(n, f'{up}policies/')})"
            for n, topic in enumerate(FIELDS[ministry.field], 1)
        )
        yield (
            f"{mark} {ministry.full_title}\n\n{found.standings[name]}\n\n[Policy]({up}{ministry.policy}), [test by"
            f" {len(ministry.citizens)} citizens]({up}{ministry.test}), share {share:.2f} %. {listed}."
        )


def _contradictions(nation: Nation, text: str) -> Generator[str, None, None]:
    """A line for each pair of ministries that has settled something, as one of them tells it."""
    for name, line in _SETTLED.findall(text):
        ministry = nation.ministries[name]
        if name < ministry.partner:
            told = line.replace("](", "](policies/")
            link = ministry.link(MATTER_CLAUSE, "policies/")
            yield f"[{ministry.full_title}]({link}) on “{ministry.matter[0]}”. {told}"


def _summary(ministries: Sequence[Ministry], found: Reviewed) -> str:
    tests = sum(len(ministry.citizens) for ministry in ministries)
    return (
        f"{len(found.shares)} ministries have handed in policies, which {tests} citizens tested. They claim"
        f" {found.total:.2f} % of the budget; {len(found.settled)} contradictions were settled."
    )


def _department(nation: Nation, name: str) -> dict[str, object]:
    place, count = nation.departments[name], len(nation.below(name))
    return {
        "name": name,
        "role": f"Secretary of the department for {place}",
        "instructions": f"Found {count} ministries for {place}, each named {name}_<field>. Each makes its policy in"
        f" policies/{name}_<field>.md and tests it in tests/{name}_<field>.md. Together they may claim"
        f" {nation.budget():.2f} % of the national budget. Let them settle what contradicts between them. Sum them up"
        f" in departments/{name}.md: each ministry with its share, and the contradictions that were settled.",
        "deliverables": [f"departments/{name}.md"],
    }


def _ministry(nation: Nation, ministry: Ministry) -> dict[str, object]:
    shared = (
        f" With {ministry.partner} you share one matter, “{ministry.matter[0]}”: give it a clause, write to"
        f" {ministry.partner} what yours says, and settle it where the two contradict."
        if ministry.partner
        else ""
    )
    return {
        "name": ministry.name,
        "role": f"Minister of {ministry.title.lower()} for {ministry.place}",
        "instructions": f"Make the policy of {ministry.place} on {ministry.title.lower()} in {ministry.policy}:"
        f" {', '.join(FIELDS[ministry.field])}. Claim about {ministry.share:.1f} % of the national budget. Split the"
        f" clauses among drafters, have the draft tested by {len(ministry.citizens)} citizens who object to concrete"
        f" clauses, have it revised, and record objections, answers and outcomes in {ministry.test}.{shared}",
        "deliverables": [ministry.policy, ministry.test],
    }


# A ministry


def minister(nation: Nation, ministry: Ministry, brief: Brief) -> Playing:
    todo = ["Outline", "Clauses", "Test by citizens", "What we share with others"]
    heard = yield (
        update_todo(todo),
        write_file(ministry.policy, outline(ministry, nation.ministries[ministry.see])),
        recruit(*(_drafter(ministry, n) for n in CLAUSES), *(_citizen(ministry, name) for name in ministry.citizens)),
    )
    reports: dict[str, list[str]] = {name: [] for name in ministry.citizens}
    # A partner may be far ahead, and have written before the first turn.
    shared = messages(brief, MATTER)
    while True:
        for sender, kind, text in heard.letters:
            if kind == "report" and sender in reports:
                reports[sender].append(text)
        shared |= messages(heard, MATTER)
        if waiting := [name for name, texts in reports.items() if not any(t.startswith(OUTCOME) for t in texts)]:
            heard = yield f"I wait for {', '.join(waiting)}."
        else:
            break
    heard = yield [
        update_todo(todo[3:], todo[:3]),
        write_file(ministry.test, test_report(ministry, reports)),
        *([talk(ministry.partner, f"{MATTER}, we say: {matter_line(ministry)}")] if ministry.partner else []),
    ]
    shared |= messages(heard, MATTER)
    while ministry.partner and ministry.partner not in shared:
        heard = yield f"I wait for word from {ministry.partner}."
        shared |= messages(heard, MATTER)
    settled = []
    if ministry.partner:
        new = settlement(ministry, nation.ministries[ministry.partner])
        settled = [edit_file(ministry.policy, matter_line(ministry), new)]
    share, paths = ministry.share, [ministry.policy, ministry.test]
    heard = yield from hand_in(
        f"{ministry.full_title} has its policy: {MATTER_CLAUSE} clauses, tested by {len(reports)} citizens, who all had"
        f" an answer. It claims {share:.2f} % of the budget.",
        paths,
        *settled,
        update_todo([], todo),
    )
    while True:
        wish = re.search(rf"{CUT} ([\d.]+) %", heard.text)
        if wish is None:
            heard = yield "There is nothing to change."
            continue
        before, share = share, float(wish[1])
        heard = yield (
            edit_file(ministry.policy, share_line(before), share_line(share)),
            finish(f"{ministry.full_title} now claims {share:.2f} % of the budget instead of {before:.2f} %.", paths),
        )


def _drafter(ministry: Ministry, number: int) -> dict[str, object]:
    numbers = CLAUSES[number]
    topics = ", ".join(f"{n} ({FIELDS[ministry.field][n - 1]})" for n in numbers)
    return {
        "name": ministry.drafters[number - 1],
        "role": f"Drafter of clauses {numbers[0]} to {numbers[-1]}",
        "instructions": f"Write the clauses {topics} into {ministry.policy}, where their place is kept: aims with"
        " numbers and dates. When citizens object, answer in the text of the clause, and tell them what it now says.",
    }


def _citizen(ministry: Ministry, name: str) -> dict[str, object]:
    person = citizen(ministry, name)
    return {
        "name": name,
        "role": f"Citizen: {person.who}",
        "instructions": f"Read {ministry.policy} as who you are: {person.who}. Object to the clause that meets your"
        " life, by letter to its drafter, and report to me. When you have the answer, report whether you accept it;"
        f" begin with “{OUTCOME}”.",
        "depends_on": list(ministry.drafters),
    }


def drafter(ministry: Ministry, number: int) -> Playing:
    numbers = CLAUSES[number]
    heard = yield (
        read_file(ministry.policy),
        edit_file(ministry.policy, slot(numbers), clauses(ministry, numbers)),
    )
    heard = yield finish(f"Clauses {', '.join(map(str, numbers))} are written and open to objections.")
    answered = 0
    while True:
        objectors = [citizen(ministry, name) for name in messages(heard) if name in ministry.citizens]
        if not objectors:
            heard = yield "I wait for objections."
            continue
        answered += len(objectors)
        amended: dict[int, str] = {}
        for person in objectors:
            amended[person.clause] = f"{amended.get(person.clause, '')}\n{person.amendment}"
        heard = yield (
            *(
                edit_file(ministry.policy, last, last + more)
                for n, more in amended.items()
                for last in clause(ministry, n)[-1:]
            ),
            *(talk(p.name, f"Clause {p.clause} now says: {p.amendment}") for p in objectors),
            finish(f"{answered} objection{'s' * (answered > 1)} answered in the text."),
        )


def tester(ministry: Ministry, name: str) -> Playing:
    person, drafter_ = citizen(ministry, name), ministry.drafters[citizen(ministry, name).drafter - 1]
    yield read_file(ministry.policy)
    heard = yield (
        talk(drafter_, person.objection),
        finish(f"{person.objection} I have written so to {drafter_}."),
    )
    while True:
        if answer := messages(heard).get(drafter_):
            verdict = "accepted" if person.accepts else f"accepted with a reservation, since {person.reservation}"
            heard = yield finish(f"{OUTCOME} {verdict}. {drafter_} answered: “{answer}”")
        else:
            heard = yield "I wait for the answer."
