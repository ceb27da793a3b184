"""The process that stands over a program where no PID namespace does, and takes all of it down in the end.

Run as a script: `python -I warden.py SPEC PROGRAM ARGS…`, SPEC being the JSON of a `Charge`. It starts the
program, adopts whatever the program leaves behind, and ends with the program's exit code (128 + n for signal
n) once nothing of it is left: after the program's own end, on SIGTERM, or when the process that started the
warden is gone. It knows the standard library only (and `sandlock` where asked), so that it starts quickly.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TypedDict

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36


class Charge(TypedDict):
    """What a warden is told about its program."""

    parent: int
    """The process that started the warden, itself or by others in between; when it dies the program does."""
    rlimits: dict[str, int]
    """`resource` limits by name, `RLIMIT_CPU` and so on."""
    policy: dict[str, object] | None
    """Arguments of `sandlock.Sandbox`, or None for no confinement."""


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that still are; none where there is no /proc."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_bytes().split())
    return found


def descendants(pid: int) -> list[int]:
    """The children of `pid`, their children, and so on."""
    found: list[int] = []
    ahead = [pid]
    while ahead:
        below = children(ahead.pop())
        found += below
        ahead += below
    return found


def started_by(pid: int) -> int | None:
    """The parent of this process, if that is `pid` or has been started by it; None where it is gone already."""
    parent = above = os.getppid()
    while above != pid:
        try:
            # After the name, which may have spaces and brackets of its own: the state, then the parent.
            above = int(Path(f"/proc/{above}/stat").read_bytes().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return None
    return parent


def main(argv: list[str]) -> int:
    charge: Charge = json.loads(argv[0])
    ended: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        ended.append(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    # A blocked SIGCHLD can be waited for with a time limit, so its arrival cannot be missed.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    parent = started_by(charge["parent"])
    program = os.fork()
    if program == 0:
        _be_the_program(charge, argv[1:])
    status: int | None = None
    while status is None and not ended and os.getppid() == parent:
        status = _reap(program)
        if status is None:
            _await_child(1.0)
    _sweep()
    code = -signal.SIGKILL if status is None else os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _be_the_program(charge: Charge, argv: list[str]) -> None:
    """Become the program, or its supervisor. Does not return."""
    code = 126
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        _set_limits(charge["rlimits"])
        if charge["policy"] is None:
            os.execvp(argv[0], argv)
        code = _supervise(charge["policy"], argv)
    except BaseException as error:
        print(f"{argv[0]} could not be started: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _supervise(policy: dict[str, object], argv: list[str]) -> int:
    import sandlock  # type: ignore[import-untyped,unused-ignore]

    # A program of root's keeps root's id, so it must not keep root's powers.
    for capability in range(64):
        _prctl(_PR_CAPBSET_DROP, capability)
    process = sandlock.Sandbox(**policy).popen(argv)
    result = process.wait()
    if result.reason == sandlock.ExitReason.SIGNALED:
        return 128 + int(result.signal)
    if result.reason == sandlock.ExitReason.EXITED:
        return int(result.exit_code)
    return 128 + signal.SIGKILL


def _set_limits(limits: dict[str, int]) -> None:
    import resource

    for name, most in limits.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (value, value))


def _reap(program: int) -> int | None:
    """Collect the children that ended; the wait status of `program` once it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == program:
                found = ended[1]
    return found


def _await_child(seconds: float) -> None:
    """Return when a child ended, a signal came, or the seconds are over."""
    if hasattr(signal, "sigtimedwait"):
        with contextlib.suppress(InterruptedError):
            signal.sigtimedwait({signal.SIGCHLD}, seconds)
    else:
        time.sleep(0.02)


def _sweep() -> None:
    """Kill until no child is left. Those of a killed process become children of this one, the subreaper."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
