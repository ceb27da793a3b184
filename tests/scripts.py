"""Scripts for the tests: organisations whose result is the same whatever happens on the way."""

from __future__ import annotations

from collections.abc import Generator, Mapping

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
    update_todo,
    wait_for,
    write_file,
)

Play = Generator[Turn, Heard, None]


def one(*turns: Turn) -> Part:
    """A part that makes these turns whatever it hears."""

    def part(brief: Brief) -> Play:
        for turn in turns:  # noqa: UP028 - a tuple takes nothing that is sent
            yield turn

    return part


def worker(path: str, content: str) -> Part:
    """Writes a file and reports; whenever it is sent back, writes a line more and reports again."""

    def part(brief: Brief) -> Play:
        text = content
        heard = yield update_todo([f"write {path}"])
        heard = yield write_file(path, text)
        heard = yield update_todo([], [f"write {path}"])
        heard = yield finish(f"{path} is written", [path])
        while True:
            orders = [text for _, kind, text in heard.letters if kind == "message" and text.startswith("again")]
            if not orders:
                heard = yield "Noted."
                continue
            text += "".join(f"{order}\n" for order in orders)
            heard = yield write_file(path, text)
            heard = yield finish(f"{path} is mended", [path])

    return part


def lead(names: tuple[str, str], late: str) -> Part:
    """Recruits two, the second depending on the first; sends the first back once; recruits a third meanwhile."""

    def part(brief: Brief) -> Play:
        first, second = names
        heard = yield recruit(
            {"name": first, "role": "worker", "instructions": f"write {first}", "deliverables": [f"{first}.txt"]},
            {"name": second, "role": "worker", "instructions": f"write {second}", "depends_on": [first]},
        )
        reports = dict(reported(heard))
        while first not in reports:
            heard = yield "I wait."
            reports |= reported(heard)
        del reports[first]
        heard = yield talk(first, f"again by {brief.name}")
        reports |= reported(heard)
        heard = yield recruit({"name": late, "role": "worker", "instructions": f"write {late}"})
        reports |= reported(heard)
        while not {first, second, late} <= reports.keys():
            heard = yield "I wait."
            reports |= reported(heard)
        heard = yield read_file(f"{first}.txt"), list_files()
        yield write_file(f"{brief.name}.txt", "".join(f"{n}: {t}\n" for n, t in sorted(reports.items())))
        yield finish("my team is done", [f"{brief.name}.txt"])

    return part


def reported(heard: Heard) -> Mapping[str, str]:
    return {sender: text for sender, kind, text in heard.letters if kind == "report"}


def deep_script() -> Script:
    """Three levels, dependencies, mail between leads, rework, recruits in mid-flight: 9 agents."""

    def boss(brief: Brief) -> Play:
        heard = yield recruit(
            {"name": "north", "role": "lead", "instructions": "lead the north"},
            {"name": "south", "role": "lead", "instructions": "lead the south"},
        )
        yield from wait_for(heard, ["north", "south"])
        yield write_file("main.txt", "done\n")
        yield finish("all is done", ["main.txt", "north.txt", "south.txt"])

    parts: dict[str, Part] = {"boss": boss}
    for region in ("north", "south"):
        names = (f"{region}_a", f"{region}_b")
        parts[region] = lead(names, f"{region}_c")
        for name in (*names, f"{region}_c"):
            parts[name] = worker(f"{name}.txt", f"by {name}\n")
    return Script(parts)
