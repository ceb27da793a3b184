"""Who did what to the files of a run, read from the commits of one branch."""

from __future__ import annotations

import re
import threading
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile

import pygit2

from megagraph.errors import ToolError, UsageError
from megagraph.files.commits import Commits, Places
from megagraph.files.refs import commit_of
from megagraph.files.trees import file_id

_TRAILER = re.compile(r"^(Agent|Effect|Merged-Over|Was): (.*)$", re.M)
_AGENT = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Author:
    """On whose behalf a change is made."""

    agent: str
    effect: str = ""
    """Names the one act this change is, such as `engine_dev/3/0`: agent, step, index of the tool call.

    An effect that is in the history already is not done again. The empty one is always done.
    """

    def __post_init__(self) -> None:
        if not _AGENT.fullmatch(self.agent):
            raise UsageError(f"{self.agent!r} cannot be an author's name.")
        if not self.effect.isprintable():
            raise UsageError(f"{self.effect!r} cannot name an effect: it has unprintable characters.")


@dataclass(frozen=True)
class Change:
    """One commit."""

    commit: str
    agent: str
    effect: str
    subject: str
    time: datetime
    paths: tuple[str, ...]
    merged_over: tuple[str, ...]
    """Agents whose concurrent changes were merged into this one."""


def message_of(author: Author, subject: str, merged_over: tuple[str, ...], was: Sequence[str] = ()) -> str:
    """A commit message that people read in `git log` and `History` reads back.

    `was` are the versions of another branch that this one stands for.
    """
    trailers = {
        "Agent": author.agent,
        "Effect": author.effect,
        "Merged-Over": ", ".join(merged_over),
        "Was": " ".join(was),
    }
    lines = [f"{key}: {value}" for key, value in trailers.items() if value]
    return f"{author.agent}: {subject}\n\n" + "\n".join(lines) + "\n"


def change_of(commit: pygit2.Commit) -> Change:
    trailers = _trailers(commit)
    over = trailers.get("Merged-Over", "")
    return Change(
        commit=str(commit.id),
        agent=agent_of(commit),
        effect=trailers.get("Effect", ""),
        subject=commit.message.partition("\n")[0],
        time=datetime.fromtimestamp(commit.commit_time, UTC),
        paths=changed_paths(commit),
        merged_over=tuple(over.split(", ")) if over else (),
    )


def agent_of(commit: pygit2.Commit) -> str:
    """On whose behalf the commit was made."""
    return _trailers(commit).get("Agent", commit.author.name)


def changed_paths(commit: pygit2.Commit) -> tuple[str, ...]:
    """The files that differ from the commit before."""
    if not commit.parents:
        return ()
    diff = commit.parents[0].tree.diff_to_tree(commit.tree)
    return tuple(sorted({delta.new_file.path for delta in diff.deltas}))


def changes_of(head: pygit2.Commit, path: str | None) -> Iterator[Change]:
    """The commits, the newest first; those that changed `path`, if one is given."""
    for commit, parent in _pairs(head):
        if path is None or file_id(commit.tree, path) != file_id(parent.tree, path):
            yield change_of(commit)


def _pairs(commit: pygit2.Commit) -> Iterator[tuple[pygit2.Commit, pygit2.Commit]]:
    while parents := commit.parents:
        yield commit, parents[0]
        commit = parents[0]


def _trailers(commit: pygit2.Commit) -> dict[str, str]:
    return dict(_TRAILER.findall(commit.message.rpartition("\n\n")[2]))


