"""The rehearsal of Gobang: eleven agents on three levels, played from a script; the game they write is real.

What an agent says about a program it has run is taken from what that program printed. The first engine has a
true fault, which the engine's tester finds by running its tests, and which is then put right.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path
from typing import TypeAlias

from megagraph.rehearsal import (
    Brief,
    Heard,
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
    write_file,
)

WORK = Path(__file__).parent / "rehearsal"
REWORK = "Rework"
AGAIN = "Please run your tests again"
ROUNDS = 3
"""So often a lead has a fault mended before it gives up."""

Playing: TypeAlias = Generator[Turn, Heard, None]
Waiting: TypeAlias = Generator[Turn, Heard, Heard]
Reports: TypeAlias = dict[str, str]

FORCED_MOVES = """\
        if theirs[MAKES_FIVE]:
            return [min(theirs[MAKES_FIVE])]
        if mine[MAKES_OPEN_FOUR]:
            return [min(mine[MAKES_OPEN_FOUR])]
        if theirs[MAKES_OPEN_FOUR]:
            return self._answers(me)
"""

FORCED_MOVES_AT_FIRST = """\
        if theirs[MAKES_OPEN_FOUR]:
            return self._answers(me)[:1]
        if theirs[MAKES_FIVE]:
            return [min(theirs[MAKES_FIVE])]
        if mine[MAKES_OPEN_FOUR]:
            return [min(mine[MAKES_OPEN_FOUR])]
"""
"""The fault: an open three is answered on sight, before a four is looked for."""


def work(path: str) -> str:
    """A file as its author finally leaves it."""
    return (WORK / path).read_text(encoding="utf-8")


def first_engine() -> str:
    """The engine as its developer first writes it."""
    return work("gobang/engine.py").replace(FORCED_MOVES, FORCED_MOVES_AT_FIRST)


# What agents do with what they hear


def ran(heard: Heard) -> str:
    """The result of the last tool call."""
    return heard.results[-1] if heard.results else heard.text


def good(result: str) -> bool:
    return re.search(r"exit code 0\b", result) is not None


def telling(result: str) -> str:
    """The lines of a program's output that are worth quoting, without the seconds, which are never the same."""
    lines = [re.sub(r" in [\d.]+s$", "", line.strip()) for line in result.splitlines()]
    kept = [s for s in lines if re.match(r"(exit code|Ran \d|OK$|FAILED|FAIL:|ERROR:|Assert|Error:|\w+Error:)", s)]
    return "\n".join(kept[:12]) or result[-300:]


def last_line(result: str) -> str:
    return next((line.strip() for line in reversed(result.splitlines()) if line.strip()), "")


def note(reports: Reports, heard: Heard) -> None:
    reports.update({sender: text for sender, kind, text in heard.letters if kind in ("report", "failure")})


def wait(reports: Reports, heard: Heard, *names: str) -> Waiting:
    """Ask for nothing until each of `names` has reported, or failed; the reports are added to `reports`."""
    while True:
        note(reports, heard)
        missing = [name for name in names if name not in reports]
        if not missing:
            return heard
        heard = yield f"I wait for {', '.join(missing)}."


def asked(heard: Heard, word: str) -> bool:
    return any(kind == "message" and word in text for _, kind, text in heard.letters)


def listen(heard: Heard, word: str) -> Waiting:
    """After a report: take note of the mail until a letter has `word` in it."""
    while not asked(heard, word):
        heard = yield "Noted. My work is reported, and nothing in this changes it."
    return heard


def hand_in(summary: str, artefacts: list[str]) -> Waiting:
    """Finish; where that is refused because the team is still at work, when it has come to rest."""
    heard = yield finish(summary, artefacts)
    while ran(heard).startswith("Error:"):
        if "still at work" in ran(heard):
            yield "I wait for my team to come to rest."
        heard = yield finish(summary, artefacts)
    return heard


def agent(name: str, role: str, instructions: str, deliverables: list[str], *depends_on: str) -> dict[str, object]:
    return {
        "name": name,
        "role": role,
        "instructions": instructions,
        "deliverables": deliverables,
        "depends_on": list(depends_on),
    }


# The parts


