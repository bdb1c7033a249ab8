"""Whether an entry is in the corpus already under another name: the same text, or nearly so."""

from __future__ import annotations

import re

from rag.ingest import duplicates
from rag.ingest.corpus import Corpus
from rag.ingest.entries import Entry
from rag.ingest.identity import canonical_link

MOST_CANDIDATES = 400  # rows: one for each band that is shared
_WORD = re.compile(r"\w+")
TELLING_WORDS = 8  # of a text that is no coincidence


def find_twin(corpus: Corpus, entry: Entry, document_id: str, source: str) -> str:
    """The id of the document that says the same; "" if there is none.

    The same title and text count wherever they came from, unless they are so short ("Weekly
    links") that only the same link makes them the same. Nearly the same counts across feeds: one
    feed alone may well write many alike entries.

    Args:
        corpus: searched.
        entry: its text.
        document_id: its own id, which does not count.
        source: its own feed.
    """
    return _same(corpus, entry, document_id) or find_alike(corpus, entry, document_id, source)


def _same(corpus: Corpus, entry: Entry, document_id: str) -> str:
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


def find_alike(corpus: Corpus, entry: Entry, document_id: str, source: str) -> str:
    """`find_twin` of a text that no other document has."""
    bands = duplicates.bands(entry.sketch)
    if not bands:
        return ""
    marks = ",".join("?" * len(bands))
    query = (
        "SELECT documents.id, documents.sketch FROM alike "  # noqa: S608 - marks alone
        "JOIN documents ON documents.rowid = alike.row "
        f"WHERE alike.band IN ({marks}) AND documents.id != ? AND documents.source != ? LIMIT ?"
    )
    candidates = corpus.db.execute(query, (*bands, document_id, source, MOST_CANDIDATES))
    likest = max(
        ((duplicates.likeness(entry.sketch, sketch), str(other)) for other, sketch in candidates),
        default=(0.0, ""),
    )
    return likest[1] if likest[0] >= duplicates.ALIKE else ""
