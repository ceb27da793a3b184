"""Trees of files in a git repository: look into one, and make the next from it."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping

import pygit2
from pygit2.enums import FileMode, ObjectType

from megagraph.errors import ToolError
from megagraph.files.paths import fold

MAX_REMEMBERED = 1000
"""Trees whose names are kept in memory."""


def _same(path: str) -> str:
    """A path as the object that it always is.

    pygit2 (1.21) lets go of no path that it was asked for: a long run asks for the same ones again and again.
    """
    return sys.intern(path)


def file_id(tree: pygit2.Tree, path: str) -> pygit2.Oid | None:
    """The id of the file at `path`, or None where there is none."""
    try:
        found = tree[_same(path)]
    except KeyError:
        return None
    return found.id if found.type == ObjectType.BLOB else None


def files_of(tree: pygit2.Tree, folder: str = "") -> Iterator[tuple[str, pygit2.Oid]]:
    """Path and id of every file, in the order git keeps them."""
    for entry in tree:
        path = f"{folder}{entry.name}"
        if isinstance(entry, pygit2.Tree):
            yield from files_of(entry, f"{path}/")
        else:
            yield path, entry.id


def blob_data(repo: pygit2.Repository, oid: pygit2.Oid) -> bytes:
    blob = repo[oid]
    assert isinstance(blob, pygit2.Blob)
    return blob.data


def reachable(repo: pygit2.Repository, tips: Iterable[str] = ()) -> list[pygit2.Oid]:
    """All objects that these commits need, or all branches: commits first, then trees, then files."""
    commits: dict[pygit2.Oid, pygit2.Commit] = {}
    for tip in tips or [str(repo.references[name].target) for name in repo.references]:
        waiting: list[pygit2.Object] = [repo[tip]]
        while waiting:
            found = waiting.pop()
            assert isinstance(found, pygit2.Commit)
            if found.id not in commits:
                commits[found.id] = found
                waiting += found.parents
    trees: dict[pygit2.Oid, None] = {}
    blobs: dict[pygit2.Oid, None] = {}
    for commit in commits.values():
        _walk(commit.tree, trees, blobs)
    return [*commits, *trees, *blobs]


def _walk(tree: pygit2.Tree, trees: dict[pygit2.Oid, None], blobs: dict[pygit2.Oid, None]) -> None:
    waiting = [tree]
    while waiting:
        tree = waiting.pop()
        if tree.id in trees:
            continue
        trees[tree.id] = None
        for entry in tree:
            if isinstance(entry, pygit2.Tree):
                waiting.append(entry)
            else:
                blobs[entry.id] = None


class TreeMaker:
    """Makes trees from trees. For one thread at a time."""

    def __init__(self, repo: pygit2.Repository) -> None:
        self._repo = repo
        # The folded names of the trees made last: to read those of a wide folder costs as much as a commit.
        self._folded: OrderedDict[pygit2.Oid, dict[str, str]] = OrderedDict()

    def with_files(self, tree: pygit2.Tree, files: Mapping[str, pygit2.Oid | None]) -> pygit2.Oid:
        """The id of `tree` with the legal paths in `files` put in, or taken out where the id is None.

        Raises `ToolError` where a name clashes with one that is there.
        """
        return self._make(tree, files, "") or self._repo.TreeBuilder().write()

    def _make(self, tree: pygit2.Tree | None, files: Mapping[str, pygit2.Oid | None], folder: str) -> pygit2.Oid | None:
        here: dict[str, pygit2.Oid | None] = {}
        below: dict[str, dict[str, pygit2.Oid | None]] = {}
        for path, oid in files.items():
            name, slash, rest = path.partition("/")
            name = _same(name)
            if slash:
                below.setdefault(name, {})[rest] = oid
            else:
                here[name] = oid
        builder = self._repo.TreeBuilder() if tree is None else self._repo.TreeBuilder(tree)
        names = self._names(tree)
        # What goes, goes first, so that its name is free.
        for name in [name for name, oid in here.items() if oid is None]:
            builder.remove(name)
            names.pop(fold(name), None)
        for name, inside in below.items():
            there = builder.get(name)
            if there is not None and not isinstance(there, pygit2.Tree):
                raise ToolError(f"`{folder}{name}` is a file, so nothing can be put below it.")
            subtree = self._make(there, inside, f"{folder}{name}/")
            if subtree is not None:
                _add_name(names, name, folder)
                builder.insert(name, subtree, FileMode.TREE)
            elif there is not None:
                builder.remove(name)
                names.pop(fold(name), None)
        for name, oid in here.items():
            if oid is None:
                continue
            if isinstance(builder.get(name), pygit2.Tree):
                raise ToolError(f"`{folder}{name}` is a folder; give the path of a file in it.")
            _add_name(names, name, folder)
            builder.insert(name, oid, FileMode.BLOB)
        if not len(builder):
            return None
        made = builder.write()
        self._folded[made] = names
        if len(self._folded) > MAX_REMEMBERED:
            self._folded.popitem(last=False)
        return made

    def _names(self, tree: pygit2.Tree | None) -> dict[str, str]:
        if tree is None:
            return {}
        # Handed on to the tree being made, not copied: the one it is made from is seldom asked for again.
        known = self._folded.pop(tree.id, None)
        return known if known is not None else {fold(entry.name or ""): entry.name or "" for entry in tree}


def _add_name(names: dict[str, str], name: str, folder: str) -> None:
    there = names.setdefault(fold(name), name)
    if there != name:
        raise ToolError(
            f"`{folder}{name}` differs only by case from `{folder}{there}`, which exists; "
            "some systems take them for one. Choose one spelling."
        )
