"""Packages are sent in sizes of few steps, so that a watcher of the wire learns little from one.

The steps are Padmé's (Nikitin, Barman, Lueks, Underwood, Hubaux, Ford: "Reducing Metadata Leakage
from Encrypted Files and Communication with PURBs", PoPETs 2019, section 4): of a size that is a
number of n bits only the first log2 n or so are kept, and it is rounded up to them. That adds at
most a sixteenth below 64 KiB, and at most a thirty-second from there to 4 GiB.

The padding is random and not zeros, because Flower sends an object whose content the server has
already only once: a chunk of nothing but zeros would never travel.
"""

from __future__ import annotations

import os

from federation.errors import FormatError


def padded_size(size: int) -> int:
    """The size on the wire of something of `size` bytes, ≥ `size`."""
    if size < 2:
        return size
    exponent = size.bit_length() - 1
    loose_bits = exponent - exponent.bit_length()
    step = 1 << max(0, loose_bits)
    return -(-size // step) * step


def pad(data: bytes) -> bytes:
    """Return `data` and random bytes after it, `padded_size` bytes together."""
    return data + os.urandom(padded_size(len(data)) - len(data))


def cut(blob: bytes, size: int) -> memoryview:
    """Undo `pad`: a view of the first `size` bytes of `blob`.

    Raises:
        FormatError: `blob` is not something of `size` bytes, padded.
    """
    if size < 1 or len(blob) != padded_size(size):
        raise FormatError(f"{size} bytes were announced, and {len(blob)} came: not so padded")
    return memoryview(blob)[:size]
