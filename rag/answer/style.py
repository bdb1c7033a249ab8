"""Whether an answer quotes or is written, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from rag.answer.generate import Writer
from rag.answer.phrases import phrase

Wish: TypeAlias = Literal["auto", "extractive", "generative"]
LEAST_PARAMETERS = 300_000_000  # below, models write fluent sentences that their sources do not say


@dataclass(frozen=True)
class Choice:
    """The style and the reason, in the answer's language."""

    style: Literal["extractive", "generative"]
    reason: str


def choose(wish: Wish, writer: Writer | None, language: str) -> Choice:
    """Choose for one answer.

    Args:
        wish: the setting `answer_style`.
        writer: the model at hand; None for none.
        language: of the reason.
    """
    if writer is None:
        return Choice("extractive", phrase("why no model", language))
    if wish != "auto":
        return Choice(wish, phrase("why set", language))
    facts = {
        "model": writer.name,
        "millions": round(writer.parameters / 1e6),
        "least": LEAST_PARAMETERS // 1_000_000,
    }
    if writer.parameters < LEAST_PARAMETERS:
        return Choice("extractive", phrase("why small", language, **facts))
    if not writer.prompts.tokenizer.chat_template:
        return Choice("extractive", phrase("why no chat", language, **facts))
    return Choice("generative", phrase("why capable", language, **facts))
