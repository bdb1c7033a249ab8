"""An answer in the sources' own words: the sentences that cover the question best, quoted.

A sentence's value is the share of the question's weight (idf of its stems) that it holds, with
a little for its passage's rank, its title, standing early, and having what is asked for (a number
for "how many", a name for "who"). Further sentences must add something: maximal marginal
relevance (Carbonell & Goldstein, SIGIR 1998).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from rag.answer.clean import clean, is_suspicious, without_links
from rag.answer.sentences import Span, sentences
from rag.answer.words import WORD, coverage, idf, stems
from rag.passages import Passage

MAX_SENTENCES = 3
MAX_CHARACTERS = 900
LONGEST = 500
SHORTEST_WORDS = 4
RELEVANCE = 0.7  # lambda of MMR
LEAST_OF_BEST = 0.55  # a further sentence is worth at least so much of the best one
DISTRUST = 0.4  # factor for what reads like an order to a machine: quoted where nothing else is
BY_RANK, BY_TITLE, BY_PLACE, BY_KIND = 0.25, 0.15, 0.05, 0.15

_ASKS_NUMBER = re.compile(
    r"\b(?:cu[aá]nt[oa]s?|how (?:many|much|long|old|far|often|tall)|qué (?:porcentaje|edad|altura)"
    r"|what (?:percent\w*|age|number))\b",
    re.IGNORECASE,
)
_ASKS_TIME = re.compile(
    r"\b(?:cuándo|cuando|when|what (?:year|date|day|month|century)"
    r"|qué (?:año|fecha|día|mes|siglo))\b",
    re.IGNORECASE,
)
_ASKS_NAME = re.compile(
    r"\b(?:qui[eé]n(?:es)?|who|whom|whose|d[oó]nde|where|cómo se llama"
    r"|what is the name|what (?:city|country)|qué (?:país|ciudad))\b",
    re.IGNORECASE,
)
_TIME = re.compile(
    r"\b(?:1\d{3}|20\d{2})\b|\b(?:enero|febrero|marzo|abril|mayo|junio|julio|agosto|septiembre|"
    r"octubre|noviembre|diciembre|january|february|march|april|june|july|august|september|"
    r"october|november|december|siglo|century|lunes|martes|monday|friday)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|dozen|hundred|thousand|million\w*|"
    r"dos|tres|cuatro|cinco|seis|siete|ocho|nueve|diez|cien\w*|mil|millón|millones)\b",
    re.IGNORECASE,
)
_NAME = re.compile(r"(?<=[\wáéíóúñ,;] )[A-ZÁÉÍÓÚÑ][^\W\d_]+")


@dataclass(frozen=True)
class Extracted:
    """One sentence that is quoted.

    Attributes:
        n: number of its source.
        span: its place in the passage's text.
        shown: the sentence, fit for a screen.
        value: see the module; at least 0.
        coverage: of the question's weight, 0 to 1.
    """

    n: int
    span: Span
    shown: str
    value: float
    coverage: float


@dataclass(frozen=True)
class _Candidate:
    n: int
    span: Span
    held: frozenset[str]
    value: float
    coverage: float


def extract(
    question: str,
    passages: Sequence[Passage],
    language: str,
    *,
    max_sentences: int = MAX_SENTENCES,
) -> list[Extracted]:
    """The best sentences of the passages, in the order to be read.

    Args:
        question: as it was asked.
        passages: source n is `passages[n - 1]`.
        language: of the question.
        max_sentences: at most so many; fewer if the others add nothing.
    """
    candidates = _candidates(question, passages, language)
    chosen = _choose(candidates, max_sentences)
    best: dict[int, float] = {}
    for entry in chosen:
        best[entry.n] = max(best.get(entry.n, 0), entry.value)
    chosen.sort(key=lambda entry: (-best[entry.n], entry.n, entry.span.start))
    return [
        Extracted(
            n=entry.n,
            span=entry.span,
            shown=_shown(passages[entry.n - 1], entry.span),
            value=entry.value,
            coverage=entry.coverage,
        )
        for entry in chosen
    ]


def as_text(extracted: Sequence[Extracted]) -> str:
    """Quoted sentences, each with its citation; those of a source in one paragraph."""
    lines: list[str] = []
    for index, entry in enumerate(extracted):
        quoted = f"«{entry.shown}» [{entry.n}]"
        if index and extracted[index - 1].n == entry.n:
            lines[-1] += f" {quoted}"
        else:
            lines.append(quoted)
    return "\n".join(lines)


def _candidates(question: str, passages: Sequence[Passage], language: str) -> list[_Candidate]:
    found: list[tuple[int, Span, frozenset[str]]] = []
    seen: set[tuple[str, int]] = set()
    for n, passage in enumerate(passages, start=1):
        for span in sentences(passage.text):
            place = (passage.document_id, passage.start + span.start)
            text = passage.text[span.start : span.end]
            if place in seen or not _is_quotable(text):
                continue
            seen.add(place)
            found.append((n, span, frozenset(stems(text, passage.language))))
    groups = [held for _n, _span, held in found]
    weights = {
        code: idf(set(stems(question, language, stem_as=code)), groups)
        for code in {passage.language for passage in passages}
    }
    return [
        _valued(question, passages[n - 1], _Candidate(n, span, held, 0, 0), weights)
        for n, span, held in found
    ]


def _valued(
    question: str,
    passage: Passage,
    entry: _Candidate,
    weights: Mapping[str, Mapping[str, float]],
) -> _Candidate:
    terms = weights[passage.language]
    covered = coverage(terms, entry.held)
    title = coverage(terms, set(stems(passage.title, passage.language)))
    text = passage.text[entry.span.start : entry.span.end]
    value = covered + BY_TITLE * title * (1 - covered)
    value += BY_RANK * max(0.0, min(1.0, passage.score))
    value += BY_PLACE / (1 + passage.start + entry.span.start) ** 0.25
    value += BY_KIND * _has_kind(question, text)
    if is_suspicious(text):
        value *= DISTRUST
    return _Candidate(entry.n, entry.span, entry.held, value, covered)


def _choose(candidates: Sequence[_Candidate], max_sentences: int) -> list[_Candidate]:
    left = sorted(candidates, key=lambda entry: (-entry.value, entry.n, entry.span.start))
    if not left:
        return []
    chosen = [left.pop(0)]
    room = MAX_CHARACTERS - _length(chosen[0])
    while left and len(chosen) < max_sentences:
        best = max(left, key=lambda entry: _marginal(entry, chosen))
        left.remove(best)
        if best.value < LEAST_OF_BEST * chosen[0].value or not best.coverage:
            continue
        if _length(best) <= room and _likeness(best.held, chosen) < RELEVANCE:
            chosen.append(best)
            room -= _length(best)
    return chosen


def _marginal(entry: _Candidate, chosen: Sequence[_Candidate]) -> float:
    return RELEVANCE * entry.value - (1 - RELEVANCE) * _likeness(entry.held, chosen)


def _likeness(held: Collection[str], chosen: Sequence[_Candidate]) -> float:
    own = set(held)
    return max(len(own & other.held) / (len(own | other.held) or 1) for other in chosen)


def _has_kind(question: str, text: str) -> bool:
    for asks, has in ((_ASKS_NUMBER, _NUMBER), (_ASKS_TIME, _TIME), (_ASKS_NAME, _NAME)):
        if asks.search(question):
            return bool(has.search(text))
    return False


def _is_quotable(text: str) -> bool:
    return len(text) <= LONGEST and len(WORD.findall(text)) >= SHORTEST_WORDS


def _shown(passage: Passage, span: Span) -> str:
    text = without_links(clean(passage.text[span.start : span.end]))
    return " ".join(text.replace("«", "“").replace("»", "”").split())


def _length(entry: _Candidate) -> int:
    return entry.span.end - entry.span.start
