"""What a program and all that it started use at one moment, as /proc tells."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

from megagraph.programs.warden import descendants


class Usage(NamedTuple):
    """What a program and everything it started use at one moment."""

    processes: int
    cpu_seconds: float
    memory_bytes: int
    busy: bool
    """Is one of them computing or at the disk, not waiting?"""


class Unnamed(NamedTuple):
    """Files without a name, which are there as long as a process has them open."""

    disk_bytes: int
    """Deleted ones, where the tree is."""
    memory_bytes: int
    """Others, such as those of `memfd_create`."""


def measure(pid: int, most_memory: int) -> Usage:
    """What the descendants of `pid` use. Blocks on /proc; all zero where there is none."""
    family = descendants(pid)
    tick = os.sysconf("SC_CLK_TCK")
    cpu = memory = 0
    busy = False
    for member in family:
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{member}/stat").read_bytes().rpartition(b")")[2].split()
            busy = busy or fields[0] in (b"R", b"D")
            cpu += sum(map(int, fields[11:15]))
            memory += _kib(member, "status", b"RssAnon:", b"RssShmem:") * 1024
    if memory > most_memory:
        # Pages shared after a fork were counted once per process; the slower count shares them out.
        memory = sum(_kib(member, "smaps_rollup", b"Pss_Anon:", b"Pss_Shmem:") for member in family) * 1024
    return Usage(len(family), cpu / tick, memory, busy)


def unnamed_files(pid: int, tree: Path) -> Unnamed:
    """What the descendants of `pid` keep in files that no folder lists. Blocks on /proc."""
    device = tree.stat().st_dev
    found: dict[tuple[int, int], int] = {}
    for member in descendants(pid):
        with contextlib.suppress(OSError):
            for file in Path(f"/proc/{member}/fd").iterdir():
                with contextlib.suppress(OSError):
                    info = file.stat()
                    if stat.S_ISREG(info.st_mode) and not info.st_nlink:
                        found[info.st_dev, info.st_ino] = info.st_blocks * 512
    disk = sum(size for (dev, _), size in found.items() if dev == device)
    return Unnamed(disk, sum(found.values()) - disk)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return False


def _kib(pid: int, file: str, *keys: bytes) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path(f"/proc/{pid}/{file}").read_bytes().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(keys))
    return 0
