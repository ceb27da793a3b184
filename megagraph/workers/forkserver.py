"""Workers that need not start from nothing: forked from a process that has imported all that they are made of.

That process forks whenever it is sent the ends of two sockets: one that the new worker talks on, and one that is told
the worker's process number and, in the end, what became of it. It has one thread, so that a fork of it is sound, and
ends with the process that has started it.

A process that has one thread itself, as a program has at its beginning, forks it off, and what it has imported by then
is there. From any other, such as a notebook's, a fork might wait for ever for a lock that a thread held which is not
there any more: it starts `python -m megagraph.workers.forkserver FD`, which has to import everything anew, in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from megagraph.garbage import uncollected
from megagraph.portal import running

_NUMBER = struct.Struct("!i")
_WORDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Forked:
    """A worker, for the process that wants it."""

    def __init__(self, server: ForkServer, status: socket.socket) -> None:
        self._server = server
        self._pid = 0
        """0 before it is there, and when it is known to be gone."""
        self._over = asyncio.ensure_future(self._follow(status))

    async def wait(self) -> str:
        """How it ended, once that can be told: `exit code 1`, `signal 9`.

        Where it cannot, since the fork server is gone, the worker may go on: until the end of its own line.
        """
        return await asyncio.shield(self._over)

    def kill(self) -> None:
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        elif not self._over.done():
            self._server.kill()

    async def _follow(self, status: socket.socket) -> str:
        reader, writer = await asyncio.open_connection(sock=status)
        try:
            [self._pid] = _NUMBER.unpack(await reader.readexactly(_NUMBER.size))
            code = os.waitstatus_to_exitcode(*_NUMBER.unpack(await reader.readexactly(_NUMBER.size)))
        except (asyncio.IncompleteReadError, ConnectionError):
            return "what it was forked from is gone"
        finally:
            writer.close()
        self._pid = 0
        return f"signal {-code}" if code < 0 else f"exit code {code}"


class ForkServer:
    """The process to fork from. It is started at once, and imports while its starter goes on; end it with `close`."""

    def __init__(self) -> None:
        self._pid = 0
        self._spawned: subprocess.Popen[bytes] | None = None
        """The same process, where it was not forked."""
        self._line: socket.socket | None = None
        self._start()

    def fork(self, end: socket.socket) -> Forked:
        """A new worker, which talks on the socket `end` as soon as it is there. One that cannot be had has ended."""
        if self._has_ended():
            self.close()
            self._start()
        assert self._line is not None
        ours, theirs = socket.socketpair()
        with theirs, contextlib.suppress(OSError):
            socket.send_fds(self._line, [b"fork"], [end.fileno(), theirs.fileno()])
        return Forked(self, ours)

    def kill(self) -> None:
        if not self._has_ended():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def close(self) -> None:
        """End it, after its workers."""
        if self._line is not None:
            self._line.close()
        # It may still be importing, and holds nothing that would have to be brought to an end.
        self.kill()
        self._has_ended(wait=True)
        self._line = None

    def _start(self) -> None:
        self._line, theirs = socket.socketpair()
        with theirs:
            if _may_fork():
                self._pid = _forked(theirs)
            else:
                self._spawned = subprocess.Popen(
                    [sys.executable, "-m", "megagraph.workers.forkserver", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    # A Ctrl-C is for the first process, which then stops the workers in order.
                    start_new_session=True,
                )
                self._pid = self._spawned.pid

    def _has_ended(self, *, wait: bool = False) -> bool:
        if self._spawned is not None:
            if (self._spawned.wait() if wait else self._spawned.poll()) is None:
                return False
        elif self._pid:
            # Somebody else may have waited for it: for all children of this process.
            with contextlib.suppress(ChildProcessError):
                if not os.waitpid(self._pid, 0 if wait else os.WNOHANG)[0]:
                    return False
        self._pid, self._spawned = 0, None
        return True


def _may_fork() -> bool:
    """Whether a fork of this process is sound.

    It has one thread. No SQLite file with a write-ahead log is open: the library would take what it knows of its locks
    for true in the child as well. And there is no event loop but the one that runs, which its caller holds on to: one
    that is closed in the child would close its ears here too.
    """
    try:
        threads = sum(1 for _ in Path("/proc/self/task").iterdir())
        files = [_target(file) for file in Path("/proc/self/fd").iterdir()]
    except OSError:
        return False
    loops = sum(file == "anon_inode:[eventpoll]" for file in files)
    databases = any(file.endswith(("-wal", "-shm", "megagraph.db")) for file in files)
    return threads == 1 and not databases and loops <= (running() is not None)


def _target(link: Path) -> str:
    with contextlib.suppress(OSError):
        return str(link.readlink())
    return ""


def _forked(line: socket.socket) -> int:
    """The number of a process that goes on as the fork server."""
    for stream in (sys.stdout, sys.stderr):
        # They may be closed, or not be there.
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.flush()
    # A Ctrl-C in the child must not be answered by what this program would do.
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, _WORDS)
    try:
        pid = os.fork()
        if not pid:
            _begin_anew(line)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)


def _begin_anew(line: socket.socket) -> NoReturn:
    """Go on as the fork server in a process that was something else a moment ago."""
    try:
        # What was there is another process's, and stays there: to be closed would be to close what has its number next.
        gc.freeze()
        os.setsid()
        signal.set_wakeup_fd(-1)
        for word in _WORDS:
            signal.signal(word, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        nothing = os.open(os.devnull, os.O_RDWR)
        for file in Path("/proc/self/fd").iterdir():
            if (number := int(file.name)) not in (1, 2, line.fileno(), nothing):
                with contextlib.suppress(OSError):
                    os.dup2(nothing, number, inheritable=number == 0)
        serve(line)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def serve(line: socket.socket) -> None:
    """Import, and fork until the other end of the line is closed; in the workers, be one."""
    with uncollected():
        from megagraph.workers import worker

        worker.prepare()
    # What is there now is shared by all workers, as long as the collector does not touch it.
    gc.freeze()
    waking, woken = socket.socketpair()
    for end in (waking, woken):
        end.setblocking(False)
    signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    told: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        for end in (line, woken):
            selector.register(end, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select()]
            if woken in ready:
                with contextlib.suppress(BlockingIOError):
                    woken.recv(4096)
                _tell_who_ended(told)
            if line in ready:
                word, fds, _, _ = socket.recv_fds(line, 4, 2)
                if not word:
                    return
                talk, status = (socket.socket(fileno=fd) for fd in fds)
                for end in (talk, status):
                    end.set_inheritable(False)
                pid = os.fork()
                if not pid:
                    break
                talk.close()
                told[pid] = status
                _tell(status, pid)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for end in (line, waking, woken, status, *told.values()):
        end.close()
    worker.main(talk)


def _tell_who_ended(told: dict[int, socket.socket]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            with told.pop(pid) as listener:
                _tell(listener, status)


def _tell(listener: socket.socket, number: int) -> None:
    # Who has gone meanwhile wants to know nothing.
    with contextlib.suppress(OSError):
        listener.sendall(_NUMBER.pack(number))


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
