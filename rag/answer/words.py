"""Words that carry meaning, as stems without accents, in Spanish and English.

Stems are made before accents go: the Spanish stemmer reads them. Both sides of a comparison are
stemmed by the same language's rules, so that a name matches itself in a text of another language.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from functools import cache

import Stemmer

WORD = re.compile(r"[^\W_]+")
STEMMERS = {"es": "spanish", "en": "english"}
_SPANISH = """
a al algo algún alguna algunas alguno algunos ante antes aquel aquella aquello aquellos
así aun aún aunque cada como cómo con contra cual cuál cuales cuáles cualquier cuando cuándo
cuanta cuánta cuantas cuántas cuanto cuánto cuantos cuántos de del desde dime donde dónde dos
durante e el él ella ellas ello ellos en entre era eran eres es esa esas ese eso esos esta está
están estar estas este esto estos fue fueron ha había habían hace hacia haber han has hasta hay
he la las le les lo los más me mi mis mucho muy nada ni no nos nosotros o os otra otras otro otros
para pero poco por porque pues que qué quién quien quiénes quienes sabes puedes se sea sean según
ser si sí sido sin sobre son su sus también tan tanto te tiene tienen toda todas todo todos tras
tu tú tus un una unas uno unos usted ustedes y ya yo cuéntame
"""
_ENGLISH = """
a about after all also am an and any are as at be because been before being between both
but by can could did do does doing done for from further had has have having he her here hers him
his how i if in into is it its just know me more most my no nor not of off on once only or other
our out over own same she should so some such tell than that the their them then there these they
this those through to too under until up us very was we were what when where which while who whom
whose why will with would you your
"""
STOP = {"es": frozenset(_SPANISH.split()), "en": frozenset(_ENGLISH.split())}


def language_of(text: str, default: str = "en") -> str:
    """Either "es" or "en", by a vote of stop-words and of letters that only Spanish has."""
    votes = dict.fromkeys(STOP, 0)
    for word in WORD.findall(text.lower()):
        for code, stop in STOP.items():
            votes[code] += word in stop
    votes["es"] += 2 * bool(re.search("[ñ¿¡]", text, re.IGNORECASE)) + bool(
        re.search("[áéíóú]", text, re.IGNORECASE)
    )
    if votes["es"] == votes["en"]:
        return default if default in STOP else "en"
    return "es" if votes["es"] > votes["en"] else "en"


def content_words(text: str, language: str) -> list[str]:
    """Lower-case words without stop-words; all of them if there is nothing else.

    Args:
        text: any.
        language: of the text; of an unknown one every word carries meaning.
    """
    words = [word.lower() for word in WORD.findall(unicodedata.normalize("NFC", text))]
    stop = STOP.get(language, frozenset())
    return [word for word in words if word not in stop] or words


def stem(word: str, language: str) -> str:
    """The stem of a lower-case word, accents folded."""
    return _stem(word, language if language in STEMMERS else "")


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


@cache
def _stem(word: str, language: str) -> str:
    stemmed = _stemmer(language).stemWord(word) if language else word
    parts = unicodedata.normalize("NFKD", stemmed)
    return "".join(letter for letter in parts if not unicodedata.combining(letter))


@cache
def _stemmer(language: str) -> Stemmer.Stemmer:
    return Stemmer.Stemmer(STEMMERS[language])
