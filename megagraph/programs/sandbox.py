"""Where programs run: what confines them, and the choice of what this machine has for it.

A sandbox turns a command into another command, one that runs it confined to a folder. Starting that one,
feeding and reading it, watching it and stopping it are the same for all sandboxes (see `process.py` and
`terminal.py`), so a container or a remote machine can take their place with one method.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

from megagraph.errors import SandboxUnavailable
from megagraph.programs import warden
from megagraph.programs.seccomp import filter_file

PYTHON = getattr(sys, "_base_executable", sys.executable)
"""The interpreter that programs run on: ours, without the virtual environment around it."""

_OPEN_FILES = 256
_FILTER_FD = "9"
_SCRATCH_BYTES = 64 * 2**20
_NETWORK_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/ssl", "/etc/ca-certificates")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/alternatives")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
# The ids that systemd keeps for users that live as long as one service does: no file and no person has them.
_TRANSIENT_IDS = range(61184, 65520)
_next_id = itertools.count()


def _begin_somewhere() -> None:
    """Number on from anywhere: two processes, one forked from the other, are to give different ids."""
    global _next_id
    _next_id = itertools.count(int.from_bytes(os.urandom(2), "big"))


_begin_somewhere()
os.register_at_fork(after_in_child=_begin_somewhere)


class ProgramLimits(BaseModel):
    """What a program may use, and which commands may be run at all."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    wall_seconds: float = Field(default=60, gt=0)
    """Time from start to end of a program that runs once."""
    session_seconds: float = Field(default=900, gt=0)
    """Time from start to end of an interactive program, its partner's thinking included."""
    cpu_seconds: int = Field(default=60, gt=0)
    """Processor time of all its processes together."""
    memory_mb: int = Field(default=1024, ge=32)
    """Memory of each process (address space) and of all together (resident), in MiB."""
    processes: int = Field(default=64, ge=1)
    """Processes, and under some sandboxes threads, at one time."""
    file_mb: int = Field(default=32, ge=1)
    """Size of one file, in MiB."""
    tree_mb: int = Field(default=128, ge=1)
    """Size of all files in its folder together, in MiB."""
    tree_files: int = Field(default=20_000, ge=1)
    """Number of files and folders in its folder."""
    output_kb: int = Field(default=32, ge=1)
    """How much of stdout, and of stderr, is kept, in KiB: the head and the tail."""
    at_once: int = Field(default=8, ge=1)
    """Programs of one run at one time; the others wait their turn. Interactive ones are counted apart."""
    network: bool = False
    """May it reach the network?"""
    commands: tuple[str, ...] = ("python",)
    """What may be run besides the Python files of the tree, such as `node`; found by PATH."""
    packages: tuple[Path, ...] = ()
    """Folders of Python packages that programs may import, such as a `site-packages`. Read only."""


class Launch(NamedTuple):
    """A command that runs a program confined. It is started with the tree as its working directory."""

    argv: list[str]
    env: dict[str, str]
    """The whole environment. It reaches the program, so it holds nothing of ours."""
    grace: float = 0.0
    """Seconds that the command needs after a SIGTERM to end everything; 0 if a SIGKILL to its group does."""


class Sandbox(Protocol):
    """Something that confines programs."""

    @property
    def name(self) -> str: ...

    def launch(self, argv: Sequence[str], tree: Path, limits: ProgramLimits) -> Launch:
        """How to run `argv` in the folder `tree`, which belongs to this one program. Called in a thread.

        `argv[0]` is `python` or one of the allowed commands, for the sandbox to find on its side.
        The command ends with the program, gives its exit code (128 + n for signal n), leaves nothing running
        behind it, and ends when the thread that started it does. What the program wrote is in `tree` then.
        """
        ...


