"""Judges the policy of a nation from outside: the delivered files, and the record of how they came about.

`python check.py FOLDER` prints one JSON object per check. The record is `run.json` beside this file; with
`--record FILE` it is another one.
"""

from __future__ import annotations

import argparse
import heapq
import json
import posixpath
import re
import sys
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

WORDS = 300
"""What a policy has at the least."""
CLAUSES, CLAUSE_WORDS = 5, 20
TEST_WORDS = 20
COPY = 0.6
"""The part of their phrases that two files may not have in common."""
TOLD = 5
"""Problems of one kind that are named."""

_HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*$")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(\s*<?([^\s()<>]+(?:\([^\s()]*\)[^\s()<>]*)*)>?(?:\s+\"[^\"]*\")?\s*\)")
_SHARE = re.compile(r"^\W*Share of the national budget\W*:\W*(\d+(?:[.,]\d+)?)\s*%", re.M | re.I)
_UNDONE = re.compile(
    r"\b(?:TODO|TBD|FIXME|lorem ipsum|placeholder|coming soon|to be (?:written|completed|added|filled in|inserted))\b"
    r"|<!--|\[(?:insert|fill|your)\b[^\]]*\]|\[(?:\.\.\.|…)\]|^\W*(?:\.\.\.|…)\W*$",
    re.I | re.M,
)


@dataclass(frozen=True)
class Section:
    """A heading with what is below it, up to the next heading that is not of a lower level."""

    level: int
    title: str
    text: str


