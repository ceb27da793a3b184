"""The files that the agents of a run share: a git repository, with a commit for every accepted change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import pygit2

from megagraph.errors import ToolError, UsageError
from megagraph.files.diffs import FileDiff, between, made_by
from megagraph.files.folders import export_to_folder, fill_folder, read_folder
from megagraph.files.history import Author, Change, History, change_of, changes_of, message_of
from megagraph.files.merging import Clash, Conflict, as_text, merge_file
from megagraph.files.paths import legal_path, matches
from megagraph.files.rebuilding import Unmergeable, rebuild
from megagraph.files.refs import Ref, commit_of
from megagraph.files.search import Found, search_texts
from megagraph.files.trees import TreeMaker, blob_data, file_id, files_of

MAX_BYTES = 2_000_000
"""Size of one file, unless said otherwise."""


@dataclass(frozen=True)
class Read:
    """A file as it was in one version."""

    path: str
    content: bytes
    version: str

    @property
    def text(self) -> str:
        """The content as text. Raises `ToolError` if it is binary."""
        text = as_text(self.content)
        if text is None:
            raise ToolError(f"`{self.path}` is not UTF-8 text ({len(self.content):,} bytes).")
        return text


@dataclass(frozen=True)
class Written:
    """An accepted change of one file."""

    path: str
    version: str
    """What the author may build on next."""
    changed: bool
    """False if the file was as wanted already; no commit was made."""
    merged_over: tuple[str, ...] = ()
    """Agents whose concurrent changes of the file were merged with this one."""


@dataclass(frozen=True)
class Proposal:
    """An accepted set of changes. `paths` is empty if all was as wanted already."""

    version: str
    paths: tuple[str, ...]
    merged_over: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A line of a listing."""

    path: str
    size: int
    last_agent: str
    """Who changed the file last."""


@dataclass(frozen=True)
class _Tip:
    """The latest version. The tree is held because git reads a large one from disk every time it is asked."""

    commit: pygit2.Commit
    tree: pygit2.Tree

    @property
    def version(self) -> str:
        return str(self.commit.id)


@dataclass(frozen=True)
class _Plan:
    """What a change does to the tip it was planned on."""

    files: Mapping[str, pygit2.Oid | None]
    merged_over: tuple[str, ...] = ()


Planner: TypeAlias = Callable[[_Tip], _Plan]


