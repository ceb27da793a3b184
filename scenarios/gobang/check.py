"""Judge a Gobang program from outside, through its console: `python check.py DIR`.

Prints one JSON object a line, `{"check": …, "passed": …, "detail": …}`, and exits with 0 if all passed.
Any program that keeps the protocol of the goal can be judged. A program that hangs, dies, floods its output
or breaks the rules fails the checks it does this in; the judge itself always comes to an end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

SIZE = 15
POINTS = SIZE * SIZE
BLACK, WHITE = 1, 2
COLOURS = ("empty", "black", "white")
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))

SECONDS_A_MOVE = 5.0
HANGS_ALLOWED = 3
"""So many hangs end the judging: the checks that are left have failed."""

MOST_OUTPUT = 200_000
"""Bytes that one answer may have."""

GAME_TIME = 180.0
"""Seconds that the moves of one program may take all together."""

JUDGING_TIME = 600.0
"""Seconds after which no other program is started, and those that run are stopped."""

AT_ONCE = 2
"""Programs that are judged at the same time."""

THINKING = "0.3"
"""The `--seconds` of the games against the random and the greedy player."""


class FailedError(Exception):
    """The program did not do what the check asks for."""


# The board


def point(name: str) -> int:
    found = re.fullmatch(r"([a-o])([1-9]|1[0-5])", name.lower())
    if found is None:
        raise FailedError(f"`{name[:20]}` is not a point")
    return (int(found[2]) - 1) * SIZE + ord(found[1]) - ord("a")


def name(at: int) -> str:
    return f"{chr(ord('a') + at % SIZE)}{at // SIZE + 1}"


def names(points: Iterable[int]) -> str:
    return " ".join(name(p) for p in points)


def points(text: str) -> list[int]:
    return [point(word) for word in text.split()]


def _lines() -> list[list[list[int]]]:
    """For each point, its four lines through the whole board."""
    through: list[list[list[int]]] = [[] for _ in range(POINTS)]
    for at in range(POINTS):
        for down, right in DIRECTIONS:
            line = [
                (at // SIZE + k * down) * SIZE + at % SIZE + k * right
                for k in range(-SIZE, SIZE + 1)
                if 0 <= at // SIZE + k * down < SIZE and 0 <= at % SIZE + k * right < SIZE
            ]
            through[at].append(line)
    return through


LINES = _lines()


class Board:
    """The judge's own board."""

    def __init__(self, moves: Iterable[int] = ()) -> None:
        self.cells = [0] * POINTS
        self.moves: list[int] = []
        self.winner = 0
        for move in moves:
            self.play(move)

    @property
    def to_move(self) -> int:
        return WHITE if len(self.moves) % 2 else BLACK

    @property
    def over(self) -> bool:
        return bool(self.winner) or len(self.moves) == POINTS

    def play(self, at: int) -> None:
        if self.over or self.cells[at]:
            raise FailedError(f"{name(at)} is no legal move after {names(self.moves)}")
        self.cells[at] = self.to_move
        if self.makes_five(at, self.cells[at]):
            self.winner = self.cells[at]
        self.moves.append(at)

    def makes_five(self, at: int, colour: int) -> bool:
        return any(self.row(line, at, colour)[0] >= 5 for line in LINES[at])

    def row(self, line: Sequence[int], at: int, colour: int) -> tuple[int, int]:
        """How long a row a stone of `colour` on `at` is part of along `line`, and how many ends are open."""
        low = high = line.index(at)
        while low > 0 and self.cells[line[low - 1]] == colour:
            low -= 1
        while high + 1 < len(line) and self.cells[line[high + 1]] == colour:
            high += 1
        ends = (
            low > 0 and not self.cells[line[low - 1]],
            high + 1 < len(line) and not self.cells[line[high + 1]],
        )
        return high - low + 1, sum(ends)

    def empty(self) -> list[int]:
        return [at for at in range(POINTS) if not self.cells[at]]

    def fives(self, colour: int) -> set[int]:
        """The empty points where `colour` would win at once."""
        return {at for at in self.empty() if self.makes_five(at, colour)}

    def open_fours(self, colour: int) -> set[int]:
        """The empty points where `colour` would make a four that cannot be stopped."""
        found = set()
        for at in self.empty():
            self.cells[at] = colour
            near = {p for line in LINES[at] for p in line[max(0, line.index(at) - 4) : line.index(at) + 5]}
            if sum(not self.cells[p] and self.makes_five(p, colour) for p in near) > 1:
                found.add(at)
            self.cells[at] = 0
        return found


