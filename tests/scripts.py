"""Scripts for the tests: organisations whose result is the same whatever happens on the way."""

from __future__ import annotations

from collections.abc import Generator, Mapping

from megagraph.rehearsal import (
    Brief,
    Heard,
    Part,
    Script,
    Turn,
    call,
    finish,
    list_files,
    read_file,
    recruit,
    run_program,
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


def letters_script() -> Script:
    """Three levels with questions among team mates, files that several build on, and recruits for late work.

    What anybody writes depends on what it was told and has read, and not on when.
    """

    def boss(brief: Brief) -> Play:
        heard = yield (
            write_file("shared.txt", "".join(f"line {i}\n" for i in range(9))),
            recruit(
                {"name": "maker", "role": "lead", "instructions": "make", "deliverables": ["made.txt"]},
                {"name": "asker", "role": "worker", "instructions": "ask the maker"},
            ),
        )
        reports = yield from wait_for(heard, ["maker", "asker"])
        heard = yield recruit({"name": "checker", "role": "worker", "instructions": f"check {reports['asker']}"})
        more = yield from wait_for(heard, ["checker"])
        heard = yield read_file("made.txt")
        yield write_file("end.txt", f"{more['checker']}\n{heard.results[0].partition(':')[2]}")
        yield finish("over", ["end.txt"])

    def maker(brief: Brief) -> Play:
        heard = yield recruit(
            {"name": "one", "role": "worker", "instructions": "write one.txt", "deliverables": ["one.txt"]},
            {"name": "two", "role": "worker", "instructions": "ask one", "depends_on": []},
            {"name": "three", "role": "worker", "instructions": "build on one", "depends_on": ["one"]},
        )
        asked, answered, reports = list(brief.letters), False, dict(reported(heard))
        while not {"one", "two", "three"} <= reports.keys() or not answered:
            asked += heard.letters
            if not answered and any(sender == "asker" for sender, _, _ in asked):
                answered = True
                heard = yield talk("asker", "it will be made of three")
            else:
                heard = yield "I wait."
            reports |= reported(heard)
        yield write_file("made.txt", "".join(f"{name}: {text}\n" for name, text in sorted(reports.items())))
        yield finish("made", ["made.txt"])

    def asker(brief: Brief) -> Play:
        heard = yield talk("maker", "what will it be made of?")
        answers: list[str] = []
        while not answers:
            answers = [text for sender, _, text in heard.letters if sender == "maker"]
            if not answers:
                heard = yield "I wait."
        yield finish(answers[0])

    def writer(brief: Brief) -> Play:
        questions: list[str] = []
        heard = Heard(letters=brief.letters)
        work = [read_file("shared.txt"), write_file("one.txt", "one\n"), finish("one is written", ["one.txt"])]
        while True:
            questions += [sender for sender, kind, _ in heard.letters if kind == "message"]
            if questions:
                heard = yield talk(questions.pop(), "one.txt says one")
            else:
                heard = yield work.pop(0) if work else "Noted."

    def two(brief: Brief) -> Play:
        heard = yield talk("one", "what does one.txt say?")
        answers: list[str] = []
        while not answers:
            answers = [text for sender, _, text in heard.letters if sender == "one"]
            if not answers:
                heard = yield "I wait."
        yield write_file("two.txt", answers[0])
        yield finish(f"two knows: {answers[0]}", ["two.txt"])

    def three(brief: Brief) -> Play:
        heard = yield read_file("one.txt")
        yield write_file("three.txt", heard.results[0].partition(":\n")[2] + "three\n")
        yield finish("three builds on one", ["three.txt"])

    def checker(brief: Brief) -> Play:
        heard = yield read_file("two.txt"), read_file("three.txt")
        yield write_file("checked.txt", "".join(r.partition(":\n")[2] for r in heard.results))
        yield finish("checked", ["checked.txt"])

    parts = {"boss": boss, "maker": maker, "asker": asker, "one": writer, "two": two, "three": three}
    return Script({**parts, "checker": checker})


def checked_script() -> Script:
    """Checks, reviews, rework, a report that is withdrawn before anybody starts from it, and one that is withdrawn
    before its lead hands in. Programs are run."""

    def hire(name: str, **more: object) -> dict[str, object]:
        return {"name": name, "role": f"the {name}", "instructions": f"be {name}", **more}

    review = {"review": "It is not the first try.", "files": ["engine.py"]}
    runs = {"run": ["engine.py"], "contains": "engine", "name": "it runs"}
    names = ("coder", "spoiler", "user", "tester")

    def boss(brief: Brief) -> Play:
        heard = yield recruit(
            hire("coder", deliverables=["engine.py"], checks=[runs, review]),
            hire("spoiler", depends_on=["coder"]),
            hire("user", depends_on=["coder", "spoiler"], checks=[{"file": "guide.md", "matches": "engine 2"}]),
            hire("tester", depends_on=["coder", "spoiler"], deliverables=["test_report.md"]),
        )
        reports, mended = dict(reported(heard)), False
        while not set(names) <= reports.keys():
            if not mended and any("does not hold any more" in text for _, kind, text in heard.letters):
                mended = True
                heard = yield talk("coder", "again, please")
            else:
                heard = yield "I wait."
            reports |= reported(heard)
        heard = yield read_file("engine.py")
        yield write_file("engine.py", contents(heard) + "# by the boss\n")
        heard = yield finish("Over.", ["engine.py"])
        if "not handed in" in heard.results[0]:
            heard = yield talk("tester", "again, please")
            while "tester" not in reported(heard):
                heard = yield "I wait."
            yield finish("Over.", ["engine.py"])

    def coder(brief: Brief) -> Play:
        yield write_file("engine.py", "print('engine 1')\n")
        yield finish("Tried.")
        yield write_file("engine.py", "print('engine 2')\n")
        heard = yield finish("Made.")
        while True:
            if any(text.startswith("again") for _, _, text in heard.letters):
                heard = yield read_file("engine.py")
                yield write_file("engine.py", contents(heard) + "print('engine 2')\n")
                heard = yield finish("Mended.")
            else:
                heard = yield "Noted."

    def tester(brief: Brief) -> Play:
        while True:
            heard = yield run_program("engine.py")
            yield write_file("test_report.md", "It was run, and printed engine 2.\n")
            heard = yield finish("Tested.", ["test_report.md"])
            while not any(text.startswith("again") for _, _, text in heard.letters):
                heard = yield "Noted."

    def user(brief: Brief) -> Play:
        heard = yield read_file("engine.py")
        yield write_file("guide.md", f"It is made so:\n{contents(heard)}")
        yield finish("Used.", ["guide.md"])

    def reviewer(brief: Brief) -> Play:
        heard = yield read_file("engine.py")
        passed = "engine 1" not in heard.results[0]
        yield call("give_verdict", passed=passed, reason="as it says", evidence=["1/0"])

    spoiler = one(read_file("engine.py"), write_file("engine.py", "# spoilt\nprint()\n"), finish("Spoilt."))
    return Script(
        {
            "boss": boss,
            "coder": coder,
            "spoiler": spoiler,
            "user": user,
            "tester": tester,
            "reviewer_of_coder": reviewer,
            "reviewer_of_boss": reviewer,
        }
    )


def contents(heard: Heard) -> str:
    """What a file that was just read has in it."""
    return heard.results[0].partition(":\n")[2].rstrip("\n") + "\n"


def generations_script(generations: int, *, overlap: int = 0) -> Script:
    """A boss whose teams come one after the other; every third is led by one that works so itself.

    Those who are done are dismissed before the next are recruited, or in the same turn. With `overlap`, one of each
    generation of that number stays for the next one.
    """

    def hire(name: str, role: str) -> dict[str, object]:
        return {"name": name, "role": role, "instructions": f"be {name}", "deliverables": [f"{name}.txt"]}

    def generation(number: int) -> list[dict[str, object]]:
        first = {**hire(f"a{number}", "worker"), "limits": {"calls": 40}}
        if number % 3 == 2:
            return [hire(f"lead{number}", "lead"), first]
        return [first, {**hire(f"b{number}", "worker"), "depends_on": [f"a{number}"]}]

    def boss(brief: Brief) -> Play:
        told = ""
        gone: list[str] = []
        staying: list[str] = []
        for number in range(generations):
            team = generation(number)
            calls = [recruit(*team)]
            if number and number % 2:
                calls.insert(0, call("dismiss", agents=gone))
            elif number:
                yield call("dismiss", agents=gone)
            here = [name for name in staying if name not in gone]
            heard = yield calls
            names = [str(member["name"]) for member in team]
            reports = yield from wait_for(heard, names)
            told += "".join(f"{name}: {reports[name].splitlines()[0]}\n" for name in sorted(names))
            staying = names[-1:] if overlap and number % overlap == 0 else []
            gone = [name for name in (*here, *names) if name not in staying]
        yield write_file("main.txt", told)
        yield finish("all generations are done", ["main.txt"])

    def lead(brief: Brief) -> Play:
        number = brief.name.removeprefix("lead")
        told = ""
        for part in "xyz":
            name = f"{part}{number}"
            heard = yield recruit(hire(name, "worker"))
            heard = yield from sent_back(heard, name)
            told += f"{name}\n"
            yield call("dismiss", agents=[name])
        yield write_file(f"{brief.name}.txt", told)
        yield finish(f"{brief.name} is done", [f"{brief.name}.txt"])

    def sent_back(heard: Heard, name: str) -> Play:
        """Wait for a report, send its author back, and wait for the next one."""
        yield from wait_for(heard, [name])
        heard = yield talk(name, f"again for {name}")
        yield from wait_for(heard, [name])
        return heard

    def member(brief: Brief) -> Play:
        return worker(f"{brief.name}.txt", f"by {brief.name}\n")(brief)

    leads = {f"lead{number}": lead for number in range(2, generations, 3)}
    return Script({"boss": boss, **leads}, default=member)


REVIEWED = {"review": "It is good.", "files": ["a.txt"]}
"""A check by a reviewer."""


def reviewed_script() -> Script:
    """Reviews at the hand-in of a member, again before two others begin, and of the whole run in the end."""

    def boss(brief: Brief) -> Play:
        heard = yield recruit(
            {**_hire("x"), "deliverables": ["a.txt"], "checks": [REVIEWED]},
            _hire("e", depends_on=["x"]),
            _hire("d1", depends_on=["x", "e"]),
            _hire("d2", depends_on=["x", "e"]),
        )
        yield from wait_for(heard, ["x", "e", "d1", "d2"])
        yield finish("over")

    verdict = one(read_file("a.txt"), call("give_verdict", passed=True, reason="It is.", evidence=["1/0"]))
    parts: dict[str, Part] = {
        "boss": boss,
        "x": one(write_file("a.txt", "hello"), finish("done", ["a.txt"])),
        "e": one(read_file("a.txt"), write_file("a.txt", "hello again"), finish("changed")),
        "reviewer_of_x": verdict,
        "reviewer_of_boss": verdict,
    }
    return Script(parts, default=one(finish("ok")))


def _hire(name: str, **more: object) -> dict[str, object]:
    return {"name": name, "role": f"the {name}", "instructions": f"be {name}", **more}
