"""Files that are there and hold nothing yet: told by fixed rules, so that the same file is always judged alike.

A file is a placeholder if it is empty (names that are often empty on purpose excepted); if nothing but headings,
comments and words such as `TODO` is in it; if a document has filler text or a gap to be filled in; or if it is a
Python file in which every function is still to be written.
"""

from __future__ import annotations

import ast
import re
from pathlib import PurePosixPath

EMPTY_ON_PURPOSE = frozenset({"__init__.py", "py.typed", ".gitkeep", ".keep", ".nojekyll"})

DOCUMENTS = frozenset({"", ".md", ".txt", ".rst", ".adoc", ".html", ".tex", ".json", ".yaml", ".yml", ".csv"})
"""Endings of files that are read and not run."""

_MARKER = (
    r"(to[ -]?do|tbd|tbc|fixme|xxx|wip|placeholder|coming soon|work in progress|under construction"
    r"|to be (written|done|added|completed|filled( in)?|determined|continued|defined)"
    r"|not (yet )?(written|implemented)( yet)?"
    r"|(your |more |the )?(text|content|code|data)( goes| to go| comes)? here)"
)
_WRAPPED = r"[\s\W_]*"
_ONLY_MARKER = re.compile(rf"{_WRAPPED}{_MARKER}\b(\s*[:.…!-].{{0,200}}|[^\w]*)$", re.I)
_NOTHING = re.compile(r"[\s\W_]*(pass|null|none|n/a)?[\s\W_]*$", re.I)
_HEADING = re.compile(r"\s*(#|//|--|;|%|/\*|<!--)")
_GAP = re.compile(
    r"[<\[{]+\s*(insert|placeholder|fill in|todo|tbd|(your|add) [\w -]{1,40} here)\b[^>\]}\n]{0,200}[>\]}]",
    re.I,
)
_FILLER = re.compile(r"lorem ipsum", re.I)


def placeholder(path: str, content: bytes) -> str:
    """Why a file counts as a placeholder; empty if it does not."""
    pure = PurePosixPath(path)
    if not content.strip():
        return "" if pure.name in EMPTY_ON_PURPOSE else "it is empty"
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return ""
    if why := _only_markers(text):
        return why
    suffix = pure.suffix.lower()
    if suffix in DOCUMENTS:
        if _FILLER.search(text):
            return "it holds filler text (“lorem ipsum”)"
        if gap := _GAP.search(text):
            return f"it has a gap to be filled in: “{gap[0][:60]}”"
    return "all its functions are still to be written" if suffix == ".py" and _only_stubs(text) else ""


def _only_markers(text: str) -> str:
    """Whether only headings, comments and markers are there, and at least one marker among them."""
    found = ""
    for line in text.splitlines():
        if _ONLY_MARKER.match(line) or _GAP.fullmatch(line.strip()) or line.strip() in ("...", "…"):
            found = found or line.strip()
        elif not (_NOTHING.match(line) or _HEADING.match(line)):
            return ""
    return f"nothing is in it but “{found[:60]}”" if found else ""


def _only_stubs(text: str) -> bool:
    """Whether a module defines functions, does nothing else, and none of them does anything either."""
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    functions = 0
    todo: list[ast.stmt] = list(module.body)
    while todo:
        match todo.pop():
            case ast.Import() | ast.ImportFrom() | ast.Pass() | ast.Expr(value=ast.Constant()):
                pass
            case ast.FunctionDef() | ast.AsyncFunctionDef() as function:
                if _abstract(function.decorator_list) or not all(map(_idle, function.body)):
                    return False
                functions += 1
            case ast.ClassDef() as class_ if not _abstract(class_.bases):
                todo += class_.body
            case _:
                return False
    return functions > 0


def _idle(statement: ast.stmt) -> bool:
    match statement:
        case ast.Pass() | ast.Expr(value=ast.Constant()):
            return True
        case ast.Raise(exc=ast.Name(id=name) | ast.Call(func=ast.Name(id=name))):
            return name == "NotImplementedError"
        case _:
            return False


def _abstract(names: list[ast.expr]) -> bool:
    """Whether decorators or bases say that a body is empty on purpose."""
    words = {ast.unparse(name).split("[")[0].rpartition(".")[2] for name in names}
    return bool(words & {"abstractmethod", "overload", "Protocol", "ABC"})