# The players that the AI has to beat


def random_player(board: Board, dice: random.Random) -> int:
    return dice.choice(board.empty())


ROW_VALUE = (
    (0, 0, 0, 0, 0),
    (0, 1, 10, 100, 1000),
    (0, 2, 50, 500, 50_000),
)
"""By open ends and length."""


def greedy_player(board: Board, dice: random.Random) -> int:
    """Looks at the rows that a stone would make for either side, and not a move further."""

    def value(at: int, colour: int) -> float:
        rows = (board.row(line, at, colour) for line in LINES[at])
        return sum(1_000_000 if length >= 5 else ROW_VALUE[ends][length] for length, ends in rows)

    me = board.to_move
    return max(board.empty(), key=lambda at: (value(at, me) + 0.9 * value(at, 3 - me), dice.random()))


# The program


@dataclass
class Answer:
    """What the program printed in answer to one line."""

    ready: str = ""
    ai: int | None = None
    illegal: bool = False
    ends: list[str] = field(default_factory=list)
    board: list[int] | None = None


class Judge:
    """The program's folder, and what has been found out so far."""

    def __init__(self, folder: Path, patience: float) -> None:
        self.folder = folder
        self.patience = patience
        """Seconds without an answer after which the program counts as hanging."""
        self.until = time.monotonic() + JUDGING_TIME
        self.hangs = 0
        self.slowest = 0.0
        self.ai_moves = 0
        self._lock = threading.Lock()

    def note(self, *, hang: bool = False, ai_seconds: float | None = None) -> None:
        with self._lock:
            self.hangs += hang
            if ai_seconds is not None:
                self.ai_moves += 1
                self.slowest = max(self.slowest, ai_seconds)