def boss(brief: Brief) -> Playing:
    yield update_todo(["Form the team", "Check the game myself", "Report"])
    heard = yield recruit(
        agent(
            "architect",
            "Software architect",
            "Design a console Gobang in pure Python 3.11: modules, interfaces, how the AI thinks. Write it "
            "down in docs/design.md, and write what all others share: gobang/points.py and run_tests.py "
            f"(unittest). What is to be reached, word for word:\n\n{brief.task}",
            ["docs/design.md", "gobang/points.py", "run_tests.py"],
        ),
        agent(
            "game_lead",
            "Lead of the game team",
            "Have the rules, the console and the guide for players built after docs/design.md, with tests. "
            f"What is to be reached, word for word:\n\n{brief.task}",
            ["gobang/board.py", "gobang/console.py", "main.py", "README.md"],
            "architect",
        ),
        agent(
            "engine_lead",
            "Lead of the AI team",
            "Have a very strong AI built after docs/design.md: Engine(seconds).choose(moves) in "
            "gobang/engine.py. Have it tested by somebody who did not write it. It takes 1 s a move by "
            "default, and never as much as 5 s.",
            ["gobang/engine.py", "tests/test_engine.py"],
            "architect",
        ),
        agent(
            "playtester",
            "Tester of the whole game",
            "Play the finished game through main.py as a user would: legal and illegal moves, a win, the AI "
            "under pressure. Run everything you report on, and quote in docs/test_report.md what it printed.",
            ["docs/test_report.md"],
            "game_lead",
            "engine_lead",
        ),
    )
    reports: Reports = {}
    heard = yield from wait(reports, heard, "architect", "game_lead", "engine_lead", "playtester")
    heard = yield update_todo(["Check the game myself", "Report"], ["Form the team"]), list_files()
    heard = yield run_program("run_tests.py")
    tests = ran(heard)
    heard = yield run_program("main.py", ["--seconds", "0.2"], "h8\nh8\nquit\n")
    game = ran(heard)
    works = good(tests) and good(game) and "AI " in game and "ILLEGAL " in game
    yield update_todo([], ["Form the team", "Check the game myself", "Report"])
    verdict = "The game is done and works" if works else "The game is NOT in order"
    yield from hand_in(
        f"{verdict}. Start it with `python main.py`. "
        f"All tests, run by me just now:\n{telling(tests)}\n"
        f"A short game through the console: {telling(game)}\n"
        f"The playtester reported: {reports['playtester']}",
        ["main.py", "README.md", "gobang/engine.py", "docs/test_report.md"],
    )


def architect(brief: Brief) -> Playing:
    yield update_todo(["Design", "Shared code"])
    yield write_file("docs/design.md", work("docs/design.md"))
    yield [
        write_file(path, work(path))
        for path in ("gobang/__init__.py", "gobang/points.py", "tests/__init__.py", "run_tests.py")
    ]
    heard = yield run_program("gobang/points.py")
    yield update_todo([], ["Design", "Shared code"])
    yield from hand_in(
        "docs/design.md says what each module is for. gobang/points.py and run_tests.py are there "
        f"(points.py when run: {telling(ran(heard))}).",
        ["docs/design.md", "gobang/points.py", "run_tests.py"],
    )


def game_lead(brief: Brief) -> Playing:
    yield update_todo(["Split the work", "Check the parts"]), read_file("docs/design.md")
    heard = yield recruit(
        agent(
            "board_dev",
            "Developer of the rules",
            "Write gobang/board.py after docs/design.md, and its tests. Mind the edges: a row must not go on "
            "at the other side of the board.",
            ["gobang/board.py", "tests/test_board.py"],
        ),
        agent(
            "guide_writer",
            "Writer of the guide",
            "Write README.md for players: how to start, what to type, how one wins.",
            ["README.md"],
        ),
        agent(
            "console_dev",
            "Developer of the console",
            "Write gobang/console.py, main.py and tests/test_console.py, on board_dev's Board. This is what "
            f"I was told about the console:\n\n{brief.task}",
            ["gobang/console.py", "main.py", "tests/test_console.py"],
            "board_dev",
        ),
    )
    reports: Reports = {}
    heard = yield from wait(reports, heard, "board_dev", "guide_writer", "console_dev")
    heard = yield run_program("run_tests.py", ["board", "console"])
    yield update_todo([], ["Split the work", "Check the parts"])
    yield from hand_in(
        f"Rules, console and guide are there. The tests of both, run by me:\n{telling(ran(heard))}",
        ["gobang/board.py", "gobang/console.py", "main.py", "README.md"],
    )


def board_dev(brief: Brief) -> Playing:
    yield update_todo(["Rules", "Tests"]), read_file("docs/design.md"), read_file("gobang/points.py")
    yield [write_file(path, work(path)) for path in ("gobang/board.py", "tests/test_board.py")]
    heard = yield run_program("run_tests.py", ["board"])
    yield talk(
        "console_dev",
        "gobang/board.py is there. Board.play raises IllegalMoveError, a ValueError whose text is fit for "
        f"the player; Board.draw gives the 15 rows. Tests: {last_line(ran(heard))}",
    )
    yield update_todo([], ["Rules", "Tests"])
    yield from hand_in(f"The rules, tested:\n{telling(ran(heard))}", ["gobang/board.py", "tests/test_board.py"])


