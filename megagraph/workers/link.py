"""Messages between two processes of one run: pickled, in order, those of one round of the event loop together."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import pickle
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

_SIZE = struct.Struct("!Q")
_CHUNK = 1 << 18

Hear = Callable[[str, tuple[Any, ...]], Any]
"""Takes in a message: its verb and its arguments. What it returns, or what that comes to when awaited, is the answer
to one who has asked."""


class LinkLost(Exception):
    """The other process is gone."""


class Link:
    """One end of the line. `listen` has to run for answers to come in.

    The other process is one that this one has started, or that has started this one: what it sends is trusted.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hear: Hear) -> None:
        self.lost = False
        self._reader = reader
        self._writer = writer
        self._hear = hear
        self._outgoing: list[bytes] = []
        self._last_words: list[Callable[[], None]] = []
        self._flushing = False
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._count = 0
        self._tasks: set[asyncio.Future[None]] = set()

    def tell(self, verb: str, *args: Any) -> None:
        """Say something, without an answer. Nothing is said to one who is gone."""
        self._send(verb, args)

    async def ask(self, verb: str, *args: Any) -> Any:
        """The answer to a question. Raises what the other end raises, and `LinkLost` where it is gone."""
        if self.lost:
            raise LinkLost
        self._count += 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[self._count] = future
        self._send(verb, args, self._count)
        return await future

    def at_last(self, say: Callable[[], None]) -> None:
        """Call this when all else of this round was said: what it says is taken in together with the rest."""
        self._last_words.append(say)
        self._flush_soon()

    async def listen(self) -> None:
        """Take in what comes, until the other end is gone."""
        try:
            async for verb, args, number in self._messages():
                self._take(verb, args, number)
        finally:
            self.lost = True
            for future in self._asked.values():
                if not future.done():
                    future.set_exception(LinkLost())
            for task in self._tasks:
                task.cancel()
            self._writer.close()

    async def drain(self) -> None:
        """Wait until what was said is on its way."""
        self._flush()
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    async def _messages(self) -> AsyncIterator[tuple[str, tuple[Any, ...], int]]:
        buffer = bytearray()
        with contextlib.suppress(ConnectionError):
            while data := await self._reader.read(_CHUNK):
                buffer += data
                at = 0
                while len(buffer) - at >= _SIZE.size:
                    end = at + _SIZE.size + _SIZE.unpack_from(buffer, at)[0]
                    if len(buffer) < end:
                        break
                    yield pickle.loads(buffer[at + _SIZE.size : end])
                    at = end
                del buffer[:at]

    def _send(self, verb: str, args: tuple[Any, ...], number: int = 0) -> None:
        # At once: what is said may change after it was said.
        data = pickle.dumps((verb, args, number), pickle.HIGHEST_PROTOCOL)
        self._outgoing += (_SIZE.pack(len(data)), data)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        words, self._last_words = self._last_words, []
        for say in words:
            say()
        if self._outgoing and not self._writer.is_closing():
            self._writer.write(b"".join(self._outgoing))
        self._outgoing = []

    def _take(self, verb: str, args: tuple[Any, ...], number: int) -> None:
        if verb == "answer":
            self._answered(*args)
            return
        try:
            answer = self._hear(verb, args)
        except Exception as error:
            if not number:
                raise
            self._reply(number, error, ok=False)
            return
        if inspect.isawaitable(answer):
            task = asyncio.ensure_future(self._wait_for(answer, number))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif number:
            self._reply(number, answer)

    async def _wait_for(self, answer: Any, number: int) -> None:
        try:
            value = await answer
        except asyncio.CancelledError:
            # Who has asked would wait for ever, where it is the work that was cancelled and not the line.
            if number and not self.lost:
                self._reply(number, LinkLost(), ok=False)
            raise
        except Exception as error:
            if not number:
                raise
            self._reply(number, error, ok=False)
        else:
            if number:
                self._reply(number, value)

    def _reply(self, number: int, value: Any, *, ok: bool = True) -> None:
        try:
            if not ok:
                # Errors of other libraries may not come out of it again, and would take the line with them.
                pickle.loads(pickle.dumps(value))
            self._send("answer", (number, ok, value))
        except Exception:
            self._send("answer", (number, False, RuntimeError(f"{type(value).__name__}: {value}")))

    def _answered(self, number: int, ok: bool, value: Any) -> None:
        future = self._asked.pop(number)
        if future.done():
            return
        if ok:
            future.set_result(value)
        else:
            future.set_exception(value)
