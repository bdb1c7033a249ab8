"""Near-duplicates by MinHash: texts that share most of their word triples have alike sketches.

One-permutation hashing (Li, Owen, Zhang 2012) in 64 bins, empty ones filled from others
(Shrivastava 2017); eight bands of eight for the look-up. Written here: the library for it costs a
second of start-up, most of it for scipy.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from functools import lru_cache
from operator import or_

from rag.ingest.words import words_of

BINS = 64
ROWS = 8  # of a band: texts 0.9 alike share a band in 99 of 100 cases, 0.5 alike in 3
BANDS = BINS // ROWS
ALIKE = 0.85
FEWEST_WORDS = 20
_EMPTY = 1 << 63
_PACKED = struct.Struct(f"<{BINS}I")
_BANDS = struct.Struct(f"{ROWS * 4}s" * BANDS)
_PLACES = [band << 32 for band in range(BANDS)]
# Triples are hashed as Python hashes three numbers: fast, without a seed, and the same wherever
# this number is. Sketches of another one cannot be compared.
FORMAT = f"2-{hash((1, 2, 3)) & 0xFFFFFFFF:08x}"


def sketch(text: str) -> str:
    """MinHash of the text's word triples, base64; "" for fewer than 20 words."""
    return sketch_of_words(words_of(text))


def sketch_of_words(words: Sequence[bytes]) -> str:
    """As `sketch`, from the words of a text, lower case."""
    if len(words) < FEWEST_WORDS:
        return ""
    each = list(map(zlib.crc32, words))
    minima = [_EMPTY] * BINS
    for value in map(hash, zip(each, each[1:], each[2:], strict=False)):
        place = value & 63
        if value < minima[place]:
            minima[place] = value
    if _EMPTY in minima:
        minima = _filled(minima)
    packed = _PACKED.pack(*[value >> 16 & 0xFFFFFFFF for value in minima])
    return base64.b64encode(packed).decode("ascii")


@lru_cache(maxsize=512)  # of a feed: looked up and then kept
def bands(sketched: str) -> tuple[int, ...]:
    """Keys for the look-up: alike texts probably share one. None for an empty sketch."""
    if not sketched:
        return ()
    keys = map(zlib.crc32, _BANDS.unpack(base64.b64decode(sketched)))
    return tuple(map(or_, _PLACES, keys))


def likeness(one: str, other: str) -> float:
    """Estimated share of common triples, 0 to 1."""
    if not one or not other:
        return 0.0
    pairs = zip(_values(one), _values(other), strict=True)
    return sum(first == second for first, second in pairs) / BINS


def _filled(minima: list[int]) -> list[int]:
    """Give each empty bin the value of another one: which, depends on its own place alone."""
    filled = list(minima)
    for place in [place for place, value in enumerate(minima) if value == _EMPTY]:
        look, value = place, _EMPTY
        while value == _EMPTY:  # an odd step comes by every bin
            look = (look + 2 * place + 1) % BINS
            value = minima[look]
        filled[place] = value
    return filled


def _values(sketched: str) -> tuple[int, ...]:
    return _PACKED.unpack(base64.b64decode(sketched))
