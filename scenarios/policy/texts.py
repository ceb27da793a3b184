"""What the agents of the rehearsal write: the same agent always writes the same, and no two of them alike.

A nation of any size is laid out here, too: which ministries it has, who works in them, which claim to the budget each
makes, and on which matter it contradicts the ministry it is paired with.
"""

from __future__ import annotations

import functools
import math
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

WORDS: Mapping[str, Any] = yaml.safe_load((Path(__file__).parent / "vocabulary.yaml").read_text(encoding="utf-8"))
FIELDS: Mapping[str, list[str]] = WORDS["fields"]
REGIONS = [f"{first} {second}" for second in WORDS["regions"]["second"] for first in WORDS["regions"]["first"]]

UNIT = 6
"""Agents of a ministry: a minister, two drafters and three citizens; some have more citizens."""
CLAUSES = {1: (1, 2, 3), 2: (4, 5)}
"""The clauses that each drafter writes. The one after them is the minister's own."""
MATTER_CLAUSE = 6
OVER = 1.04
"""What the ministries claim together at first, as a part of the budget there is."""


@dataclass(frozen=True)
class Ministry:
    """One ministry, as its minister is told to build it."""

    name: str
    field: str
    lead: str
    place: str
    """Where it governs, such as `the nation`."""
    share: float
    """Per cent of the national budget that it claims at first."""
    citizens: tuple[str, ...]
    partner: str = ""
    """The ministry with which it shares a matter."""
    matter: tuple[str, str] = ("", "")
    """The matter and its unit."""
    value: int = 0
    """What it first says on the matter."""
    see: str = ""
    """The ministry that its text refers to."""

    @property
    def title(self) -> str:
        return self.field.replace("_", " ").capitalize()

    @property
    def full_title(self) -> str:
        return self.title if self.place == "the nation" else f"{self.title} in {self.place}"

    @property
    def policy(self) -> str:
        return f"policies/{self.name}.md"

    @property
    def test(self) -> str:
        return f"tests/{self.name}.md"

    @property
    def drafters(self) -> tuple[str, ...]:
        return tuple(f"{self.name}_drafter_{number}" for number in CLAUSES)

    def heading(self, clause: int) -> str:
        return f"{clause}. {capital(FIELDS[self.field][clause - 1] if clause < MATTER_CLAUSE else self.matter[0])}"

    def link(self, clause: int, folder: str = "") -> str:
        """The address of a clause, seen from a file in the folder of policies or, with `folder`, from elsewhere."""
        return f"{folder}{self.name}.md#{anchor(self.heading(clause))}"


@dataclass
class Nation:
    """The ministries of a nation of `size` agents, in departments by region where one team would be too large."""

    size: int
    ministries: dict[str, Ministry] = field(default_factory=dict)
    departments: dict[str, str] = field(default_factory=dict)
    """The regions by the names of their secretaries; none in a small nation."""

    def __post_init__(self) -> None:
        units = (self.size - 1) // UNIT
        if units > len(FIELDS):
            regions = REGIONS[: round(math.sqrt(units))]
            self.departments = {region.lower().replace(" ", "_"): f"the {region}" for region in regions}
        units = (self.size - 1 - len(self.departments)) // UNIT
        spare = self.size - 1 - len(self.departments) - units * UNIT
        leads = list(self.departments) or ["boss"]
        for number, lead in enumerate(leads):
            count = units // len(leads) + (number < units % len(leads))
            self._found(lead, list(FIELDS)[:count], spare if number == 0 else 0)

    def below(self, lead: str) -> list[Ministry]:
        return [ministry for ministry in self.ministries.values() if ministry.lead == lead]

    def budget(self) -> float:
        """Per cent of the national budget for what one lead is responsible for."""
        return math.floor(10_000 / max(1, len(self.departments))) / 100

    def _found(self, lead: str, fields: list[str], spare: int) -> None:
        """The ministries below one lead; each of the first few has a citizen more."""
        names = [f"{lead}_{name}" if self.departments else name for name in fields]
        weights = [1 + random.Random(f"weight {name}").random() * 2 for name in names]
        for i, (name, weight) in enumerate(zip(names, weights, strict=True)):
            extra = spare // len(names) + (i < spare % len(names))
            partner = names[i ^ 1] if i ^ 1 < len(names) else ""
            self.ministries[name] = Ministry(
                name=name,
                field=fields[i],
                lead=lead,
                place=self.departments.get(lead, "the nation"),
                share=round(weight / sum(weights) * self.budget() * OVER, 2),
                citizens=tuple(f"{name}_citizen_{n}" for n in range(1, UNIT - 2 + extra)),
                partner=partner,
                see=names[i - 1],
                **_position(sorted((name, partner)) if partner else [name], name, i < 2),
            )