class History:
    """What is asked of the history at every write, kept in memory.

    A branch only ever grows by commits on its tip, so what was read once stays true.
    """

    def __init__(self) -> None:
        self._commits = Commits()
        self._effects = Places()
        """By the hashes of effects, the commits in which they were done."""
        self._was: dict[str, str] = {}
        self._growing = threading.Lock()
        self._changes: dict[str, array[int]] = {}
        """For each path, where in the history it was changed."""
        self._last: dict[str, str] = {}
        """For each path, the agent that changed it last."""
        self._counted = ""
        """The commit up to which changes are counted."""
        self._counting = threading.Lock()

    def catch_up(self, head: pygit2.Commit) -> None:
        """Read the commits up to `head` that are not known yet."""
        new: list[pygit2.Commit] = []
        commit = head
        while self._commits.place(str(commit.id)) is None:
            new.append(commit)
            if not commit.parents:
                break
            commit = commit.parents[0]
        if not new:
            return
        read = [(str(commit.id), _trailers(commit)) for commit in reversed(new)]
        with self._growing:
            for commit_id, trailers in read:
                self._add(commit_id, trailers.get("Effect", ""), trailers.get("Was", "").split())

    def grow(self, parent: str, commit: str, author: Author, paths: Iterable[str]) -> None:
        """Add a commit that this process made, which saves reading it back."""
        with self._growing:
            if self._commits.place(parent) != len(self._commits) - 1:
                return
            self._add(commit, author.effect)
        with self._counting:
            if self._counted == parent:
                self._count(commit, author.agent, paths)

    def with_effect(self, effect: str) -> list[str]:
        """The commits in which `effect` may have been done, the oldest first: each says itself which it was."""
        number = _number(effect)
        places = self._effects.between(number, number) if effect else []
        # Another thread may just be adding one, behind the tip that was asked about.
        return [self._commits[place] for place in places if place < len(self._commits)]

    def resolve(self, version: str) -> str:
        """The commit that `version`, an id or the unique beginning of one, means.

        Raises `ToolError` where it is none of this history.
        """
        wanted = version.strip().lower()
        if self._commits.place(wanted) is not None:
            return wanted
        if wanted in self._was:
            return self._was[wanted]
        found: set[str] = set()
        if len(wanted) >= 4:
            with self._growing:
                found = {commit for was, commit in self._was.items() if was.startswith(wanted)}
            found.update(self._commits[place] for place in self._commits.beginning_with(wanted))
        if len(found) != 1:
            problem = "means more than one version" if found else "is not a version of these files"
            raise ToolError(f"`{version[:60]}` {problem}. Read the file again and use the version it shows.")
        return found.pop()

    def position(self, version: str) -> int | None:
        """The place of a version, of this branch or one that it stands for, in the history; None if it is neither."""
        return self._commits.place(self._was.get(version, version))

    def last_agents(self, head: pygit2.Commit) -> Mapping[str, str]:
        """For each path, the agent that changed it last."""
        with self._counted_up_to(head):
            return dict(self._last)

    def writers(self, repo: pygit2.Repository, head: pygit2.Commit, base: str, path: str) -> tuple[str, ...]:
        """The agents that changed `path` after the commit `base`, the last one first."""
        with self._counted_up_to(head):
            since = self._place(base)
            places = takewhile(lambda place: place > since, reversed(self._changes.get(path, ())))
            commits = [self._commits[place] for place in places]
        return tuple(dict.fromkeys(agent_of(commit_of(repo, commit)) for commit in commits))

    @contextmanager
    def _counted_up_to(self, head: pygit2.Commit) -> Iterator[None]:
        """Every commit is compared once per process, and those that it made itself not even once."""
        self.catch_up(head)
        with self._counting:
            if self._place(str(head.id)) > (self._place(self._counted) if self._counted else -1):
                new: list[pygit2.Commit] = []
                for commit, _ in _pairs(head):
                    if str(commit.id) == self._counted:
                        break
                    new.append(commit)
                for commit in reversed(new):
                    self._count(str(commit.id), agent_of(commit), changed_paths(commit))
                self._counted = str(head.id)
            yield

    def _count(self, commit: str, agent: str, paths: Iterable[str]) -> None:
        for path in paths:
            self._changes.setdefault(path, array("I")).append(self._place(commit))
            self._last[path] = agent
        self._counted = commit

    def _add(self, commit: str, effect: str, was: Sequence[str] = ()) -> None:
        if self._commits.place(commit) is None:
            self._was |= dict.fromkeys(was, commit)
            if effect:
                self._effects.add(_number(effect), len(self._commits))
            self._commits.append(commit)

    def _place(self, commit: str) -> int:
        place = self._commits.place(commit)
        assert place is not None
        return place


def _number(effect: str) -> int:
    return hash(effect) & 0xFFFF_FFFF_FFFF_FFFF
