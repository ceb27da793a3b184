"""A filter for the kernel under which no program can make a user namespace.

Where megagraph runs as root, Bubblewrap cannot see to it (`docs/design/sandbox.md`). In a namespace of its own a
program has all of root's powers over what the kernel lets one do there, and much of what is found broken in kernels is
found there.
"""

from __future__ import annotations

import errno
import functools
import os
import platform
import struct
from typing import NamedTuple

_CLONE_NEWUSER = 0x10000000
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_LOAD, _RETURN, _EQUAL, _AT_LEAST, _ANY_BIT = 0x20, 0x06, 0x15, 0x35, 0x45
_OTHER_NUMBERS = 0x40000000
"""From here on are the numbers of another way to call the kernel, x32."""
_NUMBER, _ARCHITECTURE, _FLAGS = 0, 4, 16
"""Where in what the filter is shown stand: which call it is, of which architecture, and its first argument."""


class _Calls(NamedTuple):
    """How an architecture calls itself, and the numbers of its calls that make namespaces."""

    architecture: int
    clone: int
    unshare: int
    clone3: int


_CALLS = {
    "x86_64": _Calls(0xC000003E, clone=56, unshare=272, clone3=435),
    "aarch64": _Calls(0xC00000B7, clone=220, unshare=97, clone3=435),
}


def no_user_namespaces(machine: str) -> bytes | None:
    """The filter as BPF; None for a machine whose numbers are not known here.

    The flags of `clone3` cannot be seen by a filter. It is said not to exist, and C libraries use `clone` then; so it
    is with all calls of another architecture.
    """
    if (calls := _CALLS.get(machine)) is None:
        return None
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 0, 9, calls.architecture),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 7, 0, _OTHER_NUMBERS),
        (_EQUAL, 6, 0, calls.clone3),
        (_EQUAL, 1, 0, calls.unshare),
        (_EQUAL, 0, 2, calls.clone),
        (_LOAD, 0, 0, _FLAGS),
        (_ANY_BIT, 1, 0, _CLONE_NEWUSER),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
        (_RETURN, 0, 0, _FAIL | errno.ENOSYS),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


@functools.cache
def filter_file() -> str | None:
    """The path of a file with the filter, for as long as this process is there; None where there is no filter."""
    program = no_user_namespaces(platform.machine())
    if program is None:
        return None
    fd = os.memfd_create("no_user_namespaces")
    os.write(fd, program)
    return f"/proc/{os.getpid()}/fd/{fd}"
