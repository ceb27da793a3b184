"""Programs that behave are run; programs that do not are stopped, and say so, and leave nothing behind."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

import megagraph.programs.sandbox as sandbox_module
from megagraph.errors import SandboxUnavailable, ToolError
from megagraph.programs.changes import changes_since, snapshot
from megagraph.programs.process import Clip, Outcome, program_argv, run_program
from megagraph.programs.sandbox import Launch, ProgramLimits, Sandbox, Unconfined, choose_sandbox
from tests.sandboxes import ALL, CONFINED, marked, new_mark, wait_for_file, wait_until_none

confined = pytest.mark.parametrize("sandbox", CONFINED, ids=lambda sandbox: sandbox.name)
everywhere = pytest.mark.parametrize("sandbox", ALL, ids=lambda sandbox: sandbox.name)
SMALL = ProgramLimits(wall_seconds=120, memory_mb=256)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    return folder


def run(
    sandbox: Sandbox,
    tree: Path,
    code: str,
    args: Sequence[str] = (),
    stdin: bytes = b"",
    limits: ProgramLimits = SMALL,
) -> Outcome:
    """Run `code` as `main.py`; check that nothing of it is left."""
    (tree / "main.py").write_text(textwrap.dedent(code))
    mark = new_mark()
    outcome = asyncio.run(run_program(sandbox, ["python", "main.py", *args, mark], tree, stdin, limits))
    assert marked(mark) == []
    return outcome


def started_in(sandbox: Sandbox, tree: Path) -> float:
    """Seconds in which a program is sure to have begun, as busy as the machine is now."""
    return 5 * run(sandbox, tree, "").seconds


# What a program can do


@everywhere
def test_a_program_reads_and_writes(sandbox: Sandbox, tree: Path) -> None:
    (tree / "lib").mkdir()
    (tree / "lib" / "helper.py").write_text("GREETING = 'héllo'\n")
    (tree / "old.txt").write_text("old")
    (tree / "same.txt").write_text("same")
    outcome = run(
        sandbox,
        tree,
        """
        import sys, pathlib
        from lib.helper import GREETING
        print(GREETING, sys.argv[1], sys.stdin.read())
        print("careful", file=sys.stderr)
        pathlib.Path("old.txt").unlink()
        pathlib.Path("out/deep").mkdir(parents=True)
        pathlib.Path("out/deep/new.bin").write_bytes(bytes(range(256)))
        sys.exit(3)
        """,
        args=["an argument"],
        stdin="größer".encode(),
    )
    assert outcome.exit_code == 3
    assert outcome.ended == "exited"
    assert outcome.stdout == "héllo an argument größer\n"
    assert outcome.stderr == "careful\n"
    assert outcome.changes == {"old.txt": None, "out/deep/new.bin": bytes(range(256))}
    assert outcome.text() == (
        "exit code 3\nstdout:\nhéllo an argument größer\nstderr:\ncareful\n"
        "files written: old.txt (deleted), out/deep/new.bin (256 bytes)"
    )


@everywhere
def test_it_runs_on_our_interpreter_without_the_virtual_environment(sandbox: Sandbox, tree: Path) -> None:
    outcome = run(sandbox, tree, "import json, sys; print(sys.version, sys.prefix, json.__file__)")
    library = Path(json.__file__)
    assert outcome.stdout == f"{sys.version} {sys.base_prefix} {library}\n"


@everywhere
def test_a_changed_file_is_seen_though_its_times_were_set_back(sandbox: Sandbox, tree: Path) -> None:
    (tree / "a.txt").write_text("one")
    outcome = run(
        sandbox,
        tree,
        """
        import os
        was = os.stat("a.txt")
        with open("a.txt", "r+") as file:
            file.write("two")
        os.utime("a.txt", ns=(was.st_atime_ns, was.st_mtime_ns))
        """,
    )
    assert outcome.changes == {"a.txt": b"two"}


@everywhere
def test_input_that_is_not_read_and_output_that_is_not_utf8(sandbox: Sandbox, tree: Path) -> None:
    code = "import sys; sys.stdout.buffer.write(b'caf\\xe9 \\xff\\xfe ok')"
    outcome = run(sandbox, tree, code, stdin=b"x" * 1_000_000)
    assert (outcome.exit_code, outcome.stdout) == (0, "caf� �� ok")


@everywhere
def test_the_exit_code_names_the_signal(sandbox: Sandbox, tree: Path) -> None:
    outcome = run(sandbox, tree, "import os; os.abort()")
    assert outcome.exit_code == 128 + signal.SIGABRT
    assert outcome.text().startswith("exit code 134 (SIGABRT)")


@everywhere
def test_many_at_a_time(sandbox: Sandbox, tmp_path: Path) -> None:
    async def main() -> list[Outcome]:
        trees = [tmp_path / str(n) for n in range(8)]
        for folder in trees:
            folder.mkdir()
        code = "import sys; print(sys.argv[1])"
        return await asyncio.gather(
            *(run_program(sandbox, ["python", "-c", code, folder.name], folder) for folder in trees)
        )

    assert [outcome.stdout for outcome in asyncio.run(main())] == [f"{n}\n" for n in range(8)]


@confined
def test_the_network_is_there_when_allowed(sandbox: Sandbox, tree: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2); print('connected')"
        refused = run(sandbox, tree, code)
        assert refused.exit_code == 1
        assert "Error" in refused.stderr
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.accept()
        allowed = run(sandbox, tree, code, limits=SMALL.model_copy(update={"network": True}))
        assert allowed.stdout == "connected\n", allowed.text()


@confined
def test_packages_are_there_when_configured(sandbox: Sandbox, tree: Path, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "extra_thing.py").write_text("VALUE = 42\n")
    code = "import extra_thing; print(extra_thing.VALUE)"
    assert "ModuleNotFoundError" in run(sandbox, tree, code).stderr
    configured = SMALL.model_copy(update={"packages": (packages,)})
    assert run(sandbox, tree, code, limits=configured).stdout == "42\n"


# What it cannot do


@confined
@pytest.mark.parametrize("path", ["/etc/shadow", "/etc/passwd", "/root/.bashrc", "~/.ssh", "SECRET"])
def test_nothing_outside_is_read(sandbox: Sandbox, tree: Path, path: str) -> None:
    secret = tree.parent / "secret.txt"
    secret.write_text("the-secret")
    path = str(secret) if path == "SECRET" else path
    outcome = run(
        sandbox,
        tree,
        f"""
        import os
        path = os.path.expanduser({path!r})
        print(os.listdir(path) if os.path.isdir(path) else open(path).read())
        """,
    )
    assert outcome.exit_code == 1
    assert outcome.stdout == ""
    assert "Error" in outcome.stderr


@confined
@pytest.mark.parametrize("path", ["../escape.txt", "/tmp/../escape.txt", "PARENT/escape.txt", "/usr/escape.txt"])
def test_nothing_outside_is_written(sandbox: Sandbox, tree: Path, path: str) -> None:
    path = path.replace("PARENT", str(tree.parent))
    outcome = run(sandbox, tree, f"open({path!r}, 'w').write('x')")
    assert outcome.exit_code == 1
    assert outcome.changes == {}
    assert not (tree.parent / "escape.txt").exists()
    assert not Path("/escape.txt").exists()
    assert not Path("/usr/escape.txt").exists()


@confined
def test_no_key_is_found(sandbox: Sandbox, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    outcome = run(
        sandbox,
        tree,
        """
        import os, glob
        print(dict(os.environ))
        for path in glob.glob("/proc/*/environ") + glob.glob("/proc/*/cmdline"):
            try:
                print(path, open(path, "rb").read())
            except OSError as error:
                print(path, error)
        """,
    )
    assert outcome.exit_code == 0
    assert "PATH" in outcome.stdout
    assert "sk-very-secret" not in outcome.stdout


@confined
def test_no_socket_outside_is_reached(sandbox: Sandbox, tree: Path) -> None:
    path = tree.parent / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        server.settimeout(0.05)
        path.chmod(0o777)
        code = f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r}); print('connected')"
        assert run(sandbox, tree, code).exit_code == 1
        with pytest.raises(TimeoutError):
            server.accept()


@confined
def test_no_process_outside_is_signalled(sandbox: Sandbox, tree: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as victim:
        outcome = run(sandbox, tree, f"import os; os.kill({victim.pid}, 9)")
        assert outcome.exit_code == 1
        assert victim.poll() is None
        victim.kill()


@confined
def test_a_fork_bomb_is_bounded(sandbox: Sandbox, tree: Path) -> None:
    outcome = run(
        sandbox,
        tree,
        """
        import os, time
        started = 0
        try:
            while True:
                if os.fork() == 0:
                    time.sleep(60)
                    os._exit(0)
                started += 1
        except OSError as error:
            print(started, error)
        """,
        limits=ProgramLimits(wall_seconds=120, processes=32),
    )
    assert 0 < int(outcome.stdout.split()[0]) <= 32
    assert "temporarily unavailable" in outcome.stdout


@confined
def test_a_fork_bomb_that_goes_on_is_stopped(sandbox: Sandbox, tree: Path) -> None:
    code = """
        import os
        while True:
            try:
                os.fork()
            except OSError:
                pass
        """
    outcome = run(sandbox, tree, code, limits=ProgramLimits(wall_seconds=1, processes=16))
    assert outcome.exit_code is None
    assert outcome.ended == "timed out"
    assert run(sandbox, tree, "print('next')").stdout == "next\n"


@confined
def test_the_memory_of_one_process_is_bounded(sandbox: Sandbox, tree: Path) -> None:
    outcome = run(sandbox, tree, "kept = [bytearray(16 << 20) for _ in range(64)]; print('got it')")
    assert "got it" not in outcome.stdout
    assert outcome.ended == "killed" or "MemoryError" in outcome.stderr


@confined
def test_the_memory_of_all_processes_is_bounded(sandbox: Sandbox, tree: Path) -> None:
    outcome = run(
        sandbox,
        tree,
        """
        import os, select, time
        reading, writing = os.pipe()
        for n in range(8):
            if os.fork() == 0:
                try:
                    kept = b"x" * (64 << 20)
                    print("kept")
                except MemoryError:
                    print("refused")
                os.write(writing, b".")
                time.sleep(60)
        # One that was killed says nothing.
        while select.select([reading], [], [], 5)[0]:
            os.read(reading, 1)
        """,
        limits=ProgramLimits(wall_seconds=120, memory_mb=256),
    )
    assert outcome.ended in ("memory", "killed") or outcome.stdout.count("kept") <= 4
    assert outcome.ended != "timed out"


@everywhere
def test_endless_output_is_cut_and_stopped(sandbox: Sandbox, tree: Path) -> None:
    limits = ProgramLimits(wall_seconds=120, output_kb=4)
    outcome = run(sandbox, tree, "while True: print('spam ' * 200)", limits=limits)
    assert outcome.ended == "output"
    assert len(outcome.stdout) < 5000
    assert "bytes cut" in outcome.stdout
    assert outcome.text().startswith("stopped after")


@everywhere
@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(600)"])
def test_one_that_does_not_end_is_stopped(sandbox: Sandbox, tree: Path, code: str) -> None:
    limits = ProgramLimits(wall_seconds=1.5 + started_in(sandbox, tree))
    outcome = run(sandbox, tree, f"print('begun')\n{code}", limits=limits)
    assert (outcome.ended, outcome.exit_code, outcome.stdout) == ("timed out", None, "begun\n")
    assert outcome.text().startswith("timed out: still running after")


@confined
def test_no_user_namespace_can_be_made(sandbox: Sandbox, tree: Path) -> None:
    """In one of its own a program has root's powers over much of the kernel."""
    code = """
        import ctypes, os, platform, signal, struct
        libc = ctypes.CDLL(None, use_errno=True)
        user, mount = 0x10000000, 0x20000
        clone = {"x86_64": 56, "aarch64": 220}[platform.machine()]
        as_clone3 = ctypes.create_string_buffer(struct.pack("=8Q", user, 0, 0, 0, signal.SIGCHLD, 0, 0, 0))
        ways = {
            "unshare": lambda: libc.unshare(user),
            "unshare with others": lambda: libc.unshare(user | mount),
            "clone": lambda: libc.syscall(clone, user | signal.SIGCHLD, 0, 0, 0, 0),
            "clone3": lambda: libc.syscall(435, as_clone3, 64),
        }
        for name, way in ways.items():
            if way() >= 0:
                print(name, os.readlink("/proc/self/ns/user"))
        print("tried")
        """
    outcome = run(sandbox, tree, code)
    assert outcome.stdout == "tried\n", outcome.text()


