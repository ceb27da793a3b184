from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pygit2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megagraph.errors import HomeError, ToolError, UsageError
from megagraph.files import history
from megagraph.files.commits import Commits
from megagraph.files.history import Author
from megagraph.files.merging import MAX_SHOWN, Conflict
from megagraph.files.packing import pack
from megagraph.files.refs import CACHED
from megagraph.files.workspace import Workspace
from megagraph.files.writer import Writer
from tests.sandboxes import marked, new_mark, wait_until_none

ANN, BOB = Author("ann"), Author("bob")
TEN_LINES = "".join(f"line {n}\n" for n in range(10))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "files.git")


def git(workspace: Workspace, *arguments: str) -> str:
    command = ["git", "--git-dir", str(workspace.path), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout + (done.stderr if arguments[0] == "fsck" else "")


def effects(workspace: Workspace) -> dict[str, str]:
    """The effects that are in the history, each with the version that it made."""
    return {change.effect: change.commit for change in workspace.changes() if change.effect}


def assert_sound(workspace: Workspace) -> None:
    report = git(workspace, "fsck", "--full", "--strict")
    assert not [line for line in report.splitlines() if line and not line.startswith(("dangling", "notice"))]


def tree_of(workspace: Workspace) -> dict[str, bytes]:
    return {path: workspace.read(path).content for path in workspace.paths()}


# Reading and writing


@pytest.mark.parametrize(
    "content",
    [b"", b"no newline", b"a\r\nb\r\n", b"mixed\r\nends\n\r", "日本語 🙂 é\n".encode(), b"\xff\xfe\0\x01", b"\xe9\n"],
)
def test_content_comes_back_byte_for_byte(workspace: Workspace, tmp_path: Path, content: bytes) -> None:
    written = workspace.write("sub/folder/file", content, base=None, author=ANN)
    assert workspace.read("sub/folder/file").content == content
    assert workspace.read("sub/folder/file", written.version[:8]).content == content
    workspace.materialise(tmp_path / "out")
    assert (tmp_path / "out/sub/folder/file").read_bytes() == content
    assert_sound(workspace)


def test_text_is_text_and_the_rest_is_said_to_be_binary(workspace: Workspace) -> None:
    workspace.write("a.txt", "é\r\n", base=None, author=ANN)
    workspace.write("b.png", b"\x89PNG\0", base=None, author=ANN)
    assert workspace.read("a.txt").text == "é\r\n"
    with pytest.raises(ToolError, match=r"`b.png` is not UTF-8 text"):
        _ = workspace.read("b.png").text


def test_the_same_content_again_is_a_success_without_a_commit(workspace: Workspace) -> None:
    first = workspace.write("a", "x\n", base=None, author=ANN)
    again = workspace.write("a", "x\n", base=None, author=BOB)
    assert (first.changed, again.changed) == (True, False)
    assert again.version == first.version == workspace.head


def test_a_file_that_exists_is_not_overwritten_by_one_who_never_read_it(workspace: Workspace) -> None:
    workspace.write("a.py", "by ann\n", base=None, author=ANN)
    with pytest.raises(Conflict, match=r"`a.py` exists already, last changed by `ann`") as caught:
        workspace.write("a.py", "by bob\n", base=None, author=BOB)
    assert "by ann" in str(caught.value) and "by bob" in str(caught.value)
    assert caught.value.version == workspace.head in str(caught.value)
    assert workspace.read("a.py").text == "by ann\n"
    workspace.write("a.py", "by both\n", base=caught.value.version, author=BOB)
    assert workspace.read("a.py").text == "by both\n"


def test_a_file_that_is_read_and_written_again_and_again_leaves_nothing_of_its_path(workspace: Workspace) -> None:
    path = "a folder with a name that is long enough to be seen/" + "x" * 200

    def again(times: int) -> None:
        for number in range(times):
            # Another object each time, as it comes from a model.
            mine = "".join([path, str(number % 2)])
            workspace.write(mine, f"{number}\n", base=workspace.head, author=ANN)
            workspace.read(mine)

    again(100)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        again(400)
        # Of a path for each that was asked for, it would be more than two hundred kilobytes.
        assert tracemalloc.get_traced_memory()[0] - before < 60_000
    finally:
        tracemalloc.stop()


def test_concurrent_changes_of_different_places_merge_and_say_over_whom(workspace: Workspace) -> None:
    base = workspace.write("a", TEN_LINES, base=None, author=ANN).version
    workspace.write("a", TEN_LINES.replace("line 1\n", "by ann\n"), base=base, author=ANN)
    merged = workspace.write("a", TEN_LINES.replace("line 8\n", "by bob\r\n"), base=base, author=BOB)
    assert merged.merged_over == ("ann",)
    text = workspace.read("a").text
    assert text == TEN_LINES.replace("line 1\n", "by ann\n").replace("line 8\n", "by bob\r\n")
    assert workspace.log(limit=1)[0].merged_over == ("ann",)


def test_a_writer_is_told_when_the_file_is_no_longer_what_it_read(workspace: Workspace) -> None:
    base = workspace.write("a", "one\n", base=None, author=ANN).version
    workspace.write("a", "two\n", base=base, author=ANN)
    unchanged = workspace.write("a", "one\n", base=base, author=BOB)
    assert (unchanged.changed, unchanged.merged_over) == (False, ("ann",))


def test_ones_own_changes_since_are_merged_without_a_word(workspace: Workspace) -> None:
    base = workspace.write("a", TEN_LINES, base=None, author=ANN).version
    workspace.write("a", "first\n" + TEN_LINES, base=base, author=ANN)
    assert workspace.write("a", TEN_LINES + "last\n", base=base, author=ANN).merged_over == ()


def test_a_conflict_shows_both_sides_who_and_what_to_build_on(workspace: Workspace) -> None:
    base = workspace.write("a", TEN_LINES, base=None, author=ANN).version
    head = workspace.write("a", TEN_LINES.replace("line 5", "by ann"), base=base, author=ANN).version
    with pytest.raises(Conflict) as caught:
        workspace.write("a", TEN_LINES.replace("line 5", "by bob"), base=base, author=BOB)
    marked = "line 4\n<<<<<<< yours\nby bob\n=======\nby ann\n>>>>>>> changed by ann\nline 6\n"
    assert marked in str(caught.value)
    assert "changed since the version you build on by `ann`" in str(caught.value)
    assert str(caught.value).endswith(f"write again with version {head}.")
    assert workspace.head == head


def test_a_conflict_in_a_large_file_shows_the_places_that_differ(workspace: Workspace) -> None:
    lines = [f"line {n} of a long file\n" for n in range(5000)]
    base = workspace.write("a", "".join(lines), base=None, author=ANN).version
    for author, name in ((ANN, "ann"), (BOB, "bob")):
        lines[2500] = f"by {name}\n"
        try:
            workspace.write("a", "".join(lines), base=base, author=author)
        except Conflict as conflict:
            text = str(conflict)
    assert "by ann" in text and "by bob" in text and "[… 2497 lines …]" in text
    assert len(text) < MAX_SHOWN


def test_binary_files_are_never_merged(workspace: Workspace) -> None:
    lines = [b"%d\n" % n for n in range(10)]
    base = workspace.write("a", b"".join([b"\0\n", *lines]), base=None, author=ANN).version
    workspace.write("a", b"".join([b"\0x\n", *lines]), base=base, author=ANN)
    with pytest.raises(Conflict, match="is not text and cannot be merged"):
        workspace.write("a", b"".join([b"\0\n", *lines, b"y"]), base=base, author=BOB)


def test_a_file_deleted_since_is_a_conflict_that_can_be_settled(workspace: Workspace) -> None:
    base = workspace.write("a", "x\n", base=None, author=ANN).version
    workspace.delete("a", author=ANN)
    with pytest.raises(Conflict, match="was deleted since the version you build on by `ann`") as caught:
        workspace.write("a", "y\n", base=base, author=BOB)
    assert workspace.write("a", "y\n", base=caught.value.version, author=BOB).changed


@pytest.mark.parametrize("version", ["deadbeef", "v2", "abc", "latest", "x" * 500])
def test_an_unknown_version_says_what_to_do(workspace: Workspace, version: str) -> None:
    with pytest.raises(ToolError, match="Read the file again and use the version it shows"):
        workspace.write("a", "x", base=version, author=ANN)


def test_a_missing_file_names_those_that_are_near(workspace: Workspace) -> None:
    workspace.write("src/engine.py", "", base=None, author=ANN)
    with pytest.raises(ToolError, match=r"no file `src/engin.py`. There is `src/engine.py`"):
        workspace.read("src/engin.py")
    with pytest.raises(ToolError, match=r"`src` is a folder. There is `src/engine.py`"):
        workspace.read("src")


def test_too_large_and_not_unicode_are_refused(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "files.git", max_bytes=10)
    with pytest.raises(ToolError, match="would have 11 bytes; 10 are allowed"):
        workspace.write("a", "x" * 11, base=None, author=ANN)
    with pytest.raises(ToolError, match="not valid Unicode at character 1"):
        workspace.write("a", "x\ud800", base=None, author=ANN)


@pytest.mark.parametrize("path", ["../x", "/etc/x", ".git/config", "a\0", "NUL", "a//b"])
def test_illegal_paths_touch_nothing(workspace: Workspace, path: str) -> None:
    head = workspace.write("a", "x", base=None, author=ANN).version
    calls: list[Callable[[], object]] = [
        lambda: workspace.read(path),
        lambda: workspace.write(path, "x", base=None, author=ANN),
        lambda: workspace.edit(path, "x", "y", author=ANN),
        lambda: workspace.move("a", path, author=ANN),
        lambda: workspace.move(path, "b", author=ANN),
        lambda: workspace.delete(path, author=ANN),
        lambda: workspace.propose(head, {"fine": b"", path: b"x"}, author=ANN),
    ]
    for call in calls:
        with pytest.raises(ToolError, match="not a legal path"):
            call()
    assert workspace.head == head


def test_names_that_clash_are_refused(workspace: Workspace) -> None:
    workspace.write("Docs/Größe.md", "x", base=None, author=ANN)
    workspace.write("main.py", "x", base=None, author=ANN)
    for path in ("MAIN.py", "docs/other.md", "Docs/GRÖSSE.md"):
        with pytest.raises(ToolError, match="differs only by case"):
            workspace.write(path, "y", base=None, author=BOB)
    with pytest.raises(ToolError, match=r"`main.py` is a file, so nothing can be put below it"):
        workspace.write("main.py/x", "y", base=None, author=BOB)
    with pytest.raises(ToolError, match="`Docs` is a folder"):
        workspace.write("Docs", "y", base=None, author=BOB)
    workspace.move("main.py", "Main.py", author=BOB)
    assert workspace.paths() == ["Docs/Größe.md", "Main.py"]


# Editing, moving, deleting


def test_an_edit_replaces_what_is_there_exactly_once(workspace: Workspace) -> None:
    workspace.write("a", "one two two\n", base=None, author=ANN)
    workspace.edit("a", "one", "1", author=BOB)
    assert workspace.read("a").text == "1 two two\n"
    with pytest.raises(ToolError, match="2 times in `a`"):
        workspace.edit("a", "two", "2", author=BOB)
    with pytest.raises(ToolError, match="not at all in `a`"):
        workspace.edit("a", "three", "3", author=BOB)
    with pytest.raises(ToolError, match="is empty"):
        workspace.edit("a", "", "3", author=BOB)


def test_an_edit_keeps_the_line_ends_of_the_file(workspace: Workspace) -> None:
    workspace.write("a", b"one\r\ntwo\r\nthree\r\n", base=None, author=ANN)
    workspace.edit("a", "one\ntwo\n", "1\n2\n", author=ANN)
    assert workspace.read("a").content == b"1\r\n2\r\nthree\r\n"


def test_an_edit_says_who_changed_the_file_since_it_was_seen(workspace: Workspace) -> None:
    base = workspace.write("a", "def f(x): ...\nf(1)\n", base=None, author=ANN).version
    workspace.edit("a", "def f(x)", "def f(x, y)", author=ANN)
    assert workspace.edit("a", "f(1)\n", "f(1)\nf(2)\n", base=base, author=BOB).merged_over == ("ann",)


def test_move_and_delete(workspace: Workspace) -> None:
    workspace.write("a/b/c", "x", base=None, author=ANN)
    workspace.write("d", "y", base=None, author=ANN)
    with pytest.raises(ToolError, match="`d` exists already"):
        workspace.move("a/b/c", "d", author=ANN)
    workspace.move("a/b/c", "a", author=ANN)
    assert workspace.paths() == ["a", "d"]
    workspace.delete("a", author=ANN)
    workspace.delete("d", author=ANN)
    assert workspace.paths() == []
    with pytest.raises(ToolError, match="no file `d`"):
        workspace.delete("d", author=ANN)
    assert_sound(workspace)


# Effects


def test_a_file_is_not_deleted_over_what_others_have_made_of_it(workspace: Workspace) -> None:
    seen = workspace.write("a.py", "1\n", base=None, author=ANN).version
    changed = workspace.edit("a.py", "1", "2", author=BOB).version
    with pytest.raises(Conflict, match=r"`a.py` was changed since the version you build on by `bob`"):
        workspace.delete("a.py", base=seen, author=ANN)
    assert workspace.read("a.py").text == "2\n"
    workspace.delete("a.py", base=changed, author=ANN)
    assert workspace.paths() == []


def test_an_effect_is_done_once(workspace: Workspace) -> None:
    author = Author("ann", "ann/3/0")
    base = workspace.write("a", TEN_LINES, base=None, author=ANN).version
    workspace.edit("a", "line 1\n", "by bob\n", author=BOB)
    first = workspace.write("a", TEN_LINES + "more\n", base=base, author=author)
    workspace.delete("a", author=BOB)
    reopened = Workspace(workspace.path)
    for files in (workspace, reopened):
        assert files.write("a", TEN_LINES + "more\n", base=base, author=author) == first
        assert effects(files) == {"ann/3/0": first.version}
        assert files.paths() == []


@given(
    st.lists(st.text("08f", min_size=40, max_size=40) | st.binary(min_size=20, max_size=20).map(bytes.hex), unique=True)
)
def test_commits_are_found_by_their_ids_and_by_the_beginnings_of_them(ids: list[str]) -> None:
    commits = Commits()
    for id_ in ids:
        assert commits.place(id_) is None
        commits.append(id_)
    assert [commits[place] for place in range(len(commits))] == ids
    for place, id_ in enumerate(ids):
        assert commits.place(id_) == place
        assert commits.place(id_[:39]) is None
        for length in (1, 2, 15, 16, 17, 39, 40):
            like = [i for i, other in enumerate(ids) if other.startswith(id_[:length])]
            assert sorted(commits.beginning_with(id_[:length])) == like
    assert commits.beginning_with("") == commits.beginning_with("xyz") == commits.beginning_with("a" * 41) == []


def test_an_effect_whose_hash_another_has_is_done_all_the_same(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_number", len)
    first = workspace.write("a.md", "a", base=None, author=Author("ann", "ann/1/0"))
    second = workspace.write("b.md", "b", base=None, author=Author("bob", "bob/1/0"))
    assert workspace.read("b.md").text == "b"
    assert workspace.write("a.md", "a", base=None, author=Author("ann", "ann/1/0")).version == first.version
    assert workspace.write("b.md", "b", base=None, author=Author("bob", "bob/1/0")).version == second.version
    assert len(workspace.changes()) == 2


def test_every_kind_of_effect_is_done_once(workspace: Workspace) -> None:
    workspace.write("a", "one\n", base=None, author=ANN)
    calls: list[Callable[[], object]] = [
        lambda: workspace.edit("a", "one", "one two", author=Author("ann", "e")),
        lambda: workspace.move("a", "b", author=Author("ann", "m")),
        lambda: workspace.propose(workspace.head, {"c": b"c", "b": None}, author=Author("ann", "p")),
        lambda: workspace.delete("c", author=Author("ann", "d")),
    ]
    first = [call() for call in calls]
    head = workspace.head
    assert [call() for call in calls] == first
    assert workspace.head == head


def test_names_that_would_break_a_commit_are_refused() -> None:
    for agent in ("", "a\nb", "a <b>", "a b"):
        with pytest.raises(UsageError):
            Author(agent)
    with pytest.raises(UsageError):
        Author("ann", "x\nAgent: bob")


# Proposals


def test_a_proposal_is_taken_whole_and_merged(workspace: Workspace) -> None:
    base = workspace.propose(workspace.head, {"a": TEN_LINES.encode(), "b": b"b", "c": b"c"}, author=ANN).version
    workspace.edit("a", "line 1\n", "by ann\n", author=ANN)
    changes = {"a": (TEN_LINES + "more\n").encode(), "b": None, "c": b"c", "d/e": b"e"}
    proposal = workspace.propose(base, changes, author=BOB, subject="run\nmain.py")
    assert proposal.paths == ("a", "b", "d/e")
    assert proposal.merged_over == ("ann",)
    assert tree_of(workspace) == {
        "a": TEN_LINES.replace("line 1\n", "by ann\n").encode() + b"more\n",
        "c": b"c",
        "d/e": b"e",
    }
    assert workspace.log(limit=1)[0].subject == "bob: run main.py"


def test_a_proposal_with_conflicts_names_them_all_and_does_nothing(workspace: Workspace) -> None:
    base = workspace.propose(workspace.head, {"a": b"a\n", "b": b"b\n"}, author=ANN).version
    head = workspace.propose(base, {"a": b"by ann\n", "b": b"by ann\n"}, author=ANN).version
    with pytest.raises(Conflict) as caught:
        workspace.propose(base, {"a": b"by bob\n", "b": None, "c": b"fine"}, author=BOB)
    assert [clash.path for clash in caught.value.clashes] == ["a", "b"]
    assert workspace.head == head


def test_a_proposal_may_turn_a_file_into_a_folder(workspace: Workspace) -> None:
    base = workspace.propose(workspace.head, {"a": b"x", "b/c": b"y"}, author=ANN).version
    workspace.propose(base, {"a": None, "a/x": b"x", "b/c": None, "b": b"y"}, author=ANN)
    assert workspace.paths() == ["a/x", "b"]
    assert_sound(workspace)


# Listing, searching, history


def test_files_are_listed_with_size_and_last_agent(workspace: Workspace) -> None:
    workspace.write("src/a.py", "12345", base=None, author=ANN)
    old = workspace.write("b.md", "é", base=None, author=ANN).version
    workspace.edit("b.md", "é", "éé", author=BOB)
    entries = [(entry.path, entry.size, entry.last_agent) for entry in workspace.files()]
    assert entries == [("b.md", 4, "bob"), ("src/a.py", 5, "ann")]
    assert [entry.path for entry in workspace.files("*.py")] == ["src/a.py"]
    assert [entry.size for entry in workspace.files("b.md", version=old)] == [2]
    assert workspace.who_wrote("b.md") == "bob"
    assert workspace.who_wrote("never") is None


def test_search_is_bounded_in_output_and_time(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace.write("a.py", "def f():\n    return 1\n\ndef g(): ...", base=None, author=ANN)
    workspace.write("b.bin", b"def\0", base=None, author=ANN)
    workspace.write("c.md", "x" * 500 + "def" + "y" * 500 + "\n" + "a" * 5000 + "!\n", base=None, author=ANN)
    found = workspace.search(r"^def (\w)")
    assert [(m.path, m.line, m.text) for m in found.matches] == [
        ("a.py", 1, "def f():"),
        ("a.py", 4, "def g(): ..."),
    ]
    assert found.complete
    assert [m.line for m in workspace.search("", "a.py").matches] == [1, 2, 3, 4]
    assert not workspace.search("def", limit=1).complete
    (long,) = workspace.search("def", "*.md").matches
    assert "def" in long.text and len(long.text) < 320
    with pytest.raises(ToolError, match="is not a regular expression"):
        workspace.search("(")
    monkeypatch.setattr("megagraph.files.search.SEARCH_SECONDS", 0.2)
    with pytest.raises(ToolError, match=r"took more than 0.2 s"):
        workspace.search(r"(a|aa)+$", "c.md")


def test_the_log_says_who_did_what(workspace: Workspace) -> None:
    workspace.write("engine.py", "x\n", base=None, author=Author("engine_dev", "engine_dev/3/0"))
    workspace.move("engine.py", "src/engine.py", author=Author("architect", "architect/1/0"))
    newest, oldest = workspace.log()
    assert (oldest.agent, oldest.effect, oldest.paths) == ("engine_dev", "engine_dev/3/0", ("engine.py",))
    assert newest.subject == "architect: move engine.py to src/engine.py"
    assert newest.paths == ("engine.py", "src/engine.py")
    assert [change.agent for change in workspace.log("engine.py")] == ["architect", "engine_dev"]
    assert [change.agent for change in workspace.log("src/engine.py", limit=5)] == ["architect"]


def test_git_reads_the_history(workspace: Workspace) -> None:
    base = workspace.write("engine.py", TEN_LINES, base=None, author=Author("engine_dev", "engine_dev/3/0")).version
    workspace.edit("engine.py", "line 1\n", "one\n", author=Author("tester", "tester/1/0"))
    workspace.write("engine.py", TEN_LINES + "ten\n", base=base, author=Author("engine_dev", "engine_dev/4/1"))
    trailers = [f"%(trailers:key={key},valueonly,separator=%x2C)" for key in ("Effect", "Merged-Over")]
    assert git(workspace, "log", "|".join(["--format=%an|%ae|%s", *trailers])).splitlines() == [
        "engine_dev|engine_dev@megagraph|engine_dev: write engine.py|engine_dev/4/1|tester",
        "tester|tester@megagraph|tester: edit engine.py|tester/1/0|",
        "engine_dev|engine_dev@megagraph|engine_dev: write engine.py|engine_dev/3/0|",
        "megagraph|megagraph@megagraph|megagraph: start||",
    ]
    assert git(workspace, "show", "HEAD:engine.py") == TEN_LINES.replace("line 1\n", "one\n") + "ten\n"
    assert "1 file changed, 1 insertion(+)" in git(workspace, "log", "-1", "--stat")
    assert "tester" in git(workspace, "blame", "main", "--", "engine.py").splitlines()[1]
    git(workspace, "gc", "--quiet", "--prune=now")
    workspace.edit("engine.py", "line 2\n", "two\n", author=ANN)
    assert len(workspace.log()) == 4
    assert_sound(workspace)


def test_diff_between_versions_and_between_workspaces(workspace: Workspace, tmp_path: Path) -> None:
    old = workspace.propose(workspace.head, {"a": b"1\n", "b": b"b\n"}, author=ANN).version
    workspace.propose(old, {"a": b"2\n", "b": None, "c": b"\0"}, author=ANN)
    diffs = workspace.diff(old)
    assert [(d.path, d.status) for d in diffs] == [("a", "changed"), ("b", "deleted"), ("c", "added")]
    assert "-1\n+2\n" in diffs[0].patch
    other = Workspace(tmp_path / "other.git")
    other.write("a", "1\n", base=None, author=BOB)
    assert [(d.path, d.status) for d in workspace.diff(other)] == [("a", "changed"), ("c", "added")]


def test_a_branch_goes_its_own_way(workspace: Workspace) -> None:
    base = workspace.write("a", "a\n", base=None, author=ANN).version
    workspace.write("a", "main\n", base=base, author=ANN)
    branch = workspace.branch_from(base, "other")
    branch.write("a", "branch\n", base=base, author=BOB)
    assert (workspace.read("a").text, branch.read("a").text) == ("main\n", "branch\n")
    assert [d.patch.endswith("\n-main\n+branch\n") for d in branch.diff(workspace)] == [True]
    with pytest.raises(ToolError, match="not a version of these files"):
        workspace.read("a", branch.head)
    with pytest.raises(UsageError, match="There is a branch 'other' already"):
        workspace.branch_from(base, "other")


# Folders


def test_materialise_writes_to_an_empty_folder_only(workspace: Workspace, tmp_path: Path) -> None:
    old = workspace.propose(workspace.head, {"a/b": b"1", "c": b"2"}, author=ANN).version
    workspace.delete("c", author=ANN)
    assert workspace.materialise(tmp_path / "old", old[:10]) == old
    assert (tmp_path / "old/c").read_bytes() == b"2"
    with pytest.raises(UsageError, match="is not empty"):
        workspace.materialise(tmp_path / "old")


def test_export_keeps_changed_files_unless_told(workspace: Workspace, tmp_path: Path) -> None:
    workspace.propose(workspace.head, {"a/b": b"1", "c": b"2"}, author=ANN)
    dest = tmp_path / "out"
    workspace.export(dest)
    workspace.export(dest)
    (dest / "c").write_text("mine")
    workspace.edit("a/b", "1", "3", author=ANN)
    (dest / "a/b").write_bytes(b"3")
    with pytest.raises(UsageError, match="other versions of `c`"):
        workspace.export(dest)
    assert (dest / "c").read_text() == "mine"
    workspace.export(dest, overwrite=True)
    assert (dest / "c").read_text() == "2"


def test_export_follows_no_link(workspace: Workspace, tmp_path: Path) -> None:
    workspace.propose(workspace.head, {"a/b": b"1", "c": b"2"}, author=ANN)
    (tmp_path / "outside").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").symlink_to(tmp_path / "outside")
    with pytest.raises(UsageError, match="in the way of `a/b`"):
        workspace.export(tmp_path / "out", overwrite=True)
    assert not list((tmp_path / "outside").iterdir())


def test_export_stops_at_what_is_neither_file_nor_folder(workspace: Workspace, tmp_path: Path) -> None:
    workspace.propose(workspace.head, {"a": b"1"}, author=ANN)
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out/a")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="in the way of `a`"):
            workspace.export(tmp_path / "out", overwrite=overwrite)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is no folder"):
        workspace.export(tmp_path / "file", overwrite=True)


def test_input_material_that_cannot_be_read_is_not_left_out(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = tmp_path / "material/locked"
    locked.mkdir(parents=True)
    (tmp_path / "material/open.txt").write_text("x")
    scandir = os.scandir

    def refuse(path: str) -> object:
        # Root may read everything.
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match="locked cannot be read: Permission denied"):
        workspace.import_tree(tmp_path / "material")
    assert workspace.paths() == []


def test_input_material_is_taken_in_once(workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "material"
    (folder / "sub").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git/config").write_text("x")
    (folder / "sub/data.csv").write_bytes(b"a\r\n")
    assert workspace.import_tree(folder).paths == ("sub/data.csv",)
    workspace.delete("sub/data.csv", author=ANN)
    workspace.import_tree(folder)
    assert workspace.paths() == []
    assert [change.agent for change in workspace.log()] == ["ann", "input"]


def test_input_material_with_links_or_illegal_names_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "material"
    folder.mkdir()
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="links or special files"):
        workspace.import_tree(folder)
    (folder / "link").unlink()
    (folder / "a:b").write_text("x")
    with pytest.raises(UsageError, match="'a:b' is not a legal path"):
        workspace.import_tree(folder)
    with pytest.raises(UsageError, match="is not a folder"):
        workspace.import_tree(folder / "nothing")
    assert workspace.log() == []


# Several at once


def test_threads_lose_nothing(workspace: Workspace) -> None:
    agents, rounds = 8, 12
    base = workspace.write("shared", "".join(f"{n}:\n" for n in range(agents)), base=None, author=ANN).version
    reads_while_writing = 0
    done = threading.Event()

    def read() -> None:
        nonlocal reads_while_writing
        while not done.is_set():
            assert workspace.read("shared").text.count("\n") == agents
            reads_while_writing += 1

    def agent(number: int) -> None:
        author = f"agent_{number}"
        for n in range(rounds):
            workspace.write(f"own/{number}/{n}", str(n), base=None, author=Author(author, f"{author}/{n}/0"))
            old, new = f"\n{number}:" if number else "0:", f" {n}"
            workspace.edit("shared", old, old + new, base=base, author=Author(author, f"{author}/{n}/1"))

    reader = threading.Thread(target=read)
    reader.start()
    with ThreadPoolExecutor(agents) as pool:
        list(pool.map(agent, range(agents)))
    done.set()
    reader.join()
    assert reads_while_writing
    backwards = "".join(f" {n}" for n in reversed(range(rounds)))
    assert workspace.read("shared").text == "".join(f"{n}:{backwards}\n" for n in range(agents))
    assert len(workspace.files("own")) == agents * rounds
    assert len(effects(workspace)) == len(workspace.log()) - 1 == agents * rounds * 2
    assert_sound(workspace)


CHILD = textwrap.dedent(
    """
    import sys
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path
    from megagraph.files.history import Author
    from megagraph.files.workspace import Workspace

    workspace = Workspace(Path(sys.argv[1]))
    name, count = sys.argv[2], int(sys.argv[3])

    def work(n):
        author = Author(name, f"{name}/{n}/0")
        if n % 2:
            workspace.write(f"{name}/{n}", f"{n}\\n" * 50, base=None, author=author)
        else:
            workspace.edit("shared", "end\\n", f"{name} {n}\\nend\\n", author=author)
        sys.stdout.write(author.effect + "\\n")
        sys.stdout.flush()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(count)))
    """
)


def child(workspace: Workspace, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(workspace.path), name, str(count)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_processes_lose_nothing(workspace: Workspace) -> None:
    workspace.write("shared", "end\n", base=None, author=ANN)
    children = [child(workspace, name, 30) for name in ("ann", "bob", "eve")]
    assert [process.wait() for process in children] == [0, 0, 0]
    for process in children:
        assert process.stdout is not None
        process.stdout.close()
    assert len(effects(workspace)) == 90
    assert len(workspace.paths()) == 1 + 45
    assert len(workspace.read("shared").text.splitlines()) == 1 + 45
    assert_sound(workspace)


def test_a_kill_in_the_middle_of_writes_leaves_each_accepted_one_exactly_once(workspace: Workspace) -> None:
    workspace.write("shared", "end\n", base=None, author=ANN)
    accepted: set[str] = set()
    killed: list[int] = []
    for lines in (5, 20, 30, 25):
        process = child(workspace, "bob", 100)
        assert process.stdout is not None
        new: set[str] = set()
        while len(new - accepted) < lines and (line := process.stdout.readline()):
            new.add(line.strip())
        process.kill()
        new |= {line.strip() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")}
        process.stdout.close()
        killed.append(process.wait())
        accepted |= new
        assert_sound(workspace)
        assert accepted <= effects(Workspace(workspace.path)).keys()
    assert killed[:2] == [-signal.SIGKILL] * 2
    process = child(workspace, "bob", 100)
    process.communicate()
    assert process.returncode == 0
    log = workspace.log()
    assert sorted(c.effect for c in log if c.effect) == sorted(f"bob/{n}/0" for n in range(100))
    assert sorted(workspace.read("shared").text.splitlines()[:-1]) == sorted(f"bob {n}" for n in range(0, 100, 2))
    assert_sound(workspace)


def test_packing_keeps_everything_while_others_read(workspace: Workspace) -> None:
    def loose() -> int:
        return sum(1 for file in (workspace.path / "objects").glob("??/*"))

    reader = Workspace(workspace.path)
    versions = [workspace.write("a", f"{n}\n", base=workspace.head, author=ANN).version for n in range(20)]
    assert pack(workspace.path) == 0, "not worth it yet"
    there = loose()
    assert pack(workspace.path, least=1) == there
    assert loose() == 0
    assert [reader.read("a", version).text for version in versions] == [f"{n}\n" for n in range(20)]
    versions.append(workspace.write("b", "new\n", base=None, author=BOB).version)
    assert pack(workspace.path, least=1) == 3, "a blob, a tree and a commit, and nothing twice"
    assert len(Workspace(workspace.path).log()) == 21
    done = subprocess.run(["git", "-C", str(workspace.path), "fsck", "--full", "--strict"], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_family_packs_while_one_of_it_writes(workspace: Workspace) -> None:
    workspace.write("a", "of both\n", base=None, author=ANN)
    branch = workspace.branch_from(workspace.head, "branch")
    over = threading.Event()
    packed: list[int] = []

    def pack_again_and_again(path: Path) -> None:
        while not over.is_set():
            packed.append(pack(path, least=1))

    written = 0
    with ThreadPoolExecutor(3) as pool:
        packers = [pool.submit(pack_again_and_again, workspace.path) for _ in range(2)]
        try:
            # How much is packed meanwhile is the scheduler's to say, so there is writing until it is enough.
            while written < 150 or (sum(packed) <= 300 and written < 3_000):
                for each in (workspace, branch):
                    each.write("a", f"{each.branch} {written}\n", base=each.head, author=ANN)
                written += 1
        finally:
            over.set()
        for packer in packers:
            packer.result()
        assert sum(packed) > 300
    for each in (workspace, branch, Workspace(workspace.path, "branch")):
        texts = [each.read("a", change.commit).text for change in each.changes()]
        assert texts == ["of both\n", *(f"{each.branch} {n}\n" for n in range(written))]


def test_a_lock_file_left_by_a_killed_process_does_not_stop_the_next(workspace: Workspace) -> None:
    lock = workspace.path / "refs/heads/main.lock"
    lock.touch()
    os.utime(lock, (time.time() - 60, time.time() - 60))
    assert workspace.write("a", "x", base=None, author=ANN).changed
    assert not lock.exists()


def test_old_versions_do_not_stay_in_memory(workspace: Workspace) -> None:
    version: str | None = None
    # What other tests have left in this process is not this repository's to give up.
    before = pygit2.settings.cached_memory[0]
    for n in range(1000):
        version = workspace.write("parts/one.txt", f"{n}\n", base=version, author=ANN).version
    assert pygit2.settings.cached_memory[0] < max(before, CACHED) + CACHED / 2


def test_what_is_no_repository_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "files.git").mkdir()
    with pytest.raises(HomeError, match="is not a repository of shared files"):
        Workspace(tmp_path / "files.git")
    with pytest.raises(UsageError, match="cannot be the name of a branch"):
        Workspace(tmp_path / "new.git", "a..b")
    assert not (tmp_path / "new.git").exists()


def test_the_persons_git_settings_stay_as_they_are(tmp_path: Path) -> None:
    before = subprocess.run(["git", "config", "--global", "--list"], capture_output=True, check=False).stdout
    Workspace(tmp_path / "files.git").write("a", "x", base=None, author=ANN)
    after = subprocess.run(["git", "config", "--global", "--list"], capture_output=True, check=False).stdout
    assert before == after


# A model: a file is a list of lines that are each unique, so that a merge is a merge of sets

AGENTS = ("ann", "bob", "eve")
PATHS = ("a", "b", "d/a", "d/e/b")
OPERATIONS = st.tuples(
    st.sampled_from(("read", "write", "write", "add", "add", "remove", "move", "delete")),
    st.sampled_from(AGENTS),
    st.sampled_from(PATHS),
    st.sampled_from(PATHS),
    st.integers(0, 11),
)


class Model:
    """Runs operations on a workspace and says what must have come of each."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.files: dict[str, list[str]] = {}
        self.seen: dict[tuple[str, str], tuple[str, list[str] | None]] = {}
        self.again: list[tuple[Callable[[], object], object]] = []

    def run(self, step: int, operation: str, agent: str, path: str, other: str, place: int) -> None:
        author = Author(agent, f"{agent}/{step}/0")
        lines = self.files.get(path)
        if operation == "read":
            if lines is None:
                with pytest.raises(ToolError):
                    self.workspace.read(path)
            else:
                read = self.workspace.read(path)
                assert read.text.splitlines() == lines
                self.seen[agent, path] = (read.version, lines)
        elif operation in ("write", "add", "remove"):
            version, base = self.seen.get((agent, path), (None, None))
            mine = [f"{path} {step} {n}" for n in range(12)] if base is None else list(base)
            if operation == "remove" and base:
                del mine[place % len(mine)]
            elif base is not None:
                mine.insert(place % (len(mine) + 1), f"{path} {step}")
            self._write(author, path, version, base, mine)
        elif operation == "move":
            allowed = lines is not None and other not in self.files
            if self._do(lambda: self.workspace.move(path, other, author=author), allowed):
                self.files[other] = self.files.pop(path)
        elif self._do(lambda: self.workspace.delete(path, author=author), lines is not None):
            del self.files[path]

    def _write(self, author: Author, path: str, version: str | None, base: list[str] | None, mine: list[str]) -> None:
        theirs = self.files.get(path)
        text = "".join(f"{line}\n" for line in mine)

        def call() -> object:
            return self.workspace.write(path, text, base=version, author=author)

        try:
            call_result = call()
        except Conflict:
            assert theirs != base and mine not in (theirs, base)
            return
        except ToolError as error:
            assert "is a folder" in str(error) or "is a file" in str(error)
            return
        if mine == base:
            expected = set(theirs or ())
        else:
            # A line stays if both kept it, and is there if either added it.
            m, t, b = set(mine), set(theirs or ()), set(base or ())
            expected = (m & t) | (m - b) | (t - b)
        if theirs is None and mine == base:
            assert path not in self.workspace.paths()
        else:
            read = self.workspace.read(path)
            now = read.text.splitlines()
            assert set(now) == expected and len(now) == len(expected)
            self.files[path] = now
            self.seen[author.agent, path] = (read.version, now)
        if effects(self.workspace).get(author.effect):
            self.again.append((call, call_result))

    def _do(self, call: Callable[[], object], allowed: bool) -> bool:
        try:
            result = call()
        except ToolError:
            assert not allowed
            return False
        assert allowed
        self.again.append((call, result))
        return True


@settings(max_examples=60, deadline=None, database=None)
@given(st.lists(OPERATIONS, min_size=5, max_size=50))
def test_no_interleaving_loses_an_accepted_change(operations: list[tuple[str, str, str, str, int]]) -> None:
    with TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / "files.git")
        model = Model(workspace)
        for step, operation in enumerate(operations):
            model.run(step, *operation)
        expected = {path: "".join(f"{line}\n" for line in lines) for path, lines in model.files.items()}
        assert {path: workspace.read(path).text for path in workspace.paths()} == expected

        replayed: dict[str, str] = {}
        for change in reversed(workspace.log()):
            there = workspace.paths(change.commit)
            for path in change.paths:
                replayed.pop(path, None)
                if path in there:
                    replayed[path] = workspace.read(path, change.commit).text
            assert sorted(replayed) == there
        assert replayed == expected

        resumed = Workspace(workspace.path)
        model.workspace, head = resumed, workspace.head
        for call, result in model.again:
            assert call() == result
        assert resumed.head == head


def test_whoever_waits_for_a_process_that_dies_is_told_and_the_next_is_served_by_another(tmp_path: Path) -> None:
    """However near the call is to the death: it never waits for ever, and never gets what another asked for."""
    files = tmp_path / new_mark() / "files.git"

    async def work() -> None:
        writer = Writer(files)
        for turn in range(6):
            await writer.start()
            await asyncio.sleep(turn % 3 * 0.1)
            for pid in marked(files.parent.name):
                os.kill(pid, signal.SIGKILL)
            for attempt in range(200):
                method, kind = (("paths", list), ("resolve", str))[attempt % 2]
                try:
                    found, _ = await asyncio.wait_for(writer.call(method, *([None] * (method == "resolve"))), 20)
                except ToolError:
                    await asyncio.sleep(0)
                else:
                    assert isinstance(found, kind)
                    break
            else:
                pytest.fail("no other process was started")
        await asyncio.wait_for(writer.aclose(), 20)

    asyncio.run(work())
    wait_until_none(files.parent.name)
