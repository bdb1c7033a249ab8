"""Words that carry meaning, as stems without accents, in Spanish and English.

Stop-words and stems are those of retrieval. Both sides of a comparison are stemmed by the same
language's rules, so that a name matches itself in a text of another language.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from rag.retrieval.stems import WORD, guess_language, stem, words
from rag.retrieval.stop_words import BY_LANGUAGE

__all__ = ["WORD", "content_words", "coverage", "idf", "language_of", "stem", "stems"]


def language_of(text: str, default: str = "en") -> str:
    """Either "es" or "en", by retrieval's vote; `default` (if it is one of them) without one."""
    return guess_language(text) or (default if default in BY_LANGUAGE else "en")


def content_words(text: str, language: str) -> list[str]:
    """Lower-case words without stop-words; all of them if there is nothing else.

    Args:
        text: any.
        language: of the text; of an unknown one every word carries meaning.
    """
    found = words(text)
    stop = BY_LANGUAGE.get(language, ())
    return [word for word in found if word not in stop] or found


def stems(text: str, language: str, *, stem_as: str = "") -> list[str]:
    """Stems of the content words of `text`, in order, repeats kept.

    Args:
        text: any.
        language: of the text: which words carry no meaning.
        stem_as: whose stemming; "" is the text's own.
    """
    rules = stem_as or language
    return [stem(word, rules) for word in content_words(text, language)]


def idf(terms: Iterable[str], groups: Collection[Collection[str]]) -> dict[str, float]:
    """Term -> ln(1 + (N - df + .5) / (df + .5)) over `groups` of stems."""
    total = len(groups)
    weights = {}
    for term in terms:
        df = sum(term in group for group in groups)
        weights[term] = math.log(1 + (total - df + 0.5) / (df + 0.5))
    return weights


def coverage(weights: Mapping[str, float], found: Collection[str]) -> float:
    """Weight of the terms in `found` / weight of all; 0 if there are none."""
    whole = sum(weights.values())
    return sum(weight for term, weight in weights.items() if term in found) / whole if whole else 0
