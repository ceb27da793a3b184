"""Workers that need not start from nothing: forked from a process that has imported all that they are made of.

`python -m megagraph.workers.forkserver FD` imports, which takes seconds of a core, and then forks whenever it is sent
the ends of two sockets: one that the new worker talks on, and one that is told the worker's process number and, in the
end, what became of it. It has one thread and nothing open, so that a fork of it is sound. It ends with the process
that has started it.
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

from megagraph.garbage import uncollected

_NUMBER = struct.Struct("!i")


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
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._start()

    def fork(self, end: socket.socket) -> Forked:
        """A new worker, which talks on the socket `end` as soon as it is there. One that cannot be had has ended."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._start()
        assert self._line is not None
        ours, theirs = socket.socketpair()
        with theirs, contextlib.suppress(OSError):
            socket.send_fds(self._line, [b"fork"], [end.fileno(), theirs.fileno()])
        return Forked(self, ours)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End it, after its workers."""
        if self._line is not None:
            self._line.close()
        if self._process is not None:
            # It may still be importing, and holds nothing that would have to be brought to an end.
            self._process.kill()
            self._process.wait()
        self._line = self._process = None

    def _start(self) -> None:
        self._line, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "megagraph.workers.forkserver", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # A Ctrl-C is for the first process, which then stops the workers in order.
                start_new_session=True,
            )


def main(number: int) -> None:
    """Import, and fork until the other end of the line is closed."""
    with uncollected():
        from megagraph.workers import worker

        worker.prepare()
    # What is there now is shared by all workers, as long as the collector does not touch it.
    gc.freeze()
    line = socket.socket(fileno=number)
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
    main(int(sys.argv[1]))
