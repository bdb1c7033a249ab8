"""An answer as every face of the chat returns it: terminal, page, API."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

Style: TypeAlias = Literal["extractive", "generative", "none"]
Figures: TypeAlias = dict[str, float | int | str | None]


@dataclass(frozen=True)
class Source:
    """What a `[n]` points to.

    Attributes:
        n: from 1.
        title, url, published, feed: shown of it; `url` is http(s) or "".
        document_id: `Document.id`; "memory:…" is a message of the user's own.
        score: of retrieval, relative to this question.
        bm25, cosine: raw, for "why this answer".
        quote: the passage that the answer rests on: exactly `Document.text[start:end]`.
        is_cited: whether the answer's text points to it.
        is_suspicious: its text reads like instructions to a machine.
    """

    n: int
    title: str
    url: str
    published: str
    feed: str
    document_id: str
    score: float
    bm25: float
    cosine: float | None
    quote: str
    start: int
    end: int
    is_cited: bool
    is_suspicious: bool


@dataclass(frozen=True)
class Support:
    """How far one sentence of the answer rests on its sources.

    Attributes:
        start, end: its place in `Answer.answer`.
        cited: numbers of its sources.
        support: best share of its stems that one cited source holds, 0 to 1.
        is_supported: `support` is enough.
        is_matched: it had no citation; `cited` is the nearest source, matched automatically.
    """

    start: int
    end: int
    cited: tuple[int, ...]
    support: float
    is_supported: bool
    is_matched: bool


@dataclass(frozen=True)
class ModelName:
    """The model at hand; a quoted answer needs none.

    Attributes:
        base: name of the base model, "" if none was needed.
        adapter: such as "global@v12", "" for none.
        sha256: of the adapter's manifest, else the base model's identity.
    """

    base: str = ""
    adapter: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Usage:
    """What it cost; times in milliseconds from the question on."""

    prompt_tokens: int = 0
    answer_tokens: int = 0
    latency_ms: float = 0.0
    ttft_ms: float = 0.0


@dataclass(frozen=True)
class Answer:
    """An answer with what it rests on.

    Attributes:
        answer: its text, with `[n]` for sources.
        abstained: nothing in the sources answers the question; `sources` are the nearest.
        style: how it was made; "none" if there is none.
        style_reason: why so, in the answer's language.
        sentences: of the answer, those that claim something.
        metrics: numbers behind it, and seconds of each step.
        was_stopped: the user stopped it.
    """

    question: str
    answer: str
    language: str
    abstained: bool
    style: Style
    style_reason: str
    sources: tuple[Source, ...] = ()
    sentences: tuple[Support, ...] = ()
    metrics: Figures = field(default_factory=dict)
    model: ModelName = field(default_factory=ModelName)
    usage: Usage = field(default_factory=Usage)
    was_stopped: bool = False
    message_id: str = ""
    session_id: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, the same from every face."""
        return asdict(self)