class Page:
    """One Markdown file."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text

    @cached_property
    def prose(self) -> str:
        """The text without blocks of code."""
        return re.sub(r"^(```|~~~).*?^\1[^\n]*$", "", self.text, flags=re.M | re.S)

    @cached_property
    def sections(self) -> list[Section]:
        lines = self.prose.splitlines()
        heads = [(n, found) for n, line in enumerate(lines) if (found := _HEADING.match(line))]
        sections = []
        for i, (n, found) in enumerate(heads):
            level = len(found[1])
            end = next((m for m, other in heads[i + 1 :] if len(other[1]) <= level), len(lines))
            sections.append(Section(level, plain(found[2]), "\n".join(lines[n + 1 : end])))
        return sections

    @cached_property
    def anchors(self) -> set[str]:
        seen: Counter[str] = Counter()
        anchors = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", self.prose))
        for section in self.sections:
            name = anchor(section.title)
            anchors.add(f"{name}-{seen[name]}" if seen[name] else name)
            seen[name] += 1
        return anchors

    @cached_property
    def links(self) -> list[tuple[str, str]]:
        return self.links_in(self.prose)

    def links_in(self, text: str) -> list[tuple[str, str]]:
        """(path, anchor) of each link to a file of the delivery, or within this one."""
        found = []
        for target in _LINK.findall(text):
            if not re.match(r"[a-z][a-z0-9+.-]*:|//", target, re.I):
                path, _, name = target.partition("#")
                folder = posixpath.dirname(self.path)
                found.append((posixpath.normpath(posixpath.join(folder, path)) if path else self.path, name))
        return found

    def section(self, title: str, level: int = 2) -> Section | None:
        return next((s for s in self.sections if s.level == level and s.title.lower() == title.lower()), None)


def plain(title: str) -> str:
    """A heading without markup."""
    return re.sub(r"[*`]|\[([^\]]*)\]\([^)]*\)", lambda found: found[1] or "", title).strip()


def anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def words(text: str) -> list[str]:
    """The words as they are read: the addresses of links are none."""
    return re.findall(r"[^\W_]+", re.sub(r"\]\([^)]*\)", "]", text).lower())


class Delivery:
    """What was delivered, and how it came about."""

    def __init__(self, folder: Path, record: Mapping[str, Any]) -> None:
        self.size = int(record["parameters"]["size"])
        self.agents: dict[str, Mapping[str, Any]] = {agent["name"]: agent for agent in record["agents"]}
        self.paths = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        self.paths = {path for path in self.paths if not path.startswith("_judge/")}
        self.pages = {
            path: Page(path, (folder / path).read_text(encoding="utf-8", errors="replace"))
            for path in sorted(self.paths)
            if path.endswith(".md")
        }
        self.changes: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for change in record["changes"]:
            self.changes[change["path"]].append(change)
        self.letters: Sequence[Mapping[str, Any]] = record["letters"]
        self.ministers = [name for name, agent in self.agents.items() if is_a("Minister", agent)]
        self.citizens: dict[str, list[str]] = defaultdict(list)
        for name, agent in self.agents.items():
            if is_a("Citizen", agent):
                self.citizens[agent["lead"]].append(name)

    @cached_property
    def said(self) -> dict[str, list[Mapping[str, Any]]]:
        """The letters and reports of each agent."""
        said: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for letter in self.letters:
            if letter["kind"] in ("message", "report"):
                said[letter["from"]].append(letter)
        return said

    @cached_property
    def talks(self) -> dict[frozenset[str], float]:
        """When two agents first wrote to one another."""
        talks: dict[frozenset[str], float] = {}
        for letter in self.letters:
            if letter["kind"] == "message":
                talks.setdefault(frozenset((letter["from"], letter["to"])), letter["sent"])
        return talks

    def policy(self, ministry: str) -> Page | None:
        return self.pages.get(f"policies/{ministry}.md")

    @property
    def policies(self) -> Iterator[tuple[str, Page]]:
        return ((name, page) for name in self.ministers if (page := self.policy(name)))


def is_a(role: str, agent: Mapping[str, Any]) -> bool:
    return bool(re.match(rf"\W*{role}\b", agent["role"], re.I))


# The checks. Each tells what is wrong, in lines.


def has_its_size(delivery: Delivery) -> Iterator[str]:
    """A government of about as many agents as were asked for, most of them in ministries."""
    least = max(2, (delivery.size - 1) // 12)
    if len(delivery.agents) < 0.8 * delivery.size:
        yield f"{len(delivery.agents)} agents, and about {delivery.size} were asked for"
    if len(delivery.ministers) < least:
        yield f"{len(delivery.ministers)} agents have a role that begins with `Minister`, and {least} are the least"


def every_ministry_has_a_policy(delivery: Delivery) -> Iterator[str]:
    for name in delivery.ministers:
        if delivery.policy(name) is None:
            yield f"policies/{name}.md is not there"
    for path in delivery.pages:
        if path.startswith("policies/") and path[9:-3] not in delivery.ministers:
            yield f"{path} belongs to no minister"


def none_is_a_placeholder(delivery: Delivery) -> Iterator[str]:
    for _, page in delivery.policies:
        said = words(page.prose)
        if undone := _UNDONE.search(page.text):
            yield f"{page.path} is not finished: “{undone[0].strip()[:40]}”"
        if len(said) < WORDS:
            yield f"{page.path} has {len(said)} words"
        if len(set(said)) < max(WORDS / 3, len(said) / 6):
            yield f"{page.path} has {len(said)} words, {len(set(said))} of them different"
        clauses = [s for s in page.sections if s.level == 3 and re.match(r"\d+\b", s.title)]
        good = [s for s in clauses if len(words(s.text)) >= CLAUSE_WORDS and re.search(r"\d", s.text)]
        if len(good) < CLAUSES:
            yield f"{page.path} has {len(good)} clauses that oblige to something with a number in it"


def each_was_tested(delivery: Delivery) -> Iterator[str]:
    """Every citizen wrote when there was a policy to read, and the record has it."""
    for name, policy in delivery.policies:
        citizens = delivery.citizens[name]
        if len(citizens) < 2:
            yield f"{name} had {len(citizens)} citizens to test its policy"
        record = delivery.pages.get(f"tests/{name}.md")
        if record is None:
            yield f"tests/{name}.md is not there"
            continue
        sections = {section.title: section for section in record.sections}
        begun = delivery.changes[policy.path][0]["time"] if delivery.changes[policy.path] else float("inf")
        for citizen in citizens:
            section = sections.get(citizen)
            if section is None or len(words(section.text)) < TEST_WORDS:
                yield f"{record.path} does not tell what {citizen} said"
            elif not any(path == policy.path and name for path, name in record.links_in(section.text)):
                yield f"{record.path} links {citizen}'s objection to no clause"
            if not any(letter["sent"] > begun for letter in delivery.said[citizen]):
                yield f"{citizen} has written no letter about {policy.path}"


def each_was_changed_after_its_test(delivery: Delivery) -> Iterator[str]:
    """After each citizen's first letter, somebody who is no citizen has changed the policy."""
    for name, policy in delivery.policies:
        citizens = delivery.citizens[name]
        changes = [c["time"] for c in delivery.changes[policy.path] if c["agent"] not in citizens]
        heard = [delivery.said[citizen][0]["sent"] for citizen in citizens if delivery.said[citizen]]
        if not changes or not heard or max(changes) < max(heard):
            yield f"{policy.path} was not changed after its citizens had objected"