class Bubblewrap:
    """Linux namespaces, set up by `bwrap`: the tree at /work, the system read only, nothing else there."""

    name = "bubblewrap"

    def __init__(self) -> None:
        self._tools = {tool: shutil.which(tool) for tool in ("bwrap", "prlimit", "setpriv")}

    def problem(self) -> str | None:
        """Why it cannot be used here, or None."""
        missing = [tool for tool, path in self._tools.items() if path is None]
        return f"no {' and '.join(missing)}" if missing else _trial(self)

    def launch(self, argv: Sequence[str], tree: Path, limits: ProgramLimits) -> Launch:
        bwrap, prlimit, setpriv = (path or tool for tool, path in self._tools.items())
        as_root = os.geteuid() == 0
        command = [bwrap, "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
        command += ["--unshare-cgroup-try", "--hostname", "sandbox"]
        command += [] if limits.network else ["--unshare-net"]
        if as_root:
            command += ["--cap-drop", "ALL", *(["--seccomp", _FILTER_FD] if filter_file() else [])]
            for capability in ("SETUID", "SETGID", "SETPCAP", "DAC_READ_SEARCH"):
                command += ["--cap-add", f"CAP_{capability}"]
        else:
            command += ["--unshare-user", "--disable-userns"]
        scratch = ["--size", str(_SCRATCH_BYTES), "--perms", "1777", "--tmpfs"]
        command += [*_system_mounts(), "--proc", "/proc", *scratch, "/tmp"]
        command += ["--dev", "/dev", *scratch, "/dev/shm", "--remount-ro", "/dev"]
        readable = [*_SYSTEM_FILES, *(_NETWORK_FILES if limits.network else ()), *_python_folders(limits)]
        for folder in _parents(readable):
            # Made by the bind mount itself, they would be open to their owner only.
            command += ["--perms", "0755", "--dir", folder]
        for path in readable:
            command += ["--ro-bind-try", path, path]
        command += ["--bind", str(tree), "/work", "--remount-ro", "/", "--chdir", "/work"]
        command += ["--", prlimit, *(f"--{kind}={most}" for kind, most in _prlimits(limits).items())]
        if as_root:
            # The kernel counts no processes of root's, so a fork bomb is only bounded as someone else; as
            # someone that no other program is, or they would share one count.
            uid = _TRANSIENT_IDS[next(_next_id) % len(_TRANSIENT_IDS)]
            _give(tree, uid)
            user = str(uid)
            command += [setpriv, "--reuid", user, "--regid", user, "--clear-groups", "--no-new-privs"]
            command += ["--inh-caps=-all", "--bounding-set=-all", "--"]
            command = [*_opening_filter(), *command]
        return Launch([*command, *_here(argv)], _environment(limits, home="/tmp"))


class Sandlock:
    """Landlock and seccomp, by the `sandlock` package: the tree where it is, the system read only."""

    name = "sandlock"

    def problem(self) -> str | None:
        """Why it cannot be used here, or None."""
        return "not installed" if importlib.util.find_spec("sandlock") is None else _trial(self)

    def launch(self, argv: Sequence[str], tree: Path, limits: ProgramLimits) -> Launch:
        tree = tree.resolve()
        scratch = tree / ".tmp"
        scratch.mkdir(exist_ok=True)
        readable = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/proc", *_SYSTEM_FILES, *_DEVICES]
        readable += [*_python_folders(limits), *(_NETWORK_FILES if limits.network else ())]
        policy: dict[str, object] = {
            "fs_readable": [path for path in readable if Path(path).exists()],
            "fs_writable": [str(tree), "/dev/null"],
            "cwd": str(tree),
            "max_memory": limits.memory_mb * 2**20,
            "max_processes": limits.processes,
            "max_open_files": _OPEN_FILES,
            "no_coredump": True,
        }
        if limits.network:
            policy |= {"net_allow": ["tcp://*:*", "udp://*:*"], "net_allow_bind": ["*"]}
        return _warded(argv, _environment(limits, home=str(scratch)), _rlimits(limits), policy)


class Unconfined:
    """No sandbox: a program can do what the person who started megagraph can. Only when asked for."""

    name = "unconfined"

    def launch(self, argv: Sequence[str], tree: Path, limits: ProgramLimits) -> Launch:
        scratch = tree.resolve() / ".tmp"
        scratch.mkdir(exist_ok=True)
        limited = _rlimits(limits) | {"RLIMIT_AS": limits.memory_mb * 2**20}
        return _warded(argv, _environment(limits, home=str(scratch)), limited, None)


@functools.cache
def choose_sandbox(unsafe: bool = False) -> Sandbox:
    """The best sandbox that works on this machine; tried out once, which takes some 50 ms.

    With `unsafe`, programs run unconfined where there is none. Raises `SandboxUnavailable` otherwise.
    """
    problems = []
    for sandbox in (Bubblewrap(), Sandlock()):
        problem = sandbox.problem()
        if problem is None:
            return sandbox
        problems.append(f"{sandbox.name}: {problem}")
    if unsafe:
        return Unconfined()
    raise SandboxUnavailable(
        f"no sandbox works on this machine, so no program is run ({'; '.join(problems)}).",
        "Install one with `apt install bubblewrap` or `pip install 'megagraph[sandbox]'`, "
        "or let programs run without one: `--unsafe-programs`.",
    )


def _trial(sandbox: Sandbox) -> str | None:
    """Run Python once in the sandbox; what went wrong, or None."""
    with tempfile.TemporaryDirectory() as folder:
        launch = sandbox.launch(["python", "-c", "print('it works')"], Path(folder), ProgramLimits())
        try:
            done = subprocess.run(launch.argv, env=launch.env, cwd=folder, timeout=20, capture_output=True, text=True)
        except (OSError, subprocess.SubprocessError) as error:
            return str(error)
    if done.stdout == "it works\n":
        return None
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def _warded(
    argv: Sequence[str], env: dict[str, str], rlimits: dict[str, int], policy: dict[str, object] | None
) -> Launch:
    charge = warden.Charge(parent=os.getpid(), rlimits=rlimits, policy=policy)
    return Launch([sys.executable, "-I", warden.__file__, json.dumps(charge), *_here(argv)], env, grace=5.0)


def _here(argv: Sequence[str]) -> list[str]:
    return [PYTHON if argv[0] == "python" else argv[0], *argv[1:]]


def _environment(limits: ProgramLimits, home: str) -> dict[str, str]:
    found = {
        "PATH": f"{Path(PYTHON).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": home,
        "USER": "agent",
        "LOGNAME": "agent",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        # Each arena of the C library reserves address space, which is what the memory limit counts.
        "MALLOC_ARENA_MAX": "2",
    }
    if limits.packages:
        found["PYTHONPATH"] = os.pathsep.join(str(path.resolve()) for path in limits.packages)
    return found


def _python_folders(limits: ProgramLimits) -> list[str]:
    folders = [Path(sys.base_prefix), Path(sys.base_exec_prefix), *limits.packages]
    return list(dict.fromkeys(str(f.resolve()) for f in folders if not f.resolve().is_relative_to("/usr")))


def _parents(folders: Sequence[str]) -> list[str]:
    """The folders above these, the outermost first."""
    above = (str(parent) for folder in folders for parent in reversed(Path(folder).parents[:-1]))
    return list(dict.fromkeys(above))


def _system_mounts() -> list[str]:
    command = ["--ro-bind", "/usr", "/usr"]
    for path in map(Path, ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")):
        if path.is_symlink():
            command += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            command += ["--ro-bind", str(path), str(path)]
    return command


def _rlimits(limits: ProgramLimits) -> dict[str, int]:
    return {
        "RLIMIT_CPU": limits.cpu_seconds,
        "RLIMIT_FSIZE": limits.file_mb * 2**20,
        "RLIMIT_NOFILE": _OPEN_FILES,
        "RLIMIT_CORE": 0,
    }


def _opening_filter() -> list[str]:
    """What has the command behind it find the filter open."""
    path = filter_file()
    return ["sh", "-c", f'exec {_FILTER_FD}< "$0" "$@"', path] if path else []


def _prlimits(limits: ProgramLimits) -> dict[str, int]:
    named = {kind.removeprefix("RLIMIT_").lower(): most for kind, most in _rlimits(limits).items()}
    return named | {"as": limits.memory_mb * 2**20, "nproc": limits.processes}


def _give(tree: Path, user: int) -> None:
    """Make `user` the owner of the tree, links themselves and not what they point to."""
    os.chown(tree, user, user)
    for folder, folders, files, handle in os.fwalk(tree):
        del folder
        for name in (*folders, *files):
            os.chown(name, user, user, dir_fd=handle, follow_symlinks=False)
