"""Whether an entry is in the corpus already under another name: the same text, or nearly so."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping

from rag.ingest import duplicates
from rag.ingest.corpus import Corpus
from rag.ingest.entries import Entry
from rag.ingest.identity import canonical_link

MOST_OF_A_BAND = 50  # documents that are compared; a crowd of alike ones costs no more
_WORD = re.compile(r"\w+")
TELLING_WORDS = 8  # of a text that is no coincidence
Candidates = Mapping[int, Collection[tuple[str, str]]]  # ids and sketches by a band they have


def find_same(corpus: Corpus, entry: Entry, document_id: str) -> str:
    """The id of another document with the same title and text; "" if there is none.

    They count wherever they came from, unless they are so short ("Weekly links") that only the
    same link makes them the same.

    Args:
        corpus: searched.
        entry: its text.
        document_id: its own id, which does not count.
    """
    query = "SELECT id, link FROM documents WHERE sha256 = ? AND id != ? AND kind = 'feed'"
    found = corpus.db.execute(query, (entry.sha256, document_id)).fetchall()
    if not found:
        return ""
    is_telling = len(_WORD.findall(f"{entry.title} {entry.text}"[:500])) >= TELLING_WORDS
    link = canonical_link(entry.link)
    for other, its_link in found:
        if is_telling or canonical_link(its_link) == link:
            return str(other)
    return ""


def candidates_for(corpus: Corpus, entries: Collection[Entry], source: str) -> Candidates:
    """Documents of other sources that may be alike one of the entries.

    Nearly the same counts across feeds alone: one feed may well write many alike entries.
    """
    wanted = {band for entry in entries for band in duplicates.bands(entry.sketch)}
    query = (
        "SELECT alike.band, documents.id, documents.sketch FROM alike "
        "JOIN documents ON documents.rowid = alike.row "
        "WHERE alike.band IN (SELECT value FROM json_each(?)) AND documents.source != ? LIMIT ?"
    )
    most = MOST_OF_A_BAND * duplicates.BANDS * len(entries)
    found: dict[int, list[tuple[str, str]]] = {}
    for band, name, sketch in corpus.db.execute(query, (json.dumps(list(wanted)), source, most)):
        held = found.setdefault(band, [])
        if len(held) < MOST_OF_A_BAND:
            held.append((name, sketch))
    return found


def find_alike(entry: Entry, candidates: Candidates) -> str:
    """The id of the document that says nearly the same, most nearly of all; "" for none."""
    if candidates.keys().isdisjoint(duplicates.bands(entry.sketch)):
        return ""
    near = {pair for band in duplicates.bands(entry.sketch) for pair in candidates.get(band, ())}
    likest = max(
        ((duplicates.likeness(entry.sketch, sketch), name) for name, sketch in near),
        default=(0.0, ""),
    )
    return likest[1] if likest[0] >= duplicates.ALIKE else ""