@everywhere
def test_processor_time_is_bounded(sandbox: Sandbox, tree: Path) -> None:
    outcome = run(sandbox, tree, "while True: pass", limits=ProgramLimits(wall_seconds=120, cpu_seconds=1))
    assert outcome.ended in ("cpu", "killed")


@everywhere
@pytest.mark.parametrize(
    ("opened", "ended"),
    [
        ("open('big', 'wb'); os.unlink('big')", "tree"),
        ("(os.makedirs(f'{n}/' * 40), open(f'{n}/' * 40 + 'big', 'wb'))[1]", "tree"),
        ("os.fdopen(os.memfd_create('big'), 'wb')", "memory"),
    ],
    ids=["deleted but open", "deeper than is counted", "memory of no process"],
)
def test_what_is_kept_out_of_sight_is_bounded(sandbox: Sandbox, tree: Path, opened: str, ended: str) -> None:
    outcome = run(
        sandbox,
        tree,
        f"""
        import os, time
        kept = []
        for n in range(9):
            f = {opened}
            f.write(bytes(16 << 20))
            kept.append(f)
        time.sleep(60)
        """,
        limits=ProgramLimits(wall_seconds=120, memory_mb=128, tree_mb=64),
    )
    assert outcome.ended == ended


@everywhere
def test_the_size_of_files_is_bounded(sandbox: Sandbox, tree: Path) -> None:
    one = run(
        sandbox,
        tree,
        "open('big', 'wb').write(bytes(2 << 20))",
        limits=ProgramLimits(wall_seconds=120, file_mb=1),
    )
    assert "File too large" in one.stderr
    many = run(
        sandbox,
        tree,
        """
        import itertools
        for n in itertools.count():
            # The second one is too much, and has its length before it has its blocks, however soon all is stopped.
            with open(f"{n}.bin", "wb") as file:
                file.truncate((5 << 20) if n < 12 else 0)
                file.write(bytes(5 << 20) if n < 12 else b"")
        """,
        limits=ProgramLimits(wall_seconds=120, tree_mb=8),
    )
    assert many.ended == "tree"
    assert sum(len(content or b"") for content in many.changes.values()) <= 8 << 20
    assert "not taken over" in many.text()


