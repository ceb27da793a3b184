"""A branch of the files with some of their changes left out: as they would be had those never been made.

The commits before the first one left out are shared. Those after it are made again on top of one another, each by
a three-way merge; the contents of files are never copied. A commit that was made again knows the versions that it
stands for, so that whoever remembers one of them finds its place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pygit2

from megagraph.errors import ToolError
from megagraph.files.history import Author, Change, change_of, message_of
from megagraph.files.merging import Clash, merge_file
from megagraph.files.refs import commit_of
from megagraph.files.trees import TreeMaker, file_id


@dataclass(frozen=True)
class Unmergeable:
    """A change that cannot be made without one that was left out."""

    change: Change


def chain_of(tip: pygit2.Commit) -> list[pygit2.Commit]:
    """Every commit up to `tip`, the oldest first."""
    chain = [tip]
    while parents := chain[-1].parents:
        chain.append(parents[0])
    return chain[::-1]


def rebuild(
    repo: pygit2.Repository, tip: str, left_out: Collection[str], edits: Mapping[str, bytes | None], why: str
) -> str | Unmergeable:
    """The tip of a history like that of `tip`, without some commits and with some files changed at its end.

    `why` describes the branch in the commits that are made for it. No branch is moved.
    """
    chain = chain_of(commit_of(repo, tip))
    first = next((i for i, commit in enumerate(chain) if str(commit.id) in left_out), len(chain))
    head, trees = chain[first - 1], TreeMaker(repo)
    i = first
    while i < len(chain):
        # What directly follows and is left out has this one's files.
        gone = _run_of(chain, i + 1, left_out)
        stands_for = [id_ for commit in (chain[i], *gone) for id_ in (str(commit.id), *_stood_for(commit))]
        if str(chain[i].id) in left_out:
            message = message_of(Author("megagraph"), why, (), stands_for)
            head = _commit(repo, head.tree.id, message, _nobody(), head)
        else:
            made = _again(repo, trees, chain[i], head, stands_for)
            if made is None:
                return Unmergeable(change_of(chain[i]))
            head = made
        i += 1 + len(gone)
    if edits:
        blobs = {path: None if data is None else repo.create_blob(data) for path, data in edits.items()}
        present = {path: oid for path, oid in blobs.items() if oid is not None or file_id(head.tree, path) is not None}
        tree = trees.with_files(head.tree, present)
        subject = f"change {', '.join(sorted(edits))}"
        head = _commit(repo, tree, message_of(Author("person"), subject, ()), _nobody("person"), head)
    return str(head.id)


def _run_of(chain: Sequence[pygit2.Commit], start: int, left_out: Collection[str]) -> list[pygit2.Commit]:
    found = []
    for commit in chain[start:]:
        if str(commit.id) not in left_out:
            break
        found.append(commit)
    return found


def _again(
    repo: pygit2.Repository, trees: TreeMaker, commit: pygit2.Commit, head: pygit2.Commit, stands_for: Sequence[str]
) -> pygit2.Commit | None:
    """The commit made again on top of `head`; None where that cannot be."""
    change, before = change_of(commit), commit.parents[0].tree
    files: dict[str, pygit2.Oid | None] = {}
    for path in change.paths:
        base, ours, theirs = (file_id(tree, path) for tree in (before, commit.tree, head.tree))
        if theirs in (base, ours):
            files[path] = ours
            continue
        merged = merge_file(repo, path, base, ours, theirs, ())
        if isinstance(merged, Clash):
            return None
        files[path] = merged
    files = {path: oid for path, oid in files.items() if oid != file_id(head.tree, path)}
    try:
        tree = trees.with_files(head.tree, files) if files else head.tree.id
    except ToolError:
        return None
    subject = change.subject.partition(": ")[2]
    message = message_of(Author(change.agent, change.effect), subject, change.merged_over, stands_for)
    return _commit(repo, tree, message, commit.author, head)


def _stood_for(commit: pygit2.Commit) -> list[str]:
    line = next((line for line in commit.message.splitlines() if line.startswith("Was: ")), "")
    return line.removeprefix("Was: ").split()


def _commit(
    repo: pygit2.Repository, tree: pygit2.Oid, message: str, author: pygit2.Signature, parent: pygit2.Commit
) -> pygit2.Commit:
    return commit_of(repo, str(repo.create_commit(None, author, author, message, tree, [parent.id])))


def _nobody(name: str = "megagraph") -> pygit2.Signature:
    return pygit2.Signature(name, f"{name}@megagraph")
