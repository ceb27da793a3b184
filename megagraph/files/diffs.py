"""How files differ between two versions, or by one change."""

from __future__ import annotations

from dataclasses import dataclass

import pygit2

from megagraph.files.trees import blob_data, files_of

_STATUS = {"A": "added", "D": "deleted"}


@dataclass(frozen=True)
class FileDiff:
    """How a file differs: `status` is `added`, `changed` or `deleted`; `patch` is a unified diff."""

    path: str
    status: str
    patch: str


def between(
    old_repo: pygit2.Repository, old: pygit2.Commit, repo: pygit2.Repository, new: pygit2.Commit
) -> list[FileDiff]:
    """What leads from one version to another, which may be of another repository."""
    was, now = dict(files_of(old.tree)), dict(files_of(new.tree))
    diffs = []
    for path in sorted(was.keys() | now.keys()):
        before, after = was.get(path), now.get(path)
        if before != after:
            status = "added" if before is None else "deleted" if after is None else "changed"
            patch = pygit2.Patch.create_from(
                None if before is None else blob_data(old_repo, before),
                None if after is None else blob_data(repo, after),
                old_as_path=path,
                new_as_path=path,
            )
            diffs.append(FileDiff(path, status, _text(patch)))
    return diffs


def made_by(commit: pygit2.Commit) -> list[FileDiff]:
    """What one change did to each file. Only what differs is read, however many files there are."""
    if not commit.parents:
        return []
    diff = commit.parents[0].tree.diff_to_tree(commit.tree)
    return [
        FileDiff(patch.delta.new_file.path, _STATUS.get(patch.delta.status_char(), "changed"), _text(patch))
        for patch in diff
        if patch is not None
    ]


def _text(patch: pygit2.Patch) -> str:
    return patch.data.decode(errors="replace")
