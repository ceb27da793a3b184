"""Small blobs made smaller: zlib, with the words that checkpoints are full of known beforehand.

A checkpoint is some hundred bytes of names that every other one has too. Without a dictionary there is next to
nothing to compress in it; with one, a third is left.
"""

from __future__ import annotations

import sqlite3
import zlib
from pathlib import Path

_PLAIN, _FIRST, _PACKED = b"\0", b"\1", b"\2"
"""The first byte says how the rest is packed. A dictionary is never changed: a better one gets a byte of its own."""

_SMALL = 60
"""Bytes that are not worth the work."""

_WORDS = {
    _FIRST: (Path(__file__).parent / "packing.words").read_bytes(),
    _PACKED: (Path(__file__).parent / "packing.words2").read_bytes(),
}
"""Names of fields, and some rows of a small organisation: of each kind one, the most frequent last."""

_READY = zlib.compressobj(6, zlib.DEFLATED, wbits=14, memLevel=6, zdict=_WORDS[_PACKED])
"""A compressor that has read the words, to be copied: that takes 3 µs, where reading them takes 90."""


def pack(data: bytes) -> bytes:
    """The blob as it is stored."""
    if len(data) < _SMALL:
        return _PLAIN + data
    compressor = _READY.copy()
    packed = compressor.compress(data) + compressor.flush()
    return _PACKED + packed if len(packed) < len(data) else _PLAIN + data


class Packed:
    """A blob to be packed when SQLite takes it: in the thread that writes, beside the event loop."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __conform__(self, protocol: type) -> bytes | None:
        return pack(self._data) if protocol is sqlite3.PrepareProtocol else None


def unpack(stored: bytes, most: int = 0) -> bytes:
    """What was packed. Raises `ValueError` where the blob is damaged, or larger than `most` bytes, if that is given."""
    match stored[:1]:
        case b"\0":
            return stored[1:]
        case (b"\1" | b"\2") as mark:
            decompressor = zlib.decompressobj(zdict=_WORDS[mark])
            try:
                data = decompressor.decompress(stored[1:], most)
            except zlib.error as error:
                raise ValueError(str(error)) from error
            if not decompressor.eof:
                raise ValueError("cut short, or too large")
            return data
        case other:
            raise ValueError(f"packed in an unknown way, {other!r}")
