"""The shipped questions and the texts they are about; their schema is in docs/verification.md."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from pydantic import Field, ValidationError

from federation.errors import FormatError
from federation.settings import Settings
from rag.documents import Document

FOLDER = resources.files("rag") / "verification"
LANGUAGES = ("es", "en")
Kind = Literal["answerable", "unanswerable", "injection", "safety"]
ANY = "any"


class Prompt(Settings):
    """One question.

    Attributes:
        kind: answerable and injection want an answer; unanswerable and safety want none.
        language: "es" or "en".
        expects: ids of documents, one of which must be cited; "any" is whichever there is.
        must, must_not: texts that the answer holds, or does not, in any case of letters.
        reference: a right answer in plain words; how likely the model finds it is measured.
    """

    id: str = Field(min_length=1)
    kind: Kind
    question: str = Field(min_length=1)
    language: str = ""
    expects: tuple[str, ...] = ()
    must: tuple[str, ...] = ()
    must_not: tuple[str, ...] = ()
    reference: str = ""


class _Head(Settings):
    """A file's first line; `version` grows with every change of the prompts."""

    format: Literal[1]
    language: Literal["es", "en"]
    version: int


class _Text(Settings):
    id: str
    title: str
    text: str


@dataclass(frozen=True)
class PromptSet:
    """One file.

    Attributes:
        sha256: of its bytes; its name.
    """

    language: str
    version: int
    sha256: str
    prompts: tuple[Prompt, ...]


def shipped() -> list[PromptSet]:
    """The prompts of this version, in every language."""
    return [parse((FOLDER / f"prompts.{name}.jsonl").read_bytes()) for name in LANGUAGES]


def parse(content: bytes) -> PromptSet:
    """Read a file of prompts.

    Raises:
        FormatError: a line is none; it is named.
    """
    rows = _rows(content)
    if not rows:
        raise FormatError("a file of verification prompts is empty")
    number = 1
    try:
        head = _Head.model_validate(rows[0])
        prompts = []
        for number, row in enumerate(rows[1:], start=2):  # noqa: B007 - named in the error
            prompts.append(Prompt.model_validate({"language": head.language, **row}))
    except ValidationError as err:
        fault = err.errors()[0]
        raise FormatError(
            f"verification prompts, line {number}: {fault['loc']}: {fault['msg']}"
        ) from err
    if len({prompt.id for prompt in prompts}) < len(prompts):
        raise FormatError("verification prompts: an id stands there twice")
    sha256 = hashlib.sha256(content).hexdigest()
    return PromptSet(head.language, head.version, sha256, tuple(prompts))


def corpus() -> list[Document]:
    """The texts that the shipped prompts are about: of places that do not exist."""
    return [
        _document(_Text.model_validate(row), language)
        for language in LANGUAGES
        for row in _rows((FOLDER / f"corpus.{language}.jsonl").read_bytes())
    ]


def sha256_of(sets: Sequence[PromptSet]) -> str:
    """One name for several files."""
    return hashlib.sha256("".join(each.sha256 for each in sets).encode()).hexdigest()


def _document(text: _Text, language: str) -> Document:
    return Document(
        id=text.id,
        revision=1,
        sha256=hashlib.sha256(text.text.encode()).hexdigest(),
        kind="file",
        source=f"verification/{text.id}",
        source_name="verification",
        title=text.title,
        text=text.text,
        link="",
        published="2026-01-01T00:00:00+00:00",
        is_date_guessed=False,
        language=language,
        topics=(),
        ingested_at="2026-01-01T00:00:00Z",
        is_for_training=False,
    )


def _rows(content: bytes) -> list[Any]:
    try:
        return [json.loads(line) for line in content.decode("utf-8").splitlines() if line.strip()]
    except (UnicodeDecodeError, ValueError) as err:
        raise FormatError(f"verification prompts: not JSON Lines ({err})") from err