class Program:
    """A running game program, and the judge's board beside it. Use it as a context manager."""

    def __init__(self, judge: Judge, *options: str) -> None:
        if judge.hangs >= HANGS_ALLOWED:
            raise FailedError(f"not judged: the program has hung {judge.hangs} times")
        if time.monotonic() > judge.until:
            raise FailedError(f"not judged: the program has been judged for {JUDGING_TIME:.0f} s")
        self.judge = judge
        self.board = Board()
        self._until = min(time.monotonic() + GAME_TIME, judge.until)
        self._ai_begins = options == ("--first", "ai")
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self._errors = b""
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        self._process = subprocess.Popen(
            [sys.executable, "-B", "main.py", *options],
            cwd=judge.folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def __enter__(self) -> Program:
        try:
            self._expect(self._answer("the start"), ai_moves=self._ai_begins)
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def position(self, moves: Sequence[int]) -> Answer:
        """Set up a position; it has to be taken as it is."""
        self.board = Board(moves)
        answer = self.ask(f"position {names(moves)}")
        self._expect(answer, ai_moves=False)
        return answer

    def move(self, at: int, *, answered: bool) -> Answer:
        """Make a legal move, `answered` by the AI unless the game is over; all of it has to be right."""
        self.board.play(at)
        answer = self.ask(name(at))
        self._expect(answer, ai_moves=answered and not self.board.over)
        return answer

    def go(self) -> int:
        """Let the AI move; its move, which has been found to be legal."""
        answer = self.ask("go")
        self._expect(answer, ai_moves=True)
        return self.board.moves[-1]

    def refused(self, line: str) -> None:
        """Say something illegal: it has to be refused, and nothing may change."""
        answer = self.ask(line)
        if not answer.illegal:
            raise FailedError(f"`{line[-60:]}` was not answered with ILLEGAL after `{names(self.board.moves)[-60:]}`")
        self._compare(self.ask("board"))

    def ask(self, line: str) -> Answer:
        """Send a line and read up to the next READY."""
        if self._lines:
            raise FailedError(f"it printed `{self._lines[0][:60].decode(errors='replace')}` after READY")
        pipe = self._process.stdin
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):
            pipe.write(f"{line}\n".encode())
            pipe.flush()
        started = time.monotonic()
        answer = self._answer(f"`{line[:60]}`")
        if answer.ai is not None:
            self.judge.note(ai_seconds=time.monotonic() - started)
        return answer

    def quits(self) -> int:
        """Send `quit`; the exit code."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"quit\n")
            self._process.stdin.flush()
        try:
            return self._process.wait(self.judge.patience)
        except subprocess.TimeoutExpired:
            self.judge.note(hang=True)
            raise FailedError("the program does not end on `quit`") from None

    def _expect(self, answer: Answer, *, ai_moves: bool) -> None:
        """Follow the AI's move on the judge's board, and hold the answer against that."""
        after = f"after `{names(self.board.moves)[-60:]}`"
        if answer.illegal:
            raise FailedError(f"a legal line was refused {after}")
        if ai_moves and answer.ai is None:
            raise FailedError(f"the AI did not move {after}")
        if not ai_moves and answer.ai is not None:
            raise FailedError(f"the AI moved where it should not {after}")
        if answer.ai is not None:
            if self.board.over or self.board.cells[answer.ai]:
                raise FailedError(f"the AI made the illegal move {name(answer.ai)} {after}")
            self.board.play(answer.ai)
        ends = [f"WINNER {COLOURS[self.board.winner]}"] if self.board.winner else ["DRAW"] * self.board.over
        if sorted(set(answer.ends)) != ends:
            said, due = ", ".join(answer.ends) or "nothing", ", ".join(ends) or "nothing"
            raise FailedError(f"about the end it said {said}, due was {due}, {after}")
        self._compare(answer)

    def _compare(self, answer: Answer) -> None:
        """Hold the board and the turn that an answer shows against the judge's board."""
        after = f"after `{names(self.board.moves)[-60:]}`"
        ready = "over" if self.board.over else COLOURS[self.board.to_move]
        if answer.ready != ready:
            raise FailedError(f"it said `READY {answer.ready[:20]}`, due was `READY {ready}`, {after}")
        if answer.board != self.board.cells:
            raise FailedError(f"its BOARD is {'missing' if answer.board is None else 'wrong'} {after}")

    def _answer(self, to: str) -> Answer:
        answer = Answer()
        read = 0
        rows: list[int] | None = None
        until = min(time.monotonic() + self.judge.patience, self._until)
        while True:
            line = self._line(until, to)
            read += len(line) + 1
            if read > MOST_OUTPUT:
                raise FailedError(f"more than {MOST_OUTPUT} bytes in answer to {to}")
            words = line.split()
            if rows is not None:
                rows = [*_row(words, SIZE - len(rows) // SIZE), *rows]
                if len(rows) == POINTS:
                    answer.board, rows = rows, None
                continue
            match words:
                case ["READY", whose, *_]:
                    answer.ready = whose
                    return answer
                case ["BOARD"]:
                    rows = []
                case ["AI", where]:
                    if answer.ai is not None:
                        raise FailedError(f"two moves of the AI in answer to {to}")
                    answer.ai = point(where)
                case ["ILLEGAL", *_]:
                    answer.illegal = True
                case ["WINNER", _] | ["DRAW"]:
                    answer.ends.append(" ".join(words))

    def _line(self, until: float, to: str) -> str:
        out, err = self._process.stdout, self._process.stderr
        assert out is not None and err is not None
        streams = [out, err]
        while not self._lines:
            if len(self._rest) > MOST_OUTPUT:
                raise FailedError(f"a line of more than {MOST_OUTPUT} bytes in answer to {to}")
            ready, _, _ = select.select(streams, [], [], max(0.0, until - time.monotonic()))
            if not ready:
                self.judge.note(hang=True)
                raise FailedError(f"no READY in time in answer to {to}")
            if err in ready:
                data = os.read(err.fileno(), 65_536)
                self._errors = (self._errors + data)[-2000:]
                if not data:
                    streams.remove(err)
            if out in ready:
                data = os.read(out.fileno(), 65_536)
                *lines, self._rest = (self._rest + data).split(b"\n")
                self._lines.extend(lines)
                if not data:
                    if err in streams and select.select([err], [], [], 1.0)[0]:
                        self._errors += os.read(err.fileno(), 65_536)
                    last = self._errors.decode(errors="replace").strip().splitlines()[-1:]
                    raise FailedError(f"the program ended in answer to {to}" + "".join(f": {e[:200]}" for e in last))
        return self._lines.popleft().decode(errors="replace")


def _row(words: list[str], number: int) -> list[int]:
    if len(words) != SIZE + 1 or words[0] != str(number) or not set(words[1:]) <= set(".XO"):
        raise FailedError(f"row {number} of BOARD is `{' '.join(words)[:60]}`")
    return [".XO".index(word) for word in words[1:]]


# The checks. Each is a list of parts; a part is a function that raises `FailedError`.

Part = Callable[[Judge], None]


@dataclass(frozen=True)
class Check:
    name: str
    parts: Sequence[Part]
    needed: int = 0
    """How many parts have to pass, of games; 0 means all, and then what failed is what is told."""


def starts(judge: Judge) -> None:
    for options in ((), ("--first", "ai"), ("--two-players",)):
        with Program(judge, *options) as program:
            code = program.quits()
            if code:
                raise FailedError(f"exit code {code} on `quit` with options {list(options)}")


def takes_legal_moves(judge: Judge) -> None:
    with Program(judge) as program:
        program.move(point("h8"), answered=True)
    with Program(judge, "--two-players") as program:
        for at in points("a1 o15 o1 a15 h8"):
            program.move(at, answered=False)


def refuses_illegal_moves(judge: Judge) -> None:
    nonsense = [
        "p8",
        "h16",
        "h0",
        "a-1",
        "8",
        "h",
        "hh8",
        "h8h9",
        "pass the salt",
        "?",
        "position h8 h8",
        "position h9 q1",
    ]
    nonsense.append(f"position {names(_interleave(points('a1 b1 c1 d1 e1 f1'), points('a9 c9 e9 g9 i9')))}")
    with Program(judge, "--two-players") as program:
        program.position(points("h8 i9"))
        for line in ["h8", "i9", *nonsense]:
            program.refused(line)
        program.move(point("j10"), answered=False)
    with Program(judge) as program:
        program.move(point("h8"), answered=True)
        for at in list(program.board.moves):
            program.refused(name(at))
        program.move(program.board.empty()[0], answered=True)


def ai_answers(judge: Judge) -> None:
    """The AI at its usual speed, with either colour, against moves that leave it to think."""
    for options, replies in (((), "h8 g9 k7 f6"), (("--first", "ai"), "i9 g6 k10 j6")):
        with Program(judge, *options) as program:
            for at in points(replies):
                if not program.board.over and not program.board.cells[at]:
                    program.move(at, answered=True)


def wins(colour: int) -> Part:
    """A win of `colour`: between two people, of a person against the AI, and of the AI."""

    def part(judge: Judge) -> None:
        row = points("f8 g8 h8 i8 j8")
        before = _with_others(row[:4], colour, colour)
        with Program(judge, "--two-players") as program:
            for at in before:
                program.move(at, answered=False)
            program.move(row[4], answered=False)
            program.refused("o15")
            program.position([])
        with Program(judge) as program:
            program.position(before)
            program.move(row[4], answered=True)
            program.refused("go")
            program.position(before)
            program.go()
            if program.board.winner != colour:
                raise FailedError("the AI did not play the winning move")

    return part


def draw(judge: Judge) -> None:
    """A whole game to the last point, and once more with the AI to make the last move."""
    moves = full_board()
    with Program(judge, "--two-players") as program:
        for at in moves:
            program.move(at, answered=False)
        program.refused("a1")
    with Program(judge) as program:
        program.position(moves[:-1])
        program.go()


def full_board() -> list[int]:
    """A game that fills the board, with no row longer than four."""
    colours = [BLACK if (at % SIZE // 2 + at // SIZE) % 2 == 0 else WHITE for at in range(POINTS)]
    stones = {c: [at for at in range(POINTS) if colours[at] == c] for c in (BLACK, WHITE)}
    dice = random.Random(225)
    for side in stones.values():
        dice.shuffle(side)
    return _interleave(stones[BLACK], stones[WHITE])


def sees_rows(rows: Sequence[Sequence[int]]) -> Part:
    """Each of `rows` wins with its last stone, at an end or within, and within in a row of six."""

    def part(judge: Judge) -> None:
        with Program(judge, "--two-players") as program:
            for n, row in enumerate(rows):
                lasts = row if len(row) == 5 else row[1:-1]
                last = lasts[n % len(lasts)]
                colour = BLACK if n % 2 else WHITE
                program.position(_with_others([at for at in row if at != last], colour, colour))
                program.move(last, answered=False)

    return part


def rows_of(length: int) -> list[list[int]]:
    """All rows of `length` points on the board."""
    found = {tuple(line[i : i + length]) for lines in LINES for line in lines for i in range(len(line) - length + 1)}
    return [list(row) for row in sorted(found)]


def at_edge(row: Sequence[int]) -> bool:
    return any(at % SIZE in (0, SIZE - 1) or at // SIZE in (0, SIZE - 1) for at in row)


NO_WINS = [
    *("f8 g8 h8 i8", "h4 h5 h6 h7", "f6 g7 h8 i9", "f10 g9 h8 i7"),  # fours
    *("f8 g8 i8 j8 k8", "h4 h5 h6 h8 h9", "f6 g7 h8 j10 k11", "f10 g9 h8 j6 k5"),  # a gap
    *("m8 n8 o8 a9 b9", "m9 n9 o9 a8 b8", "a8 b8 c8 n8 o8", "h1 h2 h13 h14 h15"),  # around an edge
    *("m6 n7 o8 a10 b11", "c6 b7 a8 o8 n9", "a1 b2 m13 n14 o15", "a15 b14 c13 n2 o1", "m6 n7 o8 a9 b10"),
]


def no_false_wins(judge: Judge) -> None:
    with Program(judge, "--two-players") as program:
        for colour in (BLACK, WHITE):
            for text in NO_WINS:
                stones = points(text)
                program.position(_with_others(stones[:-1], colour, colour))
                program.move(stones[-1], answered=False)


# Puzzles: the AI's stones, then the other side's. What a good answer is, the judge works out on its board.

TAKES_A_WIN = [
    ("f8 g8 h8 i8", "c3 d3 e3 f3"),
    ("l12 m13 n14 o15", "d4 d5 d6 d7"),
    ("b14 c13 e11 f10", "j4 k4 l4 m4"),
    ("a1 a2 a3 a4", "j10 k10 m10 n10 h3 h4 h5"),
]
BLOCKS_A_FOUR = [
    ("d12 c4", "e8 f8 h8 i8 l3 l4 l5"),
    ("m3 e12", "a1 b2 c3 d4 j10 k10 l10"),
    ("f4 h13", "o4 n5 m6 l7 d10 d11 d12"),
    ("h3 k12 l12 m12", "h4 h5 h6 h7 c9 d10 e11"),
]
MEETS_AN_OPEN_FOUR = [("c3 l12", "f8 g8 h8 i8"), ("m3 c12 d12 e12", "f10 g9 h8 i7")]
STOPS_A_THREE = [
    ("c3 l4", "g8 h8 i8"),
    ("m12 c4", "f6 g7 i9"),
    ("d12 k3", "m6 m7 m8"),
    ("c5 l12", "g9 h8 i7"),
]


def puzzles(stones: Sequence[tuple[str, str]], seed: int) -> Part:
    """Each puzzle with either colour, turned and mirrored."""

    def part(judge: Judge) -> None:
        dice = random.Random(seed)
        with Program(judge) as program:
            for mine, theirs in stones:
                for me in (BLACK, WHITE):
                    program.position(posed(mine, theirs, me, dice.randrange(8)))
                    before = Board(program.board.moves)
                    move = program.go()
                    if not sound(before, move):
                        raise FailedError(f"as {COLOURS[me]} it played {name(move)} after `{names(before.moves)}`")

    return part


def posed(mine: str, theirs: str, me: int, view: int) -> list[int]:
    """The moves that lead to a puzzle for `me` to solve, in one of eight views."""
    sides = [[_seen(at, view) for at in points(text)] for text in (mine, theirs)]
    return _with_others(sides[0], me, me, sides[1])


def sound(board: Board, move: int) -> bool:
    """Whether `move` takes the win, or else meets the four, or else lets no three become an open four."""
    me = board.to_move
    for colour in (me, 3 - me):
        fives = board.fives(colour)
        if fives:
            return move in fives
    after = Board([*board.moves, move])
    return bool(after.fives(me)) or not after.open_fours(3 - me)


def _seen(at: int, view: int) -> int:
    """A point after one of the eight turns and mirrorings of the board."""
    row, column = divmod(at, SIZE)
    if view & 1:
        row = SIZE - 1 - row
    if view & 2:
        column = SIZE - 1 - column
    if view & 4:
        row, column = column, row
    return row * SIZE + column


def _with_others(stones: Sequence[int], colour: int, to_move: int, others: Sequence[int] = ()) -> list[int]:
    """Moves that lead to these stones of `colour`, `others` of the other, and harmless ones besides."""
    sides = {colour: list(stones), 3 - colour: list(others)}
    harmless = [r * SIZE + c for r in range(1, SIZE, 3) for c in range(1, SIZE, 3)]
    random.Random(len(stones)).shuffle(harmless)

    def far(at: int) -> int:
        taken = [p for side in sides.values() for p in side]
        return min(max(abs(at // SIZE - p // SIZE), abs(at % SIZE - p % SIZE)) for p in taken)

    while len(sides[BLACK]) - len(sides[WHITE]) != (to_move == WHITE):
        short = BLACK if len(sides[BLACK]) - len(sides[WHITE]) < (to_move == WHITE) else WHITE
        best = max((at for at in harmless if far(at)), key=far)
        sides[short].append(best)
    return _interleave(sides[BLACK], sides[WHITE])


def _interleave(black: Sequence[int], white: Sequence[int]) -> list[int]:
    moves = [0] * (len(black) + len(white))
    moves[0::2], moves[1::2] = black, white
    return moves


# Games

OPENINGS = ["", "h8 i8", "h8 i9 j7", "g7 i9 h10", "h8 h10 i7 g9"]


def beats(player: Callable[[Board, random.Random], int], game: int) -> Part:
    """A game against `player`; every opening is played twice, and the AI has black first, then white."""

    def part(judge: Judge) -> None:
        dice = random.Random(game)
        opening = OPENINGS[game // 2 % len(OPENINGS)]
        me = WHITE if game % 2 else BLACK
        with Program(judge, "--seconds", THINKING) as program:
            program.position(points(opening))
            if program.board.to_move == me:
                program.go()
            while not program.board.over:
                program.move(player(program.board, dice), answered=True)
            if program.board.winner != me:
                raise FailedError(f"no win as {COLOURS[me]} from `{opening}`: `{names(program.board.moves)}`")

    return part


def in_time(judge: Judge) -> None:
    if judge.hangs:
        raise FailedError(f"no answer within {judge.patience:g} s, {judge.hangs} times")
    if not judge.ai_moves:
        raise FailedError("the AI made no move")
    if judge.slowest >= SECONDS_A_MOVE:
        raise FailedError(f"the slowest of {judge.ai_moves} moves took {judge.slowest:.1f} s")


IN_TIME = Check("answers in time", [in_time])
"""Looks at the times of all moves, so it comes when all others are done."""


def checks(quick: bool) -> list[Check]:
    games = 2 if quick else 10
    fives = rows_of(5)
    inside = [row for row in fives if not at_edge(row)]
    edge = [row for row in fives if at_edge(row)]
    return [
        Check("starts", [starts]),
        Check("takes a legal move", [takes_legal_moves]),
        Check("refuses illegal moves", [refuses_illegal_moves]),
        Check("the AI answers legally", [ai_answers]),
        Check("black wins", [wins(BLACK)]),
        Check("white wins", [wins(WHITE)]),
        Check("a full board is a draw", [draw]),
        Check(
            "sees five in all directions",
            [sees_rows(inside[:: 29 if quick else 7]), sees_rows(rows_of(6)[::41])],
        ),
        Check("sees five at the edges", [sees_rows(edge)]),
        Check("sees no five where there is none", [no_false_wins]),
        Check("takes a win", [puzzles(TAKES_A_WIN, 1)]),
        Check("blocks a four beside a three", [puzzles(BLOCKS_A_FOUR, 2)]),
        Check("meets an open four", [puzzles(MEETS_AN_OPEN_FOUR, 3)]),
        Check("stops an open three", [puzzles(STOPS_A_THREE, 4)]),
        Check("beats a random player", [beats(random_player, n) for n in range(games)], games),
        Check("beats a greedy player", [beats(greedy_player, n) for n in range(games)], games * 4 // 5),
        IN_TIME,
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Judge a Gobang program through its console.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(), help="where its main.py is")
    parser.add_argument("--quick", action="store_true", help="fewer games and rows")
    parser.add_argument("--only", action="append", default=[], metavar="CHECK", help="just this check")
    parser.add_argument("--patience", type=float, default=15.0, help="seconds without an answer that are a hang")
    options = parser.parse_args()
    judge = Judge(options.folder.resolve(), options.patience)
    chosen = [check for check in checks(options.quick) if check.name in options.only or not options.only]
    passed_all = True
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = [
            (check, [pool.submit(_failure, part, judge) for part in check.parts if check is not IN_TIME])
            for check in chosen
        ]
        for check, results in running:
            failures = [result.result() for result in results]
            passed_all &= _tell(check, failures or [_failure(in_time, judge)], judge)
    return 0 if passed_all else 1


def _failure(part: Part, judge: Judge) -> str:
    """What is wrong, or nothing."""
    try:
        part(judge)
    except (FailedError, OSError) as error:
        return str(error)
    return ""


def _tell(check: Check, failures: Sequence[str], judge: Judge) -> bool:
    wrong = [failure for failure in failures if failure]
    good = len(failures) - len(wrong)
    passed = good >= (check.needed or len(failures))
    told = [f"won {good} of {len(failures)}"] * bool(check.needed) + wrong[:1]
    if check is IN_TIME and passed:
        told = [f"slowest of {judge.ai_moves} moves: {judge.slowest:.1f} s"]
    print(json.dumps({"check": check.name, "passed": passed, "detail": "; ".join(told)}), flush=True)
    return passed


if __name__ == "__main__":
    sys.exit(main())