class Workspace:
    """One branch of the shared files of a run.

    Every method may be called from any thread, and other processes may have the same repository open. Reading
    never waits. The writers of one process take turns; between processes a change that was built on a tip
    which has moved meanwhile is built again. Agents' mistakes raise `ToolError`, a person's `UsageError`.
    """

    def __init__(self, path: Path, branch: str = "main", *, max_bytes: int = MAX_BYTES) -> None:
        self.path = Path(path)
        self.branch = branch
        self.max_bytes = max_bytes
        self._ref = Ref(self.path, branch)
        self._history = History()
        # What follows belongs to the writer whose turn it is.
        self._turn = threading.Lock()
        self._writer = self._ref.open()
        self._trees = TreeMaker(self._writer)

    @property
    def head(self) -> str:
        """The latest version."""
        return str(self._ref.tip().id)

    def resolve(self, version: str | None) -> str:
        """The full id of a version given by the beginning of it; the latest one if None is given."""
        return str(self._at(version).id)

    def read(self, path: str, version: str | None = None) -> Read:
        """A file as it is, or as it was in `version`."""
        path = legal_path(path)
        commit = self._at(version)
        oid = self._existing(commit.tree, path)
        return Read(path, blob_data(self._repo, oid), str(commit.id))

    def write(self, path: str, content: bytes | str, *, base: str | None, author: Author) -> Written:
        """Make `content` the file at `path`.

        `base` is the version in which the author saw the file last, None if never. What others changed since
        then is merged in; raises `Conflict` where that cannot be done, or where a file that the author never
        saw is in the way.
        """
        path = legal_path(path)
        blob = self._blob(path, content)
        seen = self.resolve(base) if base else None

        def plan(tip: _Tip) -> _Plan:
            return self._merge(tip, seen, {path: blob}, author)

        return self._written(path, f"write {path}", author, plan)

    def edit(self, path: str, old: str, new: str, *, base: str | None = None, author: Author) -> Written:
        """Replace `old`, which must be in the file exactly once, by `new`.

        The edit is made on the file as it is now. With `base`, the version in which the author saw it last,
        the result names those who changed it since.
        """
        path = legal_path(path)
        seen = self.resolve(base) if base else None

        def plan(tip: _Tip) -> _Plan:
            content = blob_data(self._repo, self._existing(tip.tree, path))
            blob = self._blob(path, _replaced(path, content, _encoded(old), _encoded(new)))
            others = self._history.writers(self._repo, tip.commit, seen, path) if seen else ()
            return _Plan({path: blob}, tuple(agent for agent in others if agent != author.agent))

        return self._written(path, f"edit {path}", author, plan)

    def move(self, source: str, target: str, *, author: Author) -> Written:
        """Give a file another path, at which there must be none."""
        source, target = legal_path(source), legal_path(target)
        if source == target:
            raise ToolError(f"`{source}` is there already.")

        def plan(tip: _Tip) -> _Plan:
            oid = self._existing(tip.tree, source)
            if file_id(tip.tree, target) is not None:
                raise ToolError(f"`{target}` exists already. Delete it first, or choose another path.")
            return _Plan({source: None, target: oid})

        return self._written(target, f"move {source} to {target}", author, plan)

    def delete(self, path: str, *, base: str | None = None, author: Author) -> Written:
        """Delete a file. Its folder goes with it if it was the last one there.

        With `base`, the version in which the author saw it last, raises `Conflict` if others changed it since.
        """
        path = legal_path(path)
        seen = self.resolve(base) if base else None

        def plan(tip: _Tip) -> _Plan:
            self._existing(tip.tree, path)
            return self._merge(tip, seen, {path: None}, author) if seen else _Plan({path: None})

        return self._written(path, f"delete {path}", author, plan)

    def propose(self, base: str, changes: Mapping[str, bytes | None], *, author: Author, subject: str = "") -> Proposal:
        """Make a set of changes, all or none: contents by path, None to delete, as they differ from `base`.

        Contents equal to those in `base` are no change. Raises `ToolError` naming every path that is not
        legal, and `Conflict` naming every file that could not be merged.
        """
        seen = self._at(base)
        contents: dict[str, pygit2.Oid | None] = {}
        problems: list[str] = []
        for given, content in changes.items():
            try:
                path = legal_path(given)
                blob = None if content is None else self._blob(path, content)
            except ToolError as error:
                problems.append(str(error))
                continue
            if path in contents:
                problems.append(f"`{path}` is there twice, in two spellings of the same Unicode text.")
            contents[path] = blob
        if problems:
            more = f"\n[… and {len(problems) - 10} more …]" if len(problems) > 10 else ""
            raise ToolError("Nothing was written.\n" + "\n".join(problems[:10]) + more)
        wanted = {path: blob for path, blob in contents.items() if blob != file_id(seen.tree, path)}
        named = ", ".join(sorted(wanted)) if len(wanted) <= 3 else f"{len(wanted)} files"
        subject = " ".join(subject.split()) or f"change {named}"
        return self._apply(subject, author, lambda tip: self._merge(tip, str(seen.id), wanted, author))

    def files(self, pattern: str = "", version: str | None = None) -> list[Entry]:
        """The files that `pattern` means (see `megagraph.files.paths.matches`), sorted by path."""
        last = self._history.last_agents(self._ref.tip())
        odb = self._repo.odb
        found = [(path, oid) for path, oid in files_of(self._at(version).tree) if matches(path, pattern)]
        return [Entry(path, odb.read_header(oid)[1], last.get(path, "")) for path, oid in sorted(found)]

    def paths(self, version: str | None = None) -> list[str]:
        """The paths of all files, sorted."""
        return sorted(path for path, _ in files_of(self._at(version).tree))

    def changed(self, paths: Iterable[str], since: str, version: str | None = None) -> list[str]:
        """Which of these paths are not in `version` what they were in an older one."""
        old, new = self._at(since).tree, self._at(version).tree
        legal = dict.fromkeys(legal_path(path) for path in paths)
        return [path for path in legal if file_id(old, path) != file_id(new, path)]

    def search(self, expression: str, pattern: str = "", *, limit: int = 100, version: str | None = None) -> Found:
        """The first `limit` lines that a regular expression finds in the text files that `pattern` means."""
        files = ((path, oid) for path, oid in files_of(self._at(version).tree) if matches(path, pattern))
        texts = ((path, as_text(blob_data(self._repo, oid))) for path, oid in files)
        return search_texts(((path, text) for path, text in texts if text is not None), expression, limit)

    def log(self, path: str | None = None, limit: int | None = None) -> list[Change]:
        """The changes, of one path or all, the newest first."""
        return list(islice(changes_of(self._ref.tip(), path and legal_path(path)), limit))

    def who_wrote(self, path: str) -> str | None:
        """The agent that changed `path` last."""
        return self._history.last_agents(self._ref.tip()).get(legal_path(path))

    def diff(self, since: str | Workspace, version: str | None = None) -> list[FileDiff]:
        """What leads from an older version, or from the head of another workspace, to `version`."""
        if isinstance(since, Workspace):
            return between(since._repo, since._ref.tip(), self._repo, self._at(version))
        return between(self._repo, self._at(since), self._repo, self._at(version))

    def patches(self, version: str) -> list[FileDiff]:
        """What the change that made `version` did to each file."""
        return made_by(self._at(version))

    def materialise(self, dest: Path, version: str | None = None) -> str:
        """Write the files to a new or empty folder; returns the full id of the version written."""
        commit = self._at(version)
        fill_folder(dest, self._contents(commit))
        return str(commit.id)

    def export(self, dest: Path, *, overwrite: bool = False) -> None:
        """Write the files to a person's folder. Raises `UsageError` where that would change a file there."""
        export_to_folder(dest, dict(self._contents(self._ref.tip())), overwrite=overwrite)

    def import_tree(self, folder: Path) -> Proposal:
        """Take in a folder of material, as a change by the agent `input`. It is done once only."""
        try:
            return self.propose(
                self.head,
                read_folder(folder),
                author=Author("input", "input"),
                subject=f"import {folder.name}",
            )
        except ToolError as error:
            raise UsageError(f"{folder} cannot be taken in. {error}") from error

    def branch_from(self, version: str, name: str) -> Workspace:
        """A new branch in the same repository that starts at `version`. Raises `UsageError` if it exists."""
        self._ref.fork(self._at(version), name)
        return Workspace(self.path, name, max_bytes=self.max_bytes)

    def changes(self) -> list[Change]:
        """All changes, the oldest first, without the empty one that a history begins with."""
        return list(changes_of(self._ref.tip(), None))[::-1]

    def position(self, version: str) -> int | None:
        """The place in the history of a version, or of one that was left behind in a branch; None if it is neither."""
        self._history.catch_up(self._ref.tip())
        return self._history.position(version)

    def rebuild(self, left_out: Collection[str], edits: Mapping[str, bytes | None], why: str) -> str | Unmergeable:
        """The version that this one would be without some commits and with some files changed. Moves no branch."""
        return rebuild(self._repo, self.head, left_out, edits, why)

    def fork(self, version: str, name: str) -> None:
        """Make another branch in the same repository that starts at `version`, which `rebuild` has made."""
        self._ref.fork(commit_of(self._repo, version), name)

    def _written(self, path: str, subject: str, author: Author, plan: Planner) -> Written:
        done = self._apply(subject, author, plan)
        return Written(path, done.version, bool(done.paths), done.merged_over)

    def _apply(self, subject: str, author: Author, plan: Planner) -> Proposal:
        """Commit what `plan` makes of the tip, again if another process has moved the tip meanwhile."""
        # Writers take turns: of many that build on one tip at once, all but one would have worked in vain.
        with self._turn:
            repo = self._repo
            while True:
                commit = self._ref.tip(self._writer)
                tip = _Tip(commit, commit.tree)
                self._history.catch_up(commit)
                for done in self._history.with_effect(author.effect):
                    change = change_of(commit_of(repo, done))
                    if change.effect == author.effect:
                        return Proposal(done, change.paths, change.merged_over)
                planned = plan(tip)
                files = {path: oid for path, oid in planned.files.items() if oid != file_id(tip.tree, path)}
                if not files:
                    return Proposal(tip.version, (), planned.merged_over)
                tree = self._trees.with_files(tip.tree, files)
                signature = pygit2.Signature(author.agent, f"{author.agent}@megagraph")
                message = message_of(author, subject, planned.merged_over)
                made = self._writer.create_commit(None, signature, signature, message, tree, [commit.id])
                if self._ref.advance(commit.id, made):
                    self._history.grow(tip.version, str(made), author, files)
                    return Proposal(str(made), tuple(sorted(files)), planned.merged_over)

    def _merge(self, tip: _Tip, seen: str | None, wanted: Mapping[str, pygit2.Oid | None], author: Author) -> _Plan:
        """Three-way merge each wanted file: as `seen`, as wanted, as at the tip. None is an absent file."""
        repo = self._repo
        seen_tree = commit_of(repo, seen).tree if seen else None
        files: dict[str, pygit2.Oid | None] = {}
        merged_over: dict[str, None] = {}
        clashes: list[Clash] = []
        for path, ours in wanted.items():
            base = file_id(seen_tree, path) if seen_tree is not None else None
            theirs = file_id(tip.tree, path)
            if theirs in (base, ours):
                files[path] = ours
                continue
            others = self._others(tip, seen, path)
            if ours != base:
                merged = merge_file(repo, path, base, ours, theirs, others)
                if isinstance(merged, Clash):
                    clashes.append(merged)
                    continue
                files[path] = merged
            merged_over |= dict.fromkeys(agent for agent in others if agent != author.agent)
        if clashes:
            raise Conflict(clashes, tip.version)
        return _Plan(files, tuple(merged_over))

    def _others(self, tip: _Tip, seen: str | None, path: str) -> tuple[str, ...]:
        if seen:
            return self._history.writers(self._repo, tip.commit, seen, path)
        last = self._history.last_agents(tip.commit).get(path)
        return (last,) if last else ()

    @property
    def _repo(self) -> pygit2.Repository:
        return self._ref.repo

    def _at(self, version: str | None) -> pygit2.Commit:
        tip = self._ref.tip()
        if version is None:
            return tip
        self._history.catch_up(tip)
        return commit_of(self._repo, self._history.resolve(version))

    def _contents(self, commit: pygit2.Commit) -> Iterator[tuple[str, bytes]]:
        return ((path, blob_data(self._repo, oid)) for path, oid in files_of(commit.tree))

    def _blob(self, path: str, content: bytes | str) -> pygit2.Oid:
        data = content if isinstance(content, bytes) else _encoded(content)
        if len(data) > self.max_bytes:
            raise ToolError(f"`{path}` would have {len(data):,} bytes; {self.max_bytes:,} are allowed.")
        return self._repo.create_blob(data)

    def _existing(self, tree: pygit2.Tree, path: str) -> pygit2.Oid:
        oid = file_id(tree, path)
        if oid is not None:
            return oid
        paths = [p for p, _ in files_of(tree)]
        below = [p for p in paths if p.startswith(f"{path}/")]
        near = below[:5] or get_close_matches(path, paths, n=3)
        what = f"`{path}` is a folder." if below else f"There is no file `{path}`."
        hint = f" There is {', '.join(f'`{p}`' for p in near)}." if near else ""
        raise ToolError(what + hint)


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ToolError(f"The text is not valid Unicode at character {error.start}.") from None


def _replaced(path: str, content: bytes, old: bytes, new: bytes) -> bytes:
    if not old:
        raise ToolError("The text to replace is empty. To add text, replace a line by that line and more.")
    count = content.count(old)
    if not count and b"\r\n" in content and b"\r" not in old:
        # Models do not see carriage returns, so they do not write them.
        old, new = old.replace(b"\n", b"\r\n"), new.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        count = content.count(old)
    if count != 1:
        found = f"{count} times" if count else "not at all"
        remedy = "Give more of the text around it." if count else "Read the file and copy the text exactly."
        raise ToolError(f"The text to replace is {found} in `{path}`, not exactly once. {remedy}")
    return content.replace(old, new)
