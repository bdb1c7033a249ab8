"""What is asked, and what comes back while it is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from rag.answer.prompt import Said
from rag.answer.result import Answer, Source
from rag.passages import Passage

if TYPE_CHECKING:
    from federation.model.sampling import Sampling


@dataclass(frozen=True)
class SourcesFound:
    """Sent before the first word."""

    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Token:
    """A piece of the answer; joined, the pieces are `Answer.answer`."""

    text: str


@dataclass(frozen=True)
class Done:
    """Sent last."""

    answer: Answer


Event: TypeAlias = SourcesFound | Token | Done


@dataclass(frozen=True)
class Question:
    """What is asked, and how.

    Attributes:
        text: as the user wrote it.
        language: the answer's; "" is the question's.
        rag: whether sources are looked for.
        top_k: passages used.
        max_chars: of all passages together, at least one whole; 0 for no limit.
        min_score: passages with less than this share of the best one's score are left out.
        anyway: answer even if the sources seem not to know.
        turns: of this conversation, oldest first.
        notes: earlier messages of the user, as passages (`note`).
        sampling: of a written answer; None for the usual one.
        message_id: of the answer; "" makes one.
    """

    text: str
    language: str = ""
    rag: bool = True
    top_k: int = 5
    max_chars: int = 0
    min_score: float = 0.0
    anyway: bool = False
    turns: Sequence[Said] = ()
    notes: Sequence[Passage] = ()
    sampling: Sampling | None = None
    message_id: str = ""