def nothing_is_open(delivery: Delivery) -> Iterator[str]:
    for name in delivery.ministers:
        report = delivery.agents[name]["report"]
        if report is None:
            yield f"{name} has not handed in"
        elif report["failed"] or report["missing"]:
            yield f"{name}: {'; '.join(report['missing']) or 'failed'}"


def references_resolve(delivery: Delivery) -> Iterator[str]:
    for page in delivery.pages.values():
        for path, name in page.links:
            if path not in delivery.paths:
                yield f"{page.path} links to {path}, which is not there"
            elif name and path in delivery.pages and name not in delivery.pages[path].anchors:
                yield f"{page.path} links to {path}#{name}, and there is no such heading"
    for name, page in delivery.policies:
        if not any(path.startswith("policies/") and path != page.path and at for path, at in page.links):
            yield f"policies/{name}.md links to no clause of another ministry"


def nation_is_whole(delivery: Delivery) -> Iterator[str]:
    nation = delivery.pages.get("nation.md")
    if nation is None:
        yield "nation.md is not there"
        return
    parts = {title: nation.section(title) for title in ("Contents", "Policies by ministry", "Contradictions settled")}
    yield from (f"nation.md has no section “{title}”" for title, section in parts.items() if section is None)
    links = {title: set(nation.links_in(section.text)) for title, section in parts.items() if section}
    if "Contents" in links:
        others = [section.title for section in nation.sections if section.level == 2 and section.title != "Contents"]
        for title in others:
            if ("nation.md", anchor(title)) not in links["Contents"]:
                yield f"the contents do not link to “{title}”"
        listed = {path for path, _ in links["Contents"]}
        yield from (
            f"the contents do not link to {page.path}" for _, page in delivery.policies if page.path not in listed
        )
    if "Policies by ministry" in links:
        listed = {path for path, _ in links["Policies by ministry"]}
        for name in delivery.ministers:
            for path in (f"policies/{name}.md", f"tests/{name}.md"):
                if path not in listed:
                    yield f"“Policies by ministry” does not link to {path}"


