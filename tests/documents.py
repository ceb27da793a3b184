"""Pages of Markdown as their readers use them: the files they show are written, their code and commands are run."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megagraph.cli import main

_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.M | re.S)
_FILE = re.compile(r"# (\S+/\S+\.\w+)\n")
_NOT_RUN = (".", "apt", "cd", "docker", "export", "kill", "llama-server", "make", "ollama", "pip", "vllm")
"""Commands that install something, start servers, or change the shell itself."""
_MAY_WORK = ("run", "resume", "branch")


@dataclass(frozen=True)
class Block:
    """A block of code of a page."""

    language: str
    text: str
    line: int

    @property
    def path(self) -> str:
        """The file that it shows, named in a comment in its first line; empty for code to be run."""
        named = _FILE.match(self.text)
        return named[1] if named else ""


@dataclass(frozen=True)
class Page:
    """A page, by its path."""

    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def blocks(self) -> list[Block]:
        text = self.text
        return [Block(b[2], b[3], text.count("\n", 0, b.start()) + 1) for b in _BLOCK.finditer(text)]

    @property
    def files(self) -> dict[str, str]:
        """The files that it shows, by path."""
        return {block.path: block.text for block in self.blocks if block.path}

    @property
    def python(self) -> list[str]:
        """The Python to be run."""
        return [block.text for block in self.blocks if block.language == "python" and not block.path]

    def links(self) -> list[str]:
        """Where it leads to, other than to other sites."""
        prose = re.sub(r"`+[^`\n]*`+", "", _BLOCK.sub("", self.text))
        return re.findall(r"\]\((?!https?:)([^)]+)\)", prose)

    def anchors(self) -> set[str]:
        """The fragments that its headings can be addressed by."""
        heads = re.findall(r"^#+ (.+)$", _BLOCK.sub("", self.text), re.M)
        return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", head.lower()).strip()) for head in heads}


@dataclass
class Reader:
    """Somebody who does what a page says, in the working folder, and compares what comes with what it shows."""

    servers: dict[str, str]
    """What takes the place of addresses in commands and code."""

    def follow(self, page: Page) -> None:
        """Do everything in its order. A block `text` behind something that was run shows what is printed then."""
        said = ""
        for block in page.blocks:
            where = f"{page.path.name}:{block.line}"
            if block.path:
                _write(Path(block.path), block.text)
            elif block.language == "python":
                said = self._python(block, where)
            elif block.language == "sh":
                said = "".join(self._command(line, where) for line in _lines(block.text))
            elif block.language == "text" and said:
                assert _shown(block.text, said), f"{where} shows\n{block.text}\nand what comes is\n{said}"
                said = ""

    def _python(self, block: Block, where: str) -> str:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(self._placed(block.text), where, "exec"), {"__name__": "page"})
        return out.getvalue()

    def _command(self, line: str, where: str) -> str:
        command, _, remark = line.partition("  # ")
        wanted = re.match(r"exit code (\d+)", remark)
        code, said = 0, ""
        for part in command.split(" && "):
            argv = shlex.split(self._placed(part))
            if argv[0] in _NOT_RUN or argv[1:3] == ["-m", "venv"]:
                continue
            code, said_now = _megagraph(argv[1:]) if argv[0] == "megagraph" else _program(argv)
            said += said_now
            assert code == (int(wanted[1]) if wanted else 0), f"{where}: {part} ended with {code}:\n{said_now}"
        return said

    def _placed(self, text: str) -> str:
        for address, url in self.servers.items():
            text = text.replace(address, url)
        return text


def dead_links(page: Page, root: Path) -> Iterator[str]:
    """The links of a page that lead nowhere, or out of `root`."""
    for link in page.links():
        target, _, fragment = link.partition("#")
        path = (page.path.parent / target).resolve() if target else page.path
        there = path.exists() and path.is_relative_to(root)
        if not there or (fragment and path.suffix == ".md" and fragment not in Page(path).anchors()):
            yield link


def _lines(text: str) -> Iterator[str]:
    joined = text.replace("\\\n", " ")
    return (line for line in joined.splitlines() if line.strip() and not line.startswith("#"))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _megagraph(argv: Sequence[str]) -> tuple[int, str]:
    """The program in this process; where there is no sandbox, programs are run without."""
    out = io.StringIO()
    unsafe = ["--unsafe-programs"] if argv[0] in _MAY_WORK else []
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main([*argv, *unsafe])
            code = 0
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 0 if exit_.code is None else 1
    return code, out.getvalue()


def _program(argv: Sequence[str]) -> tuple[int, str]:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=180, env=os.environ, check=False)
    return done.returncode, done.stdout + done.stderr


def _shown(expected: str, said: str) -> bool:
    """Whether the lines are there in this order, side by side but for lines `…`; in a line, `…` is anything."""
    pattern = ""
    for line in expected.splitlines():
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(re.escape(part.rstrip()) for part in line.split("…")) + r"[ ]*\n"
    return re.search(f"^{pattern}", said, re.M) is not None
