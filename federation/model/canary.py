"""The first words of a new adapter, before anybody hears them; loads nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from federation.language import _
from federation.model.sampling import Sampling

if TYPE_CHECKING:
    from federation.model.speak import Piece

WORDS = Sampling(max_new_tokens=16, temperature=0, repetition_penalty=1.0)
ENOUGH = 8  # tokens, to tell a stutter from a short answer


def stutter(pieces: Sequence[Piece]) -> str:
    """What is wrong with a text that was written greedily, "" if nothing is.

    Args:
        pieces: as `WORDS` asks for them.
    """
    if not "".join(piece.text for piece in pieces).strip():
        return _("it writes nothing")
    most = Counter(piece.token for piece in pieces).most_common(1)[0][1]
    if len(pieces) >= ENOUGH and 2 * most > len(pieces):
        return _("it repeats one word")
    return ""
