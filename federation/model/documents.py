"""What a model is trained on or measured with: one text, or one question with its answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """A plain text (`text`), or a question–answer pair (`question` and `answer`).

    Attributes:
        lang: language code, "" if unknown.
        field: subject the text belongs to, "" if unknown.
        id: name given by whoever wrote it, "" if none; not part of the content.
    """

    text: str = ""
    question: str = ""
    answer: str = ""
    lang: str = ""
    field: str = ""
    id: str = ""

    @property
    def is_qa(self) -> bool:
        """Whether only the answer is to be learnt."""
        return bool(self.answer)

    @property
    def digest(self) -> str:
        """Sha256 of the content alone: equal for equal texts whatever their id, field, language."""
        content = [self.question, self.answer] if self.is_qa else [self.text]
        return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()


def fingerprint(documents: Iterable[Document]) -> str:
    """Sha256 over the contents in their order."""
    total = hashlib.sha256()
    for document in documents:
        total.update(bytes.fromhex(document.digest))
    return total.hexdigest()