def contradictions_are_settled(delivery: Delivery) -> Iterator[str]:
    """Each that is listed names two clauses; the ministries wrote about it, and a policy was changed then."""
    nation = delivery.pages.get("nation.md")
    part = nation.section("Contradictions settled") if nation else None
    if nation is None or part is None:
        yield "nation.md does not list what was settled"
        return
    listed = [section for section in Page("nation.md", part.text).sections if section.level == 3]
    needed = max(1, len(delivery.ministers) // 10)
    if len(listed) < needed:
        yield f"{len(listed)} contradictions are listed, and {needed} are the least"
    for section in listed:
        clauses = {path: at for path, at in nation.links_in(section.text) if path.startswith("policies/") and at}
        if len(clauses) < 2:
            yield f"“{section.title}” does not link to clauses of two ministries"
        elif not any(_settled(delivery, one, two) for one, two in combinations(clauses, 2)):
            yield f"“{section.title}”: no policy was changed for it after a letter, with a link to the other one"


def _settled(delivery: Delivery, one: str, two: str) -> bool:
    names = [path[9:-3] for path in (one, two)]
    around = {*names, *(delivery.agents[name]["lead"] for name in names if name in delivery.agents)}
    talked = [when for pair, when in delivery.talks.items() if pair <= around and pair & set(names)]
    for path, other in ((one, two), (two, one)):
        page, changes = delivery.pages.get(path), delivery.changes[path]
        linked = page is not None and any(target == other and at for target, at in page.links)
        if linked and talked and changes and changes[-1]["time"] > min(talked):
            return True
    return False


def budgets_add_up(delivery: Delivery) -> Iterator[str]:
    total = 0.0
    for name, page in delivery.policies:
        if found := _SHARE.search(page.prose):
            total += float(found[1].replace(",", "."))
        else:
            yield f"policies/{name}.md does not say its share of the national budget"
    if not 90 <= total <= 100.005:
        yield f"the shares of the national budget add up to {total:.2f} %"


def no_near_copies(delivery: Delivery) -> Iterator[str]:
    texts = {path: page.prose for path, page in delivery.pages.items() if path != "nation.md"}
    for one, two, same in near_copies({path: text for path, text in texts.items() if len(words(text)) >= 30}):
        yield f"{one} and {two} have {same:.0%} of their phrases in common"


# Near copies


def phrases(text: str) -> set[int]:
    """A hash of each three words in a row; numbers are all the same."""
    said = ["0" if word.isdigit() else word for word in words(text)]
    return {zlib.crc32(" ".join(said[i : i + 3]).encode()) for i in range(len(said) - 2)}


def near_copies(texts: Mapping[str, str], sketch: int = 48, crowd: int = 24) -> Iterator[tuple[str, str, float]]:
    """Pairs of texts with most of their phrases in common, in about linear time.

    Texts are compared if they share enough of their smallest hashes (a bottom-k sketch). A hash that a crowd of texts
    has in common makes each a candidate with the next one only, so that a crowd of copies is found as a chain.
    """
    having: dict[int, list[str]] = defaultdict(list)
    for path, text in texts.items():
        for mark in heapq.nsmallest(sketch, phrases(text)):
            having[mark].append(path)
    shared: Counter[tuple[str, str]] = Counter()
    for paths in having.values():
        shared.update(combinations(paths, 2) if len(paths) <= crowd else pairwise(paths))

    @lru_cache(maxsize=256)
    def cached(path: str) -> set[int]:
        return phrases(texts[path])

    for (one, two), count in sorted(shared.items()):
        if count >= sketch * COPY / 3:
            both = cached(one) & cached(two)
            same = len(both) / len(cached(one) | cached(two))
            if same >= COPY:
                yield one, two, same


CHECKS: Mapping[str, Callable[[Delivery], Iterable[str]]] = {
    "the government has its size": has_its_size,
    "every ministry has a policy": every_ministry_has_a_policy,
    "no policy is a placeholder": none_is_a_placeholder,
    "each was tested by its citizens": each_was_tested,
    "each was changed after its test": each_was_changed_after_its_test,
    "no minister has an open point": nothing_is_open,
    "references resolve": references_resolve,
    "nation.md is whole": nation_is_whole,
    "contradictions were settled": contradictions_are_settled,
    "the budget adds up": budgets_add_up,
    "no two files are near copies": no_near_copies,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Judge the policy of a nation.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(), help="where nation.md is")
    parser.add_argument("--record", type=Path, default=Path(__file__).with_name("run.json"))
    options = parser.parse_args()
    delivery = Delivery(options.folder.resolve(), json.loads(options.record.read_text(encoding="utf-8")))
    passed_all = True
    for name, check in CHECKS.items():
        problems = list(check(delivery))
        if not delivery.ministers:
            problems.insert(0, "there are no ministers")
        passed_all &= not problems
        more = [f"and {len(problems) - TOLD} more"] if len(problems) > TOLD else []
        detail = "; ".join([*problems[:TOLD], *more])
        print(json.dumps({"check": name, "passed": not problems, "detail": detail}), flush=True)
    return 0 if passed_all else 1


if __name__ == "__main__":
    sys.exit(main())