def test_files_that_are_too_much_together_are_left_out_and_named(tree: Path) -> None:
    before = snapshot(tree)
    for name in "abc":
        (tree / name).write_bytes(bytes(3 << 20))
    changes = changes_since(before, tree, 8 << 20, 100)
    assert sorted(changes.files) == ["a", "b"]
    assert changes.notes == ("not taken over: c (too much: 3145728 bytes)",)


@everywhere
def test_a_daemon_does_not_outlive_its_program(sandbox: Sandbox, tree: Path) -> None:
    outcome = run(
        sandbox,
        tree,
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for fd in range(256):
                    try: os.close(fd)
                    except OSError: pass
                open("daemon", "w").write("here")
                time.sleep(600)
            os._exit(0)
        while not os.path.exists("daemon"):
            time.sleep(0.01)
        print("detached")
        """,
    )
    assert (outcome.exit_code, outcome.stdout) == (0, "detached\n")


@everywhere
def test_a_program_that_ignores_signals_is_stopped(sandbox: Sandbox, tree: Path) -> None:
    code = """
        import signal, time
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
        print("ready")
        while True: time.sleep(1)
        """
    seconds = 1 + started_in(sandbox, tree)
    outcome = run(sandbox, tree, code, limits=ProgramLimits(wall_seconds=seconds))
    assert (outcome.ended, outcome.stdout) == ("timed out", "ready\n")
    assert outcome.seconds < seconds * 2 + 6


@everywhere
def test_only_regular_files_are_taken_over(sandbox: Sandbox, tree: Path) -> None:
    (tree / "was_file.txt").write_text("x")
    outcome = run(
        sandbox,
        tree,
        """
        import os
        os.symlink("/etc/passwd", "link.txt")
        os.symlink("/etc", "folder")
        os.unlink("was_file.txt"); os.symlink("/etc/passwd", "was_file.txt")
        os.mkfifo("fifo")
        os.makedirs("__pycache__"); open("__pycache__/x.pyc", "w").write("x")
        os.makedirs(".git"); open(".git/config", "w").write("x")
        open(b"bad\\xff.txt", "w").write("x")
        os.mkdir("locked"); open("locked/a.txt", "w").write("in"); os.chmod("locked/a.txt", 0)
        os.chmod("locked", 0)
        open("good.txt", "w").write("x")
        """,
    )
    assert outcome.exit_code == 0, outcome.text()
    assert outcome.changes == {"good.txt": b"x", "locked/a.txt": b"in", "was_file.txt": None}
    note = "\n".join(outcome.notes)
    assert "link.txt (a symbolic link)" in note
    assert "fifo (a FIFO)" in note
    assert "(its name is not UTF-8)" in note


@everywhere
def test_folders_within_folders_without_end(sandbox: Sandbox, tree: Path) -> None:
    outcome = run(
        sandbox,
        tree,
        """
        import os
        for n in range(1100):
            os.mkdir("d" * 100); os.chdir("d" * 100)
        open("bottom", "w").write("x")
        """,
    )
    assert outcome.changes == {}
    assert "(too deep)" in outcome.text()
    shutil.rmtree(tree)


# However it ends, everything ends


@everywhere
def test_cancelling_kills_it(sandbox: Sandbox, tree: Path) -> None:
    (tree / "main.py").write_text(LINGER)
    mark = new_mark()

    async def main() -> None:
        task = asyncio.create_task(run_program(sandbox, ["python", "main.py", mark], tree))
        await asyncio.to_thread(wait_for_file, tree / "started")
        assert marked(mark)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert marked(mark) == []

    asyncio.run(main())


@everywhere
def test_cancelling_at_any_moment_leaves_nothing(sandbox: Sandbox, tree: Path) -> None:
    (tree / "main.py").write_text(LINGER)
    mark = new_mark()

    async def main() -> None:
        for n in range(20):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(run_program(sandbox, ["python", "main.py", mark], tree), n * 0.002)
            assert marked(mark) == []

    asyncio.run(main())


@everywhere
def test_a_killed_megagraph_leaves_no_orphan(sandbox: Sandbox, tree: Path) -> None:
    (tree / "main.py").write_text(LINGER)
    mark = new_mark()
    script = f"""
import asyncio, pathlib
from megagraph.programs import process, sandbox
box = sandbox.{type(sandbox).__name__}()
asyncio.run(process.run_program(box, ["python", "main.py", {mark!r}], pathlib.Path({str(tree)!r})))
"""
    root = Path(__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", script], cwd=root) as process:
        wait_for_file(tree / "started")
        assert marked(mark)
        process.kill()
    wait_until_none(mark)


LINGER = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True: time.sleep(1)
    os._exit(0)
open("started", "w").close()
while True: time.sleep(1)
"""


# The choice


def test_the_choice() -> None:
    assert choose_sandbox().name in ("bubblewrap", "sandlock")
    assert choose_sandbox(unsafe=True) is not None


def test_without_a_sandbox_no_program_is_run_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sandbox_module.importlib.util, "find_spec", lambda name: None)
    choose_sandbox.cache_clear()
    try:
        with pytest.raises(SandboxUnavailable) as refused:
            choose_sandbox()
        assert "apt install bubblewrap" in refused.value.hint
        assert "--unsafe-programs" in refused.value.hint
        assert isinstance(choose_sandbox(unsafe=True), Unconfined)
    finally:
        choose_sandbox.cache_clear()


