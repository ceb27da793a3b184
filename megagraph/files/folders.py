"""Plain folders on disk: write files out to one, and read one in."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from megagraph.errors import UsageError


def fill_folder(dest: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write files to a folder that is empty or does not exist yet, else raise `UsageError`.

    Only in such a folder is it certain that no link leads elsewhere.
    """
    dest.mkdir(parents=True, exist_ok=True)
    if any(dest.iterdir()):
        raise UsageError(f"{dest} is not empty.", "Give a new folder.")
    _write(dest, files)


def export_to_folder(dest: Path, files: Mapping[str, bytes], *, overwrite: bool) -> None:
    """Write files to a folder of a person.

    Raises `UsageError` naming those that are there with another content, unless they may be overwritten, and
    those that would be written through a link. Nothing is written then.
    """
    if dest.exists() and not dest.is_dir():
        raise UsageError(f"Nothing was exported: {dest} is no folder.", "Export to another one.")
    linked, differing = [], []
    for path, content in files.items():
        target = dest / path
        above = [dest / parent for parent in list(Path(path).parents)[:-1]]
        special = target.is_symlink() or (target.exists() and not target.is_file())
        if special or any(p.is_symlink() or (p.exists() and not p.is_dir()) for p in above):
            linked.append(path)
        elif not overwrite and target.exists() and target.read_bytes() != content:
            differing.append(path)
    if linked:
        raise UsageError(
            f"Nothing was exported: in {dest}, a link, or something else than a file or a folder, is in the way of "
            f"{_named(linked)}.",
            "Export to another folder.",
        )
    if differing:
        raise UsageError(
            f"Nothing was exported: {dest} has other versions of {_named(differing)}.",
            "Export to another folder, or say that these may be overwritten.",
        )
    dest.mkdir(parents=True, exist_ok=True)
    _write(dest, files.items())


def read_folder(folder: Path) -> dict[str, bytes]:
    """The files in a folder by relative POSIX path, without those of git.

    Raises `UsageError` naming what is not a plain file: a link may lead anywhere.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder.")
    files: dict[str, bytes] = {}
    others: list[str] = []

    def unreadable(error: OSError) -> None:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}.") from None

    for root, folders, names in os.walk(folder, onerror=unreadable):
        here = Path(root)
        folders[:] = sorted(name for name in folders if name != ".git")
        others += [str(here / name) for name in folders if (here / name).is_symlink()]
        for name in sorted(names):
            file = here / name
            if name == ".git":
                continue
            if not stat.S_ISREG(file.lstat().st_mode):
                others.append(str(file))
                continue
            try:
                files[file.relative_to(folder).as_posix()] = file.read_bytes()
            except OSError as error:
                raise UsageError(f"{file} cannot be read: {error.strerror}.") from None
    if others:
        raise UsageError(
            f"{folder} has links or special files, which are not taken in: {_named(others)}.",
            "Replace them by copies, or leave them out.",
        )
    return files


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that a program has put there, if it is there; what cannot be removed stays.

    By programs that need no recursion: there may be thousands of folders in one another.
    """
    for command in (["rm", "-rf", "--"], ["chmod", "-R", "u+rwx", "--"], ["rm", "-rf", "--"]):
        if not folder.exists():
            return
        subprocess.run([*command, str(folder)], check=False, capture_output=True)


def _write(dest: Path, files: Iterable[tuple[str, bytes]]) -> None:
    made = {dest}
    for path, content in files:
        target = dest / path
        if target.parent not in made:
            target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        with target.open("wb") as file:
            file.write(content)


def _named(paths: list[str]) -> str:
    more = f" and {len(paths) - 10} more" if len(paths) > 10 else ""
    return ", ".join(f"`{path}`" for path in paths[:10]) + more
