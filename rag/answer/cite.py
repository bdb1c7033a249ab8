"""From what was written to what it rests on: numbers checked, sentences measured, spans quoted."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rag.answer.clean import is_suspicious, one_line
from rag.answer.result import Source, Support
from rag.answer.sentences import Span, sentences
from rag.answer.words import stems
from rag.passages import Passage

ENOUGH = 0.3
CITATION = re.compile(r"\[(\d{1,4}(?:\s*[,;]\s*\d{1,4})*)\]")


@dataclass(frozen=True)
class Cited:
    """What `attach` found.

    Attributes:
        sentences: those that claim something.
        spans: index of a passage -> the place in it, relative to the passage, that is quoted.
    """

    sentences: tuple[Support, ...]
    spans: dict[int, Span]


def drop_unknown(text: str, sources: int) -> str:
    """`text` without the citations that point to none of the sources 1 to `sources`.

    Those that stay are written `[n]` or `[n, m]`.
    """

    def known(match: re.Match[str]) -> str:
        numbers = [number for number in _numbers(match[1]) if 1 <= number <= sources]
        return f"[{', '.join(map(str, dict.fromkeys(numbers)))}]" if numbers else ""

    kept = text
    while (shorter := CITATION.sub(known, kept)) != kept:  # one taken out may put another together
        kept = shorter
    return kept


def attach(answer: str, passages: Sequence[Passage], language: str) -> Cited:
    """Measure each sentence against the sources it cites; one without any gets the nearest.

    Args:
        answer: after `drop_unknown`.
        passages: source n is `passages[n - 1]`.
        language: of the answer.
    """
    words = [_Stems(passage, set(stems(passage.text, passage.language))) for passage in passages]
    found: list[Support] = []
    spans: dict[int, tuple[float, Span]] = {}
    for span in sentences(answer):
        written = answer[span.start : span.end]
        claim = CITATION.sub(" ", written)
        if not re.search(r"[^\W_]", claim):
            continue
        support = _support(span, claim, written, words, language)
        found.append(support)
        for number in support.cited:
            quoted = best_span(claim, passages[number - 1], language)
            before = spans.get(number - 1)
            if before is None or support.support > before[0]:
                spans[number - 1] = (support.support, quoted)
    return Cited(tuple(found), {index: span for index, (_value, span) in spans.items()})


def best_span(claim: str, passage: Passage, language: str) -> Span:
    """The sentence of the passage nearest to `claim`, relative to the passage's text.

    Of equally near ones it is the first; the whole passage if it holds no sentence.
    """
    wanted = set(stems(claim, language, stem_as=passage.language))
    best, best_value = Span(0, len(passage.text)), -1.0
    for span in sentences(passage.text):
        held = set(stems(passage.text[span.start : span.end], passage.language))
        value = len(wanted & held) / (1 + len(wanted | held))
        if value > best_value:
            best, best_value = span, value
    return best


def source_of(n: int, passage: Passage, span: Span, *, is_cited: bool) -> Source:
    """Source `n`, quoting `span` of its passage word for word."""
    return Source(
        n=n,
        title=one_line(passage.title),
        url=passage.link if passage.link.startswith(("http://", "https://")) else "",
        published=passage.published,
        feed=one_line(passage.source_name),
        document_id=passage.document_id,
        score=passage.score,
        bm25=passage.bm25,
        cosine=passage.cosine,
        quote=passage.text[span.start : span.end],
        start=passage.start + span.start,
        end=passage.start + span.end,
        is_cited=is_cited,
        is_suspicious=is_suspicious(passage.text),
    )


def sources_of(
    question: str, passages: Sequence[Passage], cited: Cited, language: str
) -> tuple[Source, ...]:
    """All sources in their order; one that is not cited quotes its sentence nearest the question.

    Args:
        question: as it was asked.
        passages: source n is `passages[n - 1]`.
        cited: of the answer.
        language: of the question.
    """
    made = []
    for index, passage in enumerate(passages):
        is_cited = index in cited.spans
        span = cited.spans[index] if is_cited else best_span(question, passage, language)
        made.append(source_of(index + 1, passage, span, is_cited=is_cited))
    return tuple(made)


@dataclass(frozen=True)
class _Stems:
    passage: Passage
    held: Collection[str]


def _support(
    span: Span, claim: str, written: str, words: Sequence[_Stems], language: str
) -> Support:
    numbers = [number for found in CITATION.findall(written) for number in _numbers(found)]
    cited = [number for number in dict.fromkeys(numbers) if 1 <= number <= len(words)]
    values = {number: _share(claim, words[number - 1], language) for number in cited}
    if cited:
        best = max(values.values())
        return Support(*span, tuple(cited), best, best >= ENOUGH, is_matched=False)
    nearest = [(_share(claim, entry, language), -n) for n, entry in enumerate(words, start=1)]
    best, place = max(nearest, default=(0.0, 0))
    if best < ENOUGH:
        return Support(*span, (), best, is_supported=False, is_matched=False)
    return Support(*span, (-place,), best, is_supported=True, is_matched=True)


def _share(claim: str, entry: _Stems, language: str) -> float:
    wanted = set(stems(claim, language, stem_as=entry.passage.language))
    return len(wanted & set(entry.held)) / len(wanted) if wanted else 0.0


def _numbers(found: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", found)]
