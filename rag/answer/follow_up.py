"""A question that leans on the one before it: "and how much did it cost?" is searched with both."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rag.answer.prompt import Said
from rag.answer.words import WORD
from rag.retrieval.stop_words import BY_LANGUAGE

_GOES_ON = re.compile(
    r"^[\s¿¡]*(?:y|e|pero|entonces|además|también|and|but|so|then|also|what about|how about"
    r"|qué tal|qué hay de)\b",
    re.IGNORECASE,
)
LONGEST = 12  # words; a longer question says itself what it is about


def in_context(question: str, turns: Sequence[Said]) -> str:
    """What to search for: the question, after the user's last one if it leans on that.

    Args:
        question: as it was asked.
        turns: of the conversation so far, oldest first.
    """
    if not leans(question):
        return question
    for turn in reversed(turns):
        if turn.role == "user" and not leans(turn.content):
            return f"{turn.content} {question}"
    return question


def leans(question: str) -> bool:
    """Whether it goes on from something ("and …"), or holds small words alone."""
    words = [word.lower() for word in WORD.findall(question)]
    if not words or len(words) > LONGEST:
        return False
    small = BY_LANGUAGE["es"] | BY_LANGUAGE["en"]
    return bool(_GOES_ON.match(question)) or all(word in small for word in words)