def _position(pair: list[str], name: str, must_differ: bool) -> dict[str, Any]:
    """What a ministry says on the matter that it shares; one pair in eight is of one mind."""
    dice = random.Random(" ".join(pair))
    subject, unit, least, most = dice.choice(WORDS["matters"])
    values = dice.sample(range(least, most + 1, max(1, (most - least) // 20)), 2)
    if dice.random() < 1 / 8 and not must_differ:
        values[1] = values[0]
    return {"matter": (subject, unit), "value": values[pair.index(name)]}


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def anchor(heading: str) -> str:
    """What links call a heading, as GitHub does."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def amount(value: int, unit: str) -> str:
    return f"{value} {unit}".strip()


def some_region(dice: random.Random) -> str:
    return f"the {dice.choice(REGIONS)}"


def say(dice: random.Random, kind: str, given: Mapping[str, Any], which: int | None = None) -> str:
    """A sentence of one kind, any or the one meant, filled with what is given and with chance for the rest."""
    words: dict[str, Any] = {
        "actor": dice.choice(WORDS["actors"]),
        "group": dice.choice(WORDS["groups"]),
        "means": dice.choice(WORDS["means"]),
        "region": some_region(dice),
        "year": dice.randint(2027, 2036),
        "past": dice.randint(2015, 2024),
        "number": dice.randint(12, 96),
        "small": dice.randint(2, 11),
        **given,
    }
    words |= {capital(name): capital(str(word)) for name, word in words.items()}
    sentence: str = dice.choice(WORDS[kind]) if which is None else WORDS[kind][which]
    return sentence.format_map(words)


@functools.lru_cache(maxsize=4096)
def clause(ministry: Ministry, number: int) -> tuple[str, ...]:
    """The sentences of a clause, as it is first drafted."""
    dice = random.Random(f"{ministry.name} clause {number}")
    topic = FIELDS[ministry.field][number - 1]
    return tuple(say(dice, kind, {"topic": topic}) for kind in ("promise", "by", "serves", "review"))


def clauses(ministry: Ministry, numbers: tuple[int, ...]) -> str:
    return "\n\n".join(f"### {ministry.heading(n)}\n\n" + "\n".join(clause(ministry, n)) for n in numbers)


def slot(numbers: tuple[int, ...]) -> str:
    """What stands in a policy until its drafter has written."""
    return f"<!-- clauses {', '.join(map(str, numbers))} -->"


def share_line(share: float) -> str:
    return f"Share of the national budget: {share:.2f} %"


def matter_line(ministry: Ministry) -> str:
    return f"{ministry.matter[0]}: {amount(ministry.value, ministry.matter[1])}."


def outline(ministry: Ministry, see: Ministry) -> str:
    """A policy as its minister begins it, with places for the drafters."""
    dice = random.Random(f"{ministry.name} outline")
    topics = dice.sample(FIELDS[ministry.field], 2)
    words = {"topic": topics[0], "other": topics[1], "place": ministry.place, "title": ministry.title.lower()}
    standing = say(dice, "standings", words)
    aims = " ".join(say(dice, "aims", words) for _ in range(2))
    slots = "\n\n".join(slot(numbers) for numbers in CLAUSES.values())
    other = dice.randint(1, MATTER_CLAUSE - 1)
    return (
        f"# {ministry.full_title}\n\n{share_line(ministry.share)}\n\n"
        f"## Where we stand\n\n{standing}\n{aims}\n\n## Clauses\n\n{slots}\n\n"
        f"### {ministry.heading(MATTER_CLAUSE)}\n\n{matter_line(ministry)}\n\n"
        f"## How it is measured\n\n{_measures(ministry)}\n\n"
        f"It is to be read with [{see.full_title}, clause {other}]({see.link(other)}).\n"
    )


def _measures(ministry: Ministry) -> str:
    dice = random.Random(f"{ministry.name} measures")
    return "\n".join(
        f"- {capital(topic)}: {dice.randint(5, 60)} of 100 now, {dice.randint(61, 98)} of 100 in"
        f" {dice.randint(2028, 2036)}, counted by {dice.choice(WORDS['actors'])}."
        for topic in FIELDS[ministry.field]
    )


@dataclass(frozen=True)
class Citizen:
    """A person who tests a policy, and what that person makes of it."""

    name: str
    who: str
    clause: int
    objection: str
    amendment: str
    accepts: bool
    reservation: str

    @property
    def drafter(self) -> int:
        return next(number for number, numbers in CLAUSES.items() if self.clause in numbers)


@functools.lru_cache(maxsize=4096)
def citizen(ministry: Ministry, name: str) -> Citizen:
    dice = random.Random(name)
    profession, concern = dice.choice(list(WORDS["professions"].items()))
    region = some_region(dice) if ministry.place == "the nation" else ministry.place
    number, age = dice.randint(1, MATTER_CLAUSE - 1), dice.randint(17, 84)
    kinds = list(range(len(WORDS["objections"])))
    random.Random(f"{ministry.name} objections").shuffle(kinds)
    which = kinds[ministry.citizens.index(name) % len(kinds)]
    words = {
        "profession": profession,
        "concern": concern,
        "region": region,
        "clause": number,
        "age": age,
        "topic": FIELDS[ministry.field][number - 1],
    }
    return Citizen(
        name,
        f"{profession}, {age}, from {region}",
        number,
        say(dice, "objections", words, which),
        say(dice, "amendments", words, which),
        dice.random() < 0.8,
        f"it comes late: {concern} will not wait until {dice.randint(2027, 2036)}",
    )


def settlement(ministry: Ministry, partner: Ministry) -> str:
    """What a ministry writes on the shared matter when it has compared it with its partner's."""
    link = f"[{partner.full_title}]({partner.link(MATTER_CLAUSE)})"
    unit = ministry.matter[1]
    if ministry.value == partner.value:
        return f"{ministry.matter[0]}: {amount(ministry.value, unit)}. {link} says the same."
    agreed = amount((ministry.value + partner.value) // 2, unit)
    return (
        f"{ministry.matter[0]}: {agreed}.\nSettled with {link}: we had {amount(ministry.value, unit)}, they had"
        f" {amount(partner.value, unit)}; both now have {agreed}."
    )


def test_report(ministry: Ministry, heard: Mapping[str, list[str]]) -> str:
    """What came out when a policy was tested, from the citizens' reports."""
    return (
        f"# The test of {ministry.full_title}\n\n{len(ministry.citizens)} citizens read"
        f" [the draft](../{ministry.policy}).\n\n" + "\n\n".join(_tests(ministry, heard)) + "\n"
    )


def _tests(ministry: Ministry, heard: Mapping[str, list[str]]) -> Iterator[str]:
    for name in ministry.citizens:
        person = citizen(ministry, name)
        address = ministry.link(person.clause, "../policies/")
        first, last = (" ".join(text.split()) for text in (heard[name][0], heard[name][-1]))
        yield f"## {name}\n\n{capital(person.who)}, on [clause {person.clause}]({address}).\n\n> {first}\n\n{last}"
