import pytest

from megagraph.errors import ToolError
from megagraph.files.paths import legal_path, matches

LEGAL = [
    "main.py",
    "src/engine/search.py",
    ".gitignore",
    ".github/workflows/ci.yml",
    "digit.git",
    "naïve/日本語/файл.txt",
    "🙂.md",
    "a b.txt",
    "console.py",
    "x" * 255,
    "/".join(["d" * 200] * 5),
]

HOSTILE = [
    "",
    ".",
    "./",
    "/",
    "/etc/passwd",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    "a/./b",
    "a//b",
    "a/",
    "~/x",
    "C:/x",
    "C:x",
    "\\\\server\\share",
    "a\\b",
    "..\\x",
    ".git",
    ".git/config",
    ".GIT/hooks/pre-commit",
    "a/.Git/x",
    "git~1/config",
    "GIT~2",
    ".git./config",
    ".git /config",
    ".g\u200cit/config",
    "\ufeff.git",
    "．git/config",
    ".gitmodules",
    "a\0b",
    "a\nb",
    "a\x1bb",
    "a\x7f",
    "a\u2028b",
    "\ud800",
    "CON",
    "con.txt",
    "src/nul",
    "AUX .c",
    "lpt1.log",
    "COM¹",
    "conin$",
    "a.",
    "a ",
    " a",
    "dir./x",
    "a<b",
    "a>b",
    'a"b',
    "a|b",
    "a?b",
    "a*b",
    "file:stream",
    "x" * 256,
    "日" * 86,
    "/".join(["d" * 200] * 6),
    "/".join("a" * 40),
]


@pytest.mark.parametrize("path", LEGAL)
def test_paths_that_every_system_can_hold_are_legal(path: str) -> None:
    assert legal_path(path) == path


@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: ascii(path)[:30])
def test_a_path_that_leaves_the_tree_or_breaks_elsewhere_is_refused_with_the_remedy(path: str) -> None:
    with pytest.raises(ToolError, match=r"not a legal path: .*relative to the shared folder") as caught:
        legal_path(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_paths_are_stored_in_one_spelling() -> None:
    assert legal_path("./main.py") == "main.py"
    assert legal_path("cafe\u0301.txt") == "caf\u00e9.txt"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", {"a.py", "src/b.py", "src/x/c.py", "docs/a.md"}),
        ("a.py", {"a.py"}),
        ("src", {"src/b.py", "src/x/c.py"}),
        ("src/", {"src/b.py", "src/x/c.py"}),
        ("./src/x", {"src/x/c.py"}),
        ("*.py", {"a.py", "src/b.py", "src/x/c.py"}),
        ("a.*", {"a.py", "docs/a.md"}),
        ("src/*.py", {"src/b.py"}),
        ("src/**/*.py", {"src/b.py", "src/x/c.py"}),
        ("**/*.py", {"a.py", "src/b.py", "src/x/c.py"}),
        ("**", {"a.py", "src/b.py", "src/x/c.py", "docs/a.md"}),
        ("src/**", {"src/b.py", "src/x/c.py"}),
        ("**/x/*", {"src/x/c.py"}),
        ("[ab].py", {"a.py", "src/b.py"}),
        ("nothing", set()),
    ],
)
def test_patterns(pattern: str, expected: set[str]) -> None:
    paths = ["a.py", "src/b.py", "src/x/c.py", "docs/a.md"]
    assert {path for path in paths if matches(path, pattern)} == expected


def test_a_hostile_pattern_is_answered_at_once() -> None:
    assert not matches("/".join("a" * 32), "/".join(["**", "a"] * 200) + "/b")
    assert not matches("a" * 255, "*a" * 100 + "b")