def test_what_may_be_run(tree: Path) -> None:
    limits = ProgramLimits(commands=("python", "node"))
    (tree / "src").mkdir()
    (tree / "src" / "a.py").write_text("")
    (tree / "-c.py").write_text("")
    (tree / "away.py").symlink_to("/usr/bin/env")
    assert program_argv("src/a.py", ["x"], tree, limits) == ["python", "src/a.py", "x"]
    assert program_argv("./src/a.py", [], tree, limits) == ["python", "src/a.py"]
    assert program_argv("-c.py", [], tree, limits) == ["python", "./-c.py"]
    assert program_argv("python3", ["-m", "unittest"], tree, limits) == ["python", "-m", "unittest"]
    assert program_argv("node", ["a.js"], tree, limits) == ["node", "a.js"]
    for path in ("gcc", "../x.py", "/etc/x.py", "away.py", "none.py", "src", "a\0.py", ""):
        with pytest.raises(ToolError):
            program_argv(path, [], tree, limits)


@everywhere
def test_a_command_that_is_not_there_says_so(sandbox: Sandbox, tree: Path) -> None:
    outcome = asyncio.run(run_program(sandbox, ["no-such-command"], tree))
    assert outcome.exit_code not in (0, None)
    assert "no-such-command" in outcome.stderr


