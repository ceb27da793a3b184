"""A terminal for the program: a pty whose screen can be read."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyte

from tests.commands import child_env


class Terminal:
    """The program on a terminal of some size."""

    def __init__(self, child: subprocess.Popen[bytes], fd: int, columns: int, lines: int) -> None:
        self.child = child
        self._fd = fd
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.ended = False

    @property
    def lines(self) -> list[str]:
        """What stands on the screen."""
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def read(self, seconds: float = 0.1) -> None:
        """Let the program write for a while."""
        end = time.monotonic() + seconds
        while not self.ended and (left := end - time.monotonic()) > 0:
            if select.select([self._fd], [], [], left)[0]:
                try:
                    said = os.read(self._fd, 65536)
                except OSError:
                    said = b""
                self.ended = not said
                self._stream.feed(said)

    def until(self, condition: Callable[[str], bool], seconds: float = 180) -> str:
        """The screen as soon as it meets the condition."""
        end = time.monotonic() + seconds
        while not condition(self.text):
            assert time.monotonic() < end and not self.ended, f"it did not come to pass:\n{self.text}"
            self.read(0.05)
        return self.text

    def end(self, seconds: float = 120) -> int:
        """Read to the end; the exit code."""
        limit = time.monotonic() + seconds
        while not self.ended:
            assert time.monotonic() < limit, self.text
            self.read(1)
        return self.child.wait(timeout=120)


@contextmanager
def terminal(home: Path, *args: str | Path, columns: int = 80, lines: int = 24) -> Iterator[Terminal]:
    """`megagraph` with these arguments on a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    env = child_env(home, TERM="xterm-256color")
    for name in ("COLUMNS", "LINES"):
        env.pop(name, None)
    command = [sys.executable, "-m", "megagraph", *map(str, args)]
    child = subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    try:
        yield Terminal(child, ours, columns, lines)
    finally:
        child.kill()
        child.wait()
        os.close(ours)
