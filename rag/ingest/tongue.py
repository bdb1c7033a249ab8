"""Which language a text is in: a vote of frequent words, the feed's own tag where they are silent.

Six languages vote, so that German is not taken for English; what the program is made for is es and
en. A tag may lie, so a clear vote always goes before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import repeat

from rag.ingest.words import words_of

LOOKED_AT = 300  # words
LONGEST_TAG = 40
OURS = ("es", "en")  # a tie goes to them
FEWEST_VOTES = 2
LEAST_SHARE = 0.12  # of words without a digit: other languages have frequent words of ours too
CLOSE = 1  # votes: by so few more for another language, the tag is not overruled
_LISTS = {
    "es": "de la que el en y los del se las por un para con no una su al es lo como más pero sus "
    "le ya o este sí porque esta entre cuando muy sin sobre ser también me hasta hay donde quien "
    "desde nos durante todos uno ni contra otros fue ha son está qué cómo cuál dónde según",
    "en": "the of and to in is that it was for on are as with his they at be this have from or "
    "one had by but not what all were we when your can said there an each which she do how their "
    "if will about other has who where its than more been why these would into our",
    "pt": "de que e do da em um para tem não uma os no se na por mais as dos como mas ao ele das "
    "à seu sua ou quando muito nos já também só pelo pela até isso ela entre depois sem mesmo aos "
    "seus quem nas me esse eles você essa foi são ser está",
    "fr": "de la le et les des en un du une que est pour qui dans par plus pas au sur ne se ce il "
    "sont avec ou son aux mais comme cette été leur nous tout ses sa fait être deux même elle ces "
    "dont entre aussi ont vous sans je",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch "
    "es an werden aus er hat dass sie nach wird bei einer um am sind noch wie einem über einen so "
    "zum war haben nur oder aber vor zur bis mehr durch",
    "it": "di e il la che in un per è del non si una con le i da come dei al alla nel più sono "
    "della gli delle anche ha lo ma dal o se su questo cui degli nella ed essere stato tra loro "
    "quando dalla fra sua suo ci due",
}
_LETTERS = dict(zip(_LISTS, "abcdef", strict=True))  # one for each language
_VOTERS: dict[bytes, str] = {}  # the letters of the languages that a word speaks for
for _code, _words in _LISTS.items():
    for _each in _words.split():
        _voter = _each.encode()
        _VOTERS[_voter] = _VOTERS.get(_voter, "") + _LETTERS[_code]


def language_of(text: str, tag: str = "") -> str:
    """Two letters, or "" where neither the words nor the tag say anything.

    Args:
        text: plain text; its beginning is looked at.
        tag: what the source claims, such as "es-CR".
    """
    return language_of_words(words_of(text), tag)


def language_of_words(words: Sequence[bytes], tag: str = "") -> str:
    """As `language_of`, from the words of a text, lower case."""
    looked_at = words[:LOOKED_AT]
    ballot = "".join(map(_VOTERS.get, looked_at, repeat("")))
    votes = {code: ballot.count(letter) for code, letter in _LETTERS.items()}
    first = max(votes, key=votes.__getitem__)  # of a tie the one that is named first
    most = votes[first]
    claimed = primary(tag[:LONGEST_TAG])
    if claimed and most - votes.get(claimed, 0) <= CLOSE:
        return claimed
    is_alone = list(votes.values()).count(most) == 1
    if _is_enough(most, looked_at) and (is_alone or (first in OURS and not claimed)):
        return first
    return claimed


def _is_enough(votes: int, words: Sequence[bytes]) -> bool:
    if votes < FEWEST_VOTES:
        return False
    most = votes / LEAST_SHARE
    return len(words) <= most or _without_digit(words) <= most


def _without_digit(words: Sequence[bytes]) -> int:
    return sum(map(str.isalpha, b" ".join(words).decode().split(" ")))


@lru_cache(maxsize=64)
def primary(tag: str) -> str:
    """The two letters of a tag such as "en-us"; "" if it has none."""
    code = re.split(r"[-_]", tag.strip().lower(), maxsplit=1)[0]
    return code if re.fullmatch(r"[a-z]{2}", code) else ""