def test_clip_keeps_head_and_tail() -> None:
    clip = Clip(10)
    for n in range(100):
        clip.add(f"{n % 10}".encode())
    assert clip.text() == "01234\n[… 90 bytes cut …]\n56789"
    whole = Clip(10)
    whole.add(b"0123456789")
    assert whole.text() == "0123456789"


class Elsewhere:
    """A sandbox on another machine, as far as megagraph can tell: the tree goes there and comes back."""

    name = "elsewhere"

    def __init__(self, other_machine: Path, inner: Sandbox) -> None:
        self.other_machine = other_machine
        self.inner = inner

    def launch(self, argv: Sequence[str], tree: Path, limits: ProgramLimits) -> Launch:
        there = self.other_machine / tree.name
        shutil.copytree(tree, there)
        inner = self.inner.launch(argv, there, limits)
        client = """
import json, shutil, subprocess, sys
argv, there = json.loads(sys.argv[1])
code = subprocess.call(argv, cwd=there)
shutil.copytree(there, ".", dirs_exist_ok=True, symlinks=True)
shutil.rmtree(there)
sys.exit(code)
"""
        work = json.dumps([inner.argv, str(there)])
        return Launch([sys.executable, "-I", "-c", client, work], inner.env, grace=0.5)


@everywhere
def test_another_sandbox_in_its_place(sandbox: Sandbox, tree: Path, tmp_path: Path) -> None:
    other_machine = tmp_path / "other"
    other_machine.mkdir()
    sandbox = Elsewhere(other_machine, sandbox)
    outcome = run(sandbox, tree, "open('a.txt', 'w').write('x'); print(input())", stdin=b"over there\n")
    assert (outcome.exit_code, outcome.stdout) == (0, "over there\n")
    assert outcome.changes["a.txt"] == b"x"
    assert list(other_machine.iterdir()) == []