def guide_writer(brief: Brief) -> Playing:
    yield read_file("docs/design.md")
    yield write_file("README.md", work("README.md"))
    yield from hand_in("README.md tells a player how to start, what to type and how to win.", ["README.md"])


def console_dev(brief: Brief) -> Playing:
    paths = ["gobang/console.py", "main.py", "tests/test_console.py"]
    yield update_todo(["Console", "Tests"]), read_file("gobang/board.py"), read_file("README.md")
    yield [write_file(path, work(path)) for path in paths]
    heard = yield run_program("run_tests.py", ["console"])
    yield update_todo([], ["Console", "Tests"])
    yield from hand_in(f"The console keeps the protocol; its tests:\n{telling(ran(heard))}", paths)


def engine_lead(brief: Brief) -> Playing:
    yield update_todo(["Split the work", "Have it tested", "Check the evidence"]), read_file("docs/design.md")
    heard = yield recruit(
        agent(
            "pattern_dev",
            "Developer of patterns",
            "Write gobang/patterns.py and gobang/position.py after docs/design.md, with tests. Speed "
            "matters: a stone may cost some 30 microseconds.",
            ["gobang/patterns.py", "gobang/position.py", "tests/test_patterns.py"],
        ),
        agent(
            "search_dev",
            "Developer of the search",
            "Write gobang/engine.py after docs/design.md, and selfplay.py, where it plays against itself.",
            ["gobang/engine.py", "selfplay.py"],
            "pattern_dev",
        ),
        agent(
            "engine_tester",
            "Tester of the AI",
            "Test the AI in tests/test_engine.py: wins, fours and threes, also several of them on the board "
            "at once; simple opponents; time. Run the tests. Begin your report with `Verdict: pass` or "
            "`Verdict: fail`.",
            ["tests/test_engine.py"],
            "search_dev",
        ),
    )
    reports: Reports = {}
    heard = yield from wait(reports, heard, "pattern_dev", "search_dev", "engine_tester")
    for _ in range(ROUNDS):
        if "Verdict: pass" in reports["engine_tester"]:
            break
        found = reports.pop("engine_tester")
        del reports["search_dev"]
        heard = yield talk(
            "search_dev", f"{REWORK}, please. The tester ran your engine, and it is not in order:\n{found}"
        )
        heard = yield from wait(reports, heard, "search_dev")
        heard = yield talk("engine_tester", f"{AGAIN}; search_dev has reported:\n{reports['search_dev']}")
        heard = yield from wait(reports, heard, "engine_tester")
    heard = yield run_program("run_tests.py", ["engine", "patterns"])
    yield update_todo([], ["Split the work", "Have it tested", "Check the evidence"])
    yield from hand_in(
        f"{'The AI is there' if good(ran(heard)) else 'The AI is NOT in order'}. Its tests, run by me:\n"
        f"{telling(ran(heard))}\nThe tester's last report: {reports['engine_tester']}",
        ["gobang/engine.py", "tests/test_engine.py"],
    )


def pattern_dev(brief: Brief) -> Playing:
    paths = ["gobang/patterns.py", "gobang/position.py", "tests/test_patterns.py"]
    yield (
        update_todo(["Patterns", "Position", "Tests"]),
        read_file("docs/design.md"),
        read_file("gobang/points.py"),
    )
    yield [write_file(path, work(path)) for path in paths]
    heard = yield run_program("run_tests.py", ["patterns"])
    yield talk(
        "search_dev",
        "Position.ranked[colour][rank] is the set of empty points where that colour would make a five, an "
        "open four and so on; it follows place and take, so you need not scan the board.",
    )
    yield update_todo([], ["Patterns", "Position", "Tests"])
    yield from hand_in(f"Patterns and position, tested:\n{telling(ran(heard))}", paths)


def search_dev(brief: Brief) -> Playing:
    paths = ["gobang/engine.py", "selfplay.py"]
    yield (
        update_todo(["Search", "Self-play"]),
        read_file("gobang/patterns.py"),
        read_file("gobang/position.py"),
    )
    yield write_file("gobang/engine.py", first_engine()), write_file("selfplay.py", work("selfplay.py"))
    heard = yield run_program("selfplay.py", ["0.05", "24"])
    yield update_todo([], ["Search", "Self-play"])
    heard = yield from hand_in(f"The engine plays. Against itself: {last_line(ran(heard))}", paths)
    while True:
        yield from listen(heard, REWORK)
        heard = yield update_todo(["Mend what the tester found"]), read_file("gobang/engine.py")
        text = ran(heard)
        found = (
            "_urgent answered an open three on sight, before it looked for a four; now fours come first, and "
            "answers to a three are searched"
            if "_answers(me)[:1]" in text
            else "I have written the engine anew"
        )
        yield write_file("gobang/engine.py", work("gobang/engine.py"))
        heard = yield run_program("run_tests.py", ["engine"])
        yield talk("engine_tester", f"{found}. Your tests, run by me: {last_line(ran(heard))}")
        yield update_todo([], ["Mend what the tester found"])
        heard = yield from hand_in(
            f"Mended: {found}. The tests of the engine, run on it:\n{telling(ran(heard))}", paths
        )


