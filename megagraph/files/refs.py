"""A branch of a bare git repository, which threads and processes grow together, a commit at a time."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pygit2
from pygit2.enums import RepositoryOpenFlag

from megagraph.errors import HomeError, UsageError

_STALE_SECONDS = 0.5

CACHED = 256 * 1024
"""Bytes of commits and trees that libgit2 keeps. It would keep 256 MB, and so every version that there ever was."""

pygit2.settings.cache_max_size(CACHED)


class Ref:
    """The branch `name` of the repository at `path`; both are made where they do not exist."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self._ref = _ref(name)
        self._local = threading.local()
        self._turn = threading.Lock()
        if not path.exists():
            _create(path, name)
        if self._ref not in self.repo.references:
            _start(self.repo, self._ref)

    def fork(self, commit: pygit2.Commit, name: str) -> None:
        """Make another branch that starts at `commit`. Raises `UsageError` if it exists."""
        try:
            self.repo.references.create(_ref(name), commit.id)
        except pygit2.AlreadyExistsError:
            raise UsageError(f"There is a branch {name!r} already.") from None

    def advance(self, old: pygit2.Oid, new: pygit2.Oid) -> bool:
        """Move the branch from `old` to `new`; False if it is not at `old` any more."""
        with self._turn, (self.path / "megagraph.lock").open("ab") as lock:
            # Unlike git's own lock file, this one is gone with the process that held it.
            fcntl.flock(lock, fcntl.LOCK_EX)
            for _ in range(300):
                ref = self.repo.references[self._ref]
                if ref.target != old:
                    return False
                try:
                    ref.set_target(new)
                    return True
                except (OSError, pygit2.GitError) as error:
                    problem = error
                    self._clear_stale_lock()
                    time.sleep(0.005)
        raise HomeError(f"The files in {self.path} cannot be written: {problem}.")

    def _clear_stale_lock(self) -> None:
        """Remove git's lock file on the branch if a killed process has left it."""
        file = self.path / f"{self._ref}.lock"
        with suppress(FileNotFoundError):
            if time.time() - file.stat().st_mtime > _STALE_SECONDS:
                file.unlink()

    @property
    def repo(self) -> pygit2.Repository:
        """This thread's own handle: one handle must not be used by two threads at once."""
        repo: pygit2.Repository | None = getattr(self._local, "repo", None)
        if repo is None:
            repo = self._local.repo = self.open()
        return repo

    def open(self) -> pygit2.Repository:
        """A handle of its own."""
        try:
            return pygit2.Repository(str(self.path), RepositoryOpenFlag.BARE)
        except pygit2.GitError as error:
            raise HomeError(f"{self.path} is not a repository of shared files: {error}.") from error

    def tip(self, repo: pygit2.Repository | None = None) -> pygit2.Commit:
        repo = repo or self.repo
        return commit_of(repo, str(repo.references[self._ref].target))


def _ref(name: str) -> str:
    ref = f"refs/heads/{name}"
    if not pygit2.reference_is_valid_name(ref):
        raise UsageError(f"{name!r} cannot be the name of a branch.")
    return ref


def _create(path: Path, branch: str) -> None:
    """Make the repository beside its place and move it there whole: a kill leaves all or nothing of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        repo = pygit2.init_repository(str(made), bare=True, initial_head=branch)
        repo.config["gc.auto"] = 0
        _start(repo, f"refs/heads/{branch}")
        made.chmod(0o755)
        made.rename(path)
    except OSError:
        # Another process may have been faster; whoever opens it next will see what is there.
        if not path.exists():
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _start(repo: pygit2.Repository, ref: str) -> None:
    """Begin a branch with an empty commit, so that there always is a version to build on."""
    signature = pygit2.Signature("megagraph", "megagraph@megagraph")
    tree = repo.TreeBuilder().write()
    commit = repo.create_commit(None, signature, signature, "megagraph: start\n", tree, [])
    with suppress(pygit2.AlreadyExistsError):
        repo.references.create(ref, commit)


def commit_of(repo: pygit2.Repository, version: str) -> pygit2.Commit:
    commit = repo[version]
    assert isinstance(commit, pygit2.Commit)
    return commit
