"""The words of a text's beginning: what its language and its sketch are made of."""

from __future__ import annotations

import re

LOOKED_AT = 4000  # characters: who copies a text copies its beginning
_WORD = re.compile(r"\w+")
_ASCII = [chr(code).lower() if _WORD.match(chr(code)) else " " for code in range(128)]
_SPACED = "".join(_ASCII).encode().ljust(256)


def words_of(text: str) -> list[bytes]:
    """Words in UTF-8, lower case, in their order; numbers are words too."""
    start = text[:LOOKED_AT]
    if start.isascii():  # the same, several times as fast
        return start.encode().translate(_SPACED).split()
    return " ".join(_WORD.findall(start.lower())).encode("utf-8", "replace").split()
