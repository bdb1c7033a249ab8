"""gzip that stops: bytes are unpacked piece by piece, and no further than allowed."""

from __future__ import annotations

import zlib

GZIP = b"\x1f\x8b"
_WBITS = 31  # gzip's header and trailer


class TooLargeError(Exception):
    """More would come out than allowed."""


class Inflater:
    """Unpacks one gzip stream, of several members if there are.

    Args:
        limit: of bytes that may come out, in all.
    """

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._member = zlib.decompressobj(_WBITS)

    def add(self, data: bytes) -> bytes:
        """Unpack what came.

        Raises:
            TooLargeError: more than the limit would come out.
            zlib.error: it is no gzip.
        """
        out = bytearray()
        while data:
            if self._member.eof:
                if data[:1] != GZIP[:1]:
                    break  # zeros after the end, as some servers send
                self._member = zlib.decompressobj(_WBITS)
            out += self._member.decompress(data, self._left - len(out) + 1)
            if len(out) > self._left or self._member.unconsumed_tail:
                raise TooLargeError
            data = self._member.unused_data
        self._left -= len(out)
        return bytes(out)


def gunzip(data: bytes, limit: int) -> bytes:
    """Unpack a whole body; what is no gzip comes back as it is.

    Raises:
        TooLargeError: more than `limit` bytes would come out.
        zlib.error: it is damaged.
    """
    return Inflater(limit).add(data) if data.startswith(GZIP) else data
