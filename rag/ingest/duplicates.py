"""Near-duplicates by MinHash: texts that share most of their word triples have alike sketches.

One-permutation hashing (Li, Owen, Zhang 2012) in 64 bins, empty ones filled from others
(Shrivastava 2017); eight bands of eight for the look-up. Written here: the library for it costs a
second of start-up, most of it for scipy.
"""

from __future__ import annotations

import base64
import re
import struct
import zlib

BINS = 64
ROWS = 8  # of a band: texts 0.9 alike share a band in 99 of 100 cases, 0.5 alike in 3
ALIKE = 0.85
FEWEST_WORDS = 20
LOOKED_AT = 4000  # characters: who copies a text copies its beginning
_WORD = re.compile(r"\w+")
_FACTORS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)  # odd, of 64 bits
_EMPTY = 1 << 32
_PACKED = struct.Struct(f"<{BINS}I")


def sketch(text: str) -> str:
    """MinHash of the text's word triples, base64; "" for fewer than 20 words."""
    words = _WORD.findall(text[:LOOKED_AT].lower())
    if len(words) < FEWEST_WORDS:
        return ""
    first, second, third = _FACTORS
    each = [zlib.crc32(word.encode()) for word in words]
    minima = [_EMPTY] * BINS
    for one, two, three in zip(each, each[1:], each[2:], strict=False):
        mixed = one * first + two * second + three * third
        place, value = (mixed >> 58) & 63, (mixed >> 26) & 0xFFFFFFFF
        if value < minima[place]:
            minima[place] = value
    return base64.b64encode(_PACKED.pack(*_filled(minima))).decode("ascii")


def bands(sketched: str) -> tuple[int, ...]:
    """Keys for the look-up: alike texts probably share one. None for an empty sketch."""
    raw = base64.b64decode(sketched)
    size = ROWS * 4
    return tuple(
        start // size << 32 | zlib.crc32(raw[start : start + size])
        for start in range(0, len(raw), size)
    )


def likeness(one: str, other: str) -> float:
    """Estimated share of common triples, 0 to 1."""
    if not one or not other:
        return 0.0
    pairs = zip(_values(one), _values(other), strict=True)
    return sum(first == second for first, second in pairs) / BINS


def _filled(minima: list[int]) -> list[int]:
    """Give each empty bin the value of another one: which, depends on its own place alone."""
    filled = list(minima)
    for place, value in enumerate(minima):
        look = place
        while value == _EMPTY:  # an odd step comes by every bin
            look = (look + 2 * place + 1) % BINS
            value = minima[look]
        filled[place] = value
    return filled


def _values(sketched: str) -> tuple[int, ...]:
    return _PACKED.unpack(base64.b64decode(sketched))