def engine_tester(brief: Brief) -> Playing:
    yield update_todo(["Write tests", "Run them"]), read_file("gobang/engine.py"), read_file("selfplay.py")
    yield write_file("tests/test_engine.py", work("tests/test_engine.py"))
    while True:
        heard = yield run_program("run_tests.py", ["engine"])
        result = ran(heard)
        if not good(result):
            yield talk("search_dev", f"I ran tests/test_engine.py on your engine, and it fails:\n{telling(result)}")
        yield update_todo([], ["Write tests", "Run them"])
        verdict = "Verdict: pass" if good(result) else "Verdict: fail"
        heard = yield from hand_in(
            f"{verdict}. run_tests.py engine printed:\n{telling(result)}", ["tests/test_engine.py"]
        )
        yield from listen(heard, AGAIN)


GAMES = {
    "An illegal move is refused, and the AI answers a legal one": (
        ("position a1 c12 b2 l4 c3 m12", "d4", "d4", "q20"),
        ("AI e5", "ILLEGAL "),
    ),
    "Five in a row win": (("position a5 h9 b4 i9 c3 j9 d2 k9", "e1"), ("WINNER black",)),
    "A four is blocked although an open three stands elsewhere": (
        ("position a1 c12 b2 l4 c3 m12 d4 e13 j10 n3 k10 f2 l10", "go"),
        ("AI e5",),
    ),
}
"""What the playtester types in each game, and what the program must print."""


def playtester(brief: Brief) -> Playing:
    yield update_todo(["Run all tests", "Play", "Write the report"]), read_file("README.md")
    heard = yield run_program("run_tests.py")
    passed = [good(ran(heard))]
    report = [f"# Test report\n\n## All tests\n\n```\n{telling(ran(heard))}\n```\n"]
    for title, (lines, expected) in GAMES.items():
        printed = yield from play_game(lines)
        passed.append(all(re.search(f"^{word}", printed, re.M) for word in expected))
        shown = [s for s in printed.splitlines() if re.match("AI |ILLEGAL |WINNER |DRAW|READY ", s)]
        report.append(
            f"## {title}: {'yes' if passed[-1] else 'NO'}\n\nTyped:\n\n```\n" + "\n".join(lines) + "\n```\n\n"
            "Printed (without the boards):\n\n```\n" + "\n".join(shown) + "\n```\n"
        )
    yield write_file("docs/test_report.md", "\n".join(report))
    yield update_todo([], ["Run all tests", "Play", "Write the report"])
    yield from hand_in(
        f"{sum(passed)} of {len(passed)} trials went well (all tests, then three games at the console). "
        f"What was typed and printed is in docs/test_report.md. {telling(report[0])}",
        ["docs/test_report.md"],
    )


def play_game(lines: tuple[str, ...]) -> Generator[Turn, Heard, str]:
    """Play at the console as a person would, line by line; all that it printed."""
    ready = r"(?m)^READY \w+$"
    for _ in range(ROUNDS):
        heard = yield call("start_program", path="main.py", args=["--seconds", "0.3"])
        found = re.match(r"program (\d+) is started", ran(heard))
        if found is None:
            return ran(heard)
        program, printed = int(found[1]), [ran(heard)]
        for line in lines:
            heard = yield call("send_input", program=program, text=f"{line}\n", until=ready, seconds=30)
            printed.append(ran(heard))
            if ran(heard).startswith("Error: you have no interactive program"):
                break  # The run was stopped and resumed in between: the game begins again.
        else:
            yield call("stop_program", program=program)
            return "\n".join(printed)
    return "\n".join(printed)


script = Script(
    {
        "boss": boss,
        "architect": architect,
        "game_lead": game_lead,
        "board_dev": board_dev,
        "guide_writer": guide_writer,
        "console_dev": console_dev,
        "engine_lead": engine_lead,
        "pattern_dev": pattern_dev,
        "search_dev": search_dev,
        "engine_tester": engine_tester,
        "playtester": playtester,
    },
    pace=0.15,
)
