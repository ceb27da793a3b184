"""What is packed comes back, is smaller, and damage to the dictionary is seen."""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megagraph import packing
from megagraph.packing import pack, unpack


@given(st.binary(max_size=3000))
def test_what_is_packed_comes_back(data: bytes) -> None:
    assert unpack(pack(data)) == data
    assert len(pack(data)) <= len(data) + 1


def test_a_checkpoint_is_packed_to_less_than_half() -> None:
    body = b'{"source": "loop", "step": 7, "channel_versions": {"messages": 12, "seen": 11}, "versions_seen": {}}' * 3
    assert len(pack(body)) < len(body) / 2
    assert unpack(pack(body)) == body


def test_what_cannot_be_compressed_is_kept_as_it_is() -> None:
    noise = os.urandom(500)
    assert len(pack(noise)) == 501
    assert unpack(pack(noise)) == noise


@pytest.mark.parametrize("damage", [b"", b"\1", b"\1garbage", b"\2garbage", b"\7x", pack(b"words " * 40)[:-1]])
def test_damage_is_a_value_error(damage: bytes) -> None:
    with pytest.raises(ValueError, match=r"unknown way|cut short|Error"):
        unpack(damage)


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("packing.words", "b4d6b9560d08a33930b6faf6dd69bfa96182e90864b8d67539c0f6b304adff3a"),
        ("packing.words2", "ce4ab72730efea8d2f28e8d6a9d675258067301fee71fd3f8bdc6271ef76275c"),
    ],
)
def test_the_dictionaries_are_those_that_homes_were_packed_with(name: str, digest: str) -> None:
    words = (Path(packing.__file__).parent / name).read_bytes()
    assert hashlib.sha256(words).hexdigest() == digest


def test_what_was_packed_with_the_first_dictionary_comes_back() -> None:
    words = (Path(packing.__file__).parent / "packing.words").read_bytes()
    data = b"what a checkpoint of an older home said " * 9
    compressor = zlib.compressobj(6, zlib.DEFLATED, wbits=14, memLevel=6, zdict=words)
    assert unpack(b"\1" + compressor.compress(data) + compressor.flush()) == data
