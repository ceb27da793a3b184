"""A large organisation for the tests of what shows runs: 600 agents, much text, much that goes wrong, hostile words."""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from typing import Any

from megagraph import Limits
from megagraph.rehearsal import (
    Brief,
    Heard,
    Part,
    Script,
    Turn,
    finish,
    list_files,
    read_file,
    recruit,
    talk,
    write_file,
)

Play = Generator[Turn, Heard, None]

HOSTILE = "<img src=x onerror=\"window.hacked='img'\">"
CLOSING = "</script><script>window.hacked='script'</script>"
TURNED = "safe\u202egpj.exe"

DEPARTMENTS = ("survey", "roads", "water", "power", "housing", "schools", "parks", "health", "trade")
_ROLES = ("director of {}", "", "team lead, {}", "works on {}")

_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvwz" for vowel in "aeiou"]


def limits(agents: int) -> Limits:
    """Limits under which the town is built to its end."""
    return Limits(
        agents=agents + 10,
        calls=20 * agents,
        width=agents,
        depth=6,
        rounds=100,
        input_tokens=10**9,
        output_tokens=10**9,
    )


def words(seed: str, count: int) -> str:
    """Prose that no compression makes small: invented words, the same for the same seed."""
    chance = random.Random(seed)
    made = ["".join(chance.choices(_SYLLABLES, k=chance.randint(1, 4))) for _ in range(count)]
    return " ".join(word + ("." if not (n + 1) % 11 else "") for n, word in enumerate(made))


def town(agents: int = 600, text: int = 120, prefix: str = "") -> Script:
    """A boss, departments, teams and workers, `agents` in all; everybody says and writes about `text` words."""
    departments = DEPARTMENTS[: max(2, min(len(DEPARTMENTS), agents // 12))]
    teams = max(1, (agents - 1 - len(departments)) // (7 * len(departments)))
    leads = {d: [f"{d}_team_{n}" for n in range(teams)] for d in departments}
    rest = agents - 1 - len(departments) - teams * len(departments)
    names = [lead for d in departments for lead in leads[d]]
    crews: dict[str, list[str]] = {lead: [] for lead in names}
    for n in range(rest):
        lead = names[n % len(names)]
        crews[lead].append(f"{lead}_w{n // len(names)}")
    parts: dict[str, Part] = {"boss": _lead(list(departments), text, prefix)}
    parts |= {d: _lead(leads[d], text, prefix) for d in departments}
    parts |= {lead: _lead(crew, text, prefix) for lead, crew in crews.items()}
    workers = [w for crew in crews.values() for w in crew]
    parts |= {worker: _worker(text) for worker in workers}
    parts[workers[0]] = _hostile
    for odd, part in zip(workers[5::97], (_circling, _late, _circling, _late, _late), strict=False):
        parts[odd] = part
    return Script(parts)


def _lead(names: Sequence[str], text: int, prefix: str) -> Part:
    """Recruits, waits for everybody, sends the first back once, and hands in."""

    def part(brief: Brief) -> Play:
        recruits: list[dict[str, Any]] = [
            {
                "name": name,
                "role": prefix + _ROLES[name.count("_")].format(name.partition("_")[0]),
                "instructions": f"Build {name}.\n\n{words(name, text)}",
            }
            for name in names
        ]
        for late in recruits[2::3] if names[0].count("_") == 3 else ():
            late["depends_on"] = [names[0]]
        heard = yield words(brief.name, text // 4), recruit(*recruits)
        seen = _heard_of(heard)
        while not seen >= set(names):
            heard = yield "I wait for my team."
            seen |= _heard_of(heard)
        if brief.name.endswith("_0"):
            heard = yield talk(names[0], f"Go over it again: {words(brief.name + '!', text // 3)}")
            while names[0] not in _heard_of(heard):
                heard = yield "I wait for the rework."
        path = f"{brief.name}.md"
        yield write_file(path, f"# {brief.name}\n\n" + "\n".join(f"- {name}" for name in names) + "\n")
        while True:
            yield finish(f"{brief.name} is built by {len(names)}. {words(brief.name + '?', text // 4)}", [path])

    return part


def _heard_of(heard: Heard) -> set[str]:
    return {sender for sender, kind, _ in heard.letters if kind in ("report", "failure")}


def _worker(text: int) -> Part:
    """Looks, writes a file, and hands in; sent back, changes it."""

    def part(brief: Brief) -> Play:
        folder, _, leaf = brief.name.rpartition("_")
        path = f"{folder}/{leaf}.txt"
        content = "\n".join(words(brief.name + str(n), 12) for n in range(max(1, text // 12)))
        yield words(brief.name, text // 2), write_file(path, content + "\n")
        yield read_file(path)
        heard = yield finish(f"{path} is written. {words(path, text // 4)}", [path])
        while True:
            if not any(kind == "message" for _, kind, _ in heard.letters):
                heard = yield "Noted."
                continue
            content = content.replace("\n", f"\n{words(content, 8)}\n", 1) + "\nmended"
            heard = yield write_file(path, content + "\n")
            heard = yield finish(f"{path} is mended", [path])

    return part


def _hostile(brief: Brief) -> Play:
    """Says what would run, close the page's own script, or turn the direction of writing, wherever it can."""
    yield f"{HOSTILE} {CLOSING} {TURNED}", write_file("hostile/a&b'(#).txt", f"{HOSTILE}\n{CLOSING}\n{TURNED}\n")
    yield talk(brief.name.rpartition("_")[0], f"{HOSTILE} {CLOSING} {TURNED}")
    while True:
        yield finish(f"{HOSTILE} {CLOSING} {TURNED}" + "A" * 5000, ["hostile/a&b'(#).txt"])


def _circling(brief: Brief) -> Play:
    """Does the same again and again, until a guard stops it."""
    while True:
        yield list_files("nowhere/*")


def _late(brief: Brief) -> Play:
    """Hands in with its todo open."""
    yield read_file("nothing/here.txt")
    while True:
        yield finish("I could not do all of it.", ["nothing/here.txt"])
