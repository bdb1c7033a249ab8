"""gzip is unpacked no further than allowed."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest

from rag.ingest.inflate import Inflater, TooLargeError, gunzip


@pytest.mark.security
def test_a_bomb_stops_at_the_limit_without_filling_memory() -> None:
    bomb = gzip.compress(b"\0" * 100_000_000)
    tracemalloc.start()
    with pytest.raises(TooLargeError):
        gunzip(bomb, 1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_a_body_of_exactly_the_limit_comes_through() -> None:
    body = bytes(range(256)) * 40
    assert gunzip(gzip.compress(body), len(body)) == body
    with pytest.raises(TooLargeError):
        gunzip(gzip.compress(body), len(body) - 1)


def test_pieces_members_and_zeros_at_the_end_are_read_as_one_body() -> None:
    packed = gzip.compress(b"one ") + gzip.compress(b"two") + b"\0\0\0"
    inflater = Inflater(100)
    assert b"".join(inflater.add(bytes([byte])) for byte in packed) == b"one two"


def test_what_is_not_packed_stays_and_damage_is_an_error() -> None:
    assert gunzip(b"<rss/>", 3) == b"<rss/>"
    with pytest.raises(zlib.error):
        gunzip(b"\x1f\x8b" + b"\xff" * 40, 100)
