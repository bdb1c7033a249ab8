"""From words to what is searched for: stop-words dropped, stems, accents folded last.

A stem carries its language (`es:univers`), so that Spanish and English live in one index without
meeting by accident. A text of another language is not stemmed (`xx:`). Snowball's Spanish needs the
accents, so they are folded after it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache

import Stemmer

from rag.retrieval.stop_words import BY_LANGUAGE

OTHER = "xx"
ALGORITHMS = {"es": "spanish", "en": "english"}
WORD = re.compile(r"[^\W_]+")
MAX_WORD = 64  # characters; what is longer is no word that anybody asks for
# Typed without their accent, these endings are no Spanish: "informacion", "biologia".
UNACCENTED = re.compile(r"(?:(?<=[cs])ion|(?<=log)ia|(?<=graf)ia)$")
ONLY_SPANISH = re.compile("[ñ¿¡]", re.IGNORECASE)
ACUTE = re.compile("[áéíóú]", re.IGNORECASE)  # Spanish's own, and of English's loan words
ACCENTED = {"ion": "ión", "ia": "ía"}


def words(text: str) -> list[str]:
    """Words of `text` in lower case, in their order; accents are kept."""
    plain = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", text).lower())
    return [word[:MAX_WORD] for word in WORD.findall(plain)]


def kind(language: str) -> str:
    """The language whose stems a text of `language` has: "es", "en" or "xx"."""
    return language if language in ALGORITHMS else OTHER


def stem(word: str, language: str) -> str:
    """What `word` (lower case) is searched as in texts of `language`, with its mark."""
    found = kind(language)
    return f"{found}:{_stem(word, found)}"


def stems(text: str, language: str) -> list[str]:
    """Stems of a text to be kept, stop-words among them, in the text's order."""
    found = kind(language)
    return [f"{found}:{_stem(word, found)}" for word in words(text)]


def is_stop_word(word: str, language: str) -> bool:
    """Whether `word` says nothing in `language`."""
    return word in BY_LANGUAGE.get(language, ())


def content_words(text: str) -> list[str]:
    """Words of `text` that are stop-words of no language."""
    return [word for word in words(text) if not any(is_stop_word(word, c) for c in BY_LANGUAGE)]


def guess_language(text: str) -> str:
    """Spanish or English by a vote of stop-words and of Spanish's letters; "" without a majority.

    The one vote for questions and what was said. Feeds and files have another, of six languages
    (`rag.ingest.tongue`): it needs longer texts, and is silent on one question in ten.
    """
    found = words(text)
    votes = {code: sum(word in known for word in found) for code, known in BY_LANGUAGE.items()}
    votes["es"] += 2 * bool(ONLY_SPANISH.search(text)) + bool(ACUTE.search(text))
    if votes["es"] == votes["en"]:
        return ""
    return max(votes, key=lambda code: votes[code])


def question_stems(question: str, languages: Iterable[str]) -> dict[str, list[str]]:
    """Distinct stems of a question for each language that the texts have, in its order.

    Stop-words of the question's own language and of the texts' are dropped; if nothing is left in
    any language, all are kept.

    Args:
        question: anything that a person types.
        languages: of the texts, as `kind` names them.

    Returns:
        language -> stems with their mark; a language without any is left out.
    """
    asked, own = words(question), guess_language(question)
    chosen = list(languages)
    found = {
        code: _distinct(
            stem(word, code)
            for word in asked
            if not is_stop_word(word, own) and not is_stop_word(word, code)
        )
        for code in chosen
    }
    if not any(found.values()):
        found = {code: _distinct(stem(word, code) for word in asked) for code in chosen}
    return {code: terms for code, terms in found.items() if terms}


def fold(word: str) -> str:
    """`word` without accents and other marks."""
    return "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))


def _distinct(terms: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(terms))


@cache
def _stemmer(language: str) -> Stemmer.Stemmer:
    return Stemmer.Stemmer(ALGORITHMS[language])


@cache
def _memory(_language: str) -> dict[str, str]:
    return {}


def _stem(word: str, language: str) -> str:
    """Stem and fold, remembered: a corpus says few different words many times."""
    memory = _memory(language)
    found = memory.get(word)
    if found is None:
        if len(memory) > 200_000:
            memory.clear()
        found = memory[word] = fold(_snowball(word, language))
    return found


def _snowball(word: str, language: str) -> str:
    if language == "es":
        word = UNACCENTED.sub(lambda ending: ACCENTED[ending[0]], word)
    return str(_stemmer(language).stemWord(word)) if language in ALGORITHMS else word
