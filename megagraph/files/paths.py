"""Which paths a shared file may have, and which of them a pattern means."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from fnmatch import fnmatchcase

from megagraph.errors import ToolError

MAX_PATH = 1024
"""Bytes of a whole path, in UTF-8."""
MAX_SEGMENT = 255
"""Bytes of one name in it, which is what most file systems hold."""
MAX_DEPTH = 32
"""Folders and the file: every level costs one more object per commit."""

_DRIVE = re.compile(r"[A-Za-z]:")
_FORBIDDEN = re.compile(r'[<>:"|?*\\]')
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9])\s*(\..*)?", re.I | re.S)
_GIT = re.compile(r"\.git|git~[0-9]+|\.gitmodules|gitmod~[0-9]+", re.I)


def legal_path(path: str) -> str:
    """`path` as it is stored: relative, POSIX, Unicode in NFC. Raises `ToolError` saying what is wrong.

    Legal means legal on every system the files may be exported to, Windows and macOS included.
    """
    path = unicodedata.normalize("NFC", path.removeprefix("./"))
    problem = _problem(path)
    if problem:
        shown = path if len(path) <= 120 else f"{path[:80]}…{path[-30:]}"
        raise ToolError(
            f"{shown!r} is not a legal path: {problem}. "
            "Paths are relative to the shared folder, such as 'src/engine.py'."
        )
    return path


def fold(name: str) -> str:
    """What two names have in common when a file system that ignores case takes them for one."""
    return unicodedata.normalize("NFC", name.casefold())


def matches(path: str, pattern: str) -> bool:
    """Whether `path` is meant by `pattern`.

    The empty pattern means every path; a plain path means that file, or everything in that folder. A glob
    without a slash is tried on the file's name in any folder; one with a slash on the whole path, where `**`
    stands for any number of folders.
    """
    pattern = pattern.removeprefix("./").rstrip("/")
    if not pattern or path == pattern or path.startswith(pattern + "/"):
        return True
    globs = pattern.split("/")
    names = path.split("/")
    if len(globs) == 1:
        return fnmatchcase(names[-1], pattern)
    # Walks all alternatives at once: backtracking over several `**` would be exponential.
    places = _skip_stars({0}, globs)
    for name in names:
        stay = {place for place in places if place < len(globs) and globs[place] == "**"}
        go = {p + 1 for p in places - stay if p < len(globs) and fnmatchcase(name, globs[p])}
        places = _skip_stars(stay | go, globs)
    return len(globs) in places


def _skip_stars(places: Iterable[int], globs: list[str]) -> set[int]:
    reached = set(places)
    for place in sorted(reached):
        while place < len(globs) and globs[place] == "**":
            place += 1
            reached.add(place)
    return reached


def _problem(path: str) -> str:
    if not path:
        return "it is empty"
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    if size > MAX_PATH:
        return f"it is longer than {MAX_PATH} bytes"
    if path.startswith("/") or _DRIVE.match(path):
        return "it is absolute"
    if path.split("/", 1)[0] == "~":
        return "a home folder is not part of the shared files"
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in path):
        return "it has a control character"
    if found := _FORBIDDEN.search(path):
        return f"the character {found[0]} is not allowed in names"
    names = path.split("/")
    if len(names) > MAX_DEPTH:
        return f"it is deeper than {MAX_DEPTH} folders"
    return next(filter(None, map(_name_problem, names)), "")


def _name_problem(name: str) -> str:
    if not name:
        return "it has an empty segment"
    if name in (".", ".."):
        return f"it has a {name!r} segment"
    if len(name.encode()) > MAX_SEGMENT:
        return f"a name in it is longer than {MAX_SEGMENT} bytes"
    # File systems drop what is invisible and git looks through compatibility forms: judge what is left.
    plain = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    if _GIT.fullmatch(plain.rstrip(". ")):
        return "git's own files are not shared files"
    if name[-1] in ". " or name[0] == " ":
        return "a name in it begins with a space or ends with a dot or a space"
    if _DEVICE.fullmatch(plain):
        return f"{name!r} is a device name on Windows"
    return ""
