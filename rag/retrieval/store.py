"""`store.sqlite`, the truth for retrieval: documents, chunks, words, vectors, and how far it read.

One writer at a time (`Store.writing`), any number of readers, which never wait (WAL). Whatever
changes comes in transactions, so a kill at any moment leaves the state before or after one. A
chunk's number is never given twice: indexes and readers may hold old ones.

    documents 1 ── n chunks 1 ── 1 words (FTS5 over stems)
                          1 ── n vectors, one in each space (an embedder's)
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from federation import durable
from federation.errors import FormatError
from federation.language import _
from rag.documents import Document
from rag.retrieval import stems
from rag.retrieval.chunks import Chunk

DATABASE = "store.sqlite"
VERSION = 1
WRITE_LOCK = ".write.lock"
SURROGATES = re.compile("[\ud800-\udfff]")
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    kind TEXT NOT NULL,
    source TEXT NOT NULL,
    source_name TEXT NOT NULL,
    title TEXT NOT NULL,
    text TEXT NOT NULL,
    link TEXT NOT NULL,
    published TEXT NOT NULL,
    published_at REAL NOT NULL,
    is_date_guessed INTEGER NOT NULL,
    language TEXT NOT NULL,
    topics TEXT NOT NULL,
    ingested_at TEXT NOT NULL,
    priority INTEGER NOT NULL,
    cut TEXT NOT NULL,
    reading INTEGER NOT NULL
);
CREATE INDEX documents_reading ON documents (reading);
CREATE TABLE chunks (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    document INTEGER NOT NULL REFERENCES documents (number) ON DELETE CASCADE,
    start INTEGER NOT NULL,
    stop INTEGER NOT NULL,
    stems TEXT NOT NULL
);
CREATE INDEX chunks_document ON chunks (document);
CREATE INDEX chunks_stems ON chunks (stems);
CREATE VIRTUAL TABLE words USING fts5 (stems, around, tokenize = "ascii tokenchars ':'");
CREATE VIRTUAL TABLE terms USING fts5vocab (words, row);
CREATE TRIGGER forget_words AFTER DELETE ON chunks BEGIN
    DELETE FROM words WHERE rowid = old.number;
END;
CREATE TABLE spaces (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    stamp TEXT NOT NULL UNIQUE,
    probes BLOB NOT NULL DEFAULT x''
);
CREATE TABLE vectors (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    chunk INTEGER NOT NULL REFERENCES chunks (number) ON DELETE CASCADE,
    space INTEGER NOT NULL REFERENCES spaces (number) ON DELETE CASCADE,
    vector BLOB NOT NULL
);
CREATE UNIQUE INDEX vectors_chunk ON vectors (chunk, space);
"""
_PUT = """
INSERT INTO documents (id, revision, sha256, kind, source, source_name, title, text, link,
    published, published_at, is_date_guessed, language, topics, ingested_at, priority, cut, reading)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, sha256 = excluded.sha256,
    kind = excluded.kind, source = excluded.source, source_name = excluded.source_name,
    title = excluded.title, text = excluded.text, link = excluded.link,
    published = excluded.published, published_at = excluded.published_at,
    is_date_guessed = excluded.is_date_guessed, language = excluded.language,
    topics = excluded.topics, ingested_at = excluded.ingested_at, priority = excluded.priority,
    cut = excluded.cut, reading = excluded.reading
RETURNING number
"""


class Store:
    """The database of one node, in `folder`; made if missing, private.

    Usable from several threads, one call at a time; each process opens its own.

    Raises:
        FormatError: it is damaged, or of a newer version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = durable.make_folder(folder)
        self.path = folder / DATABASE
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, durable.PRIVATE_FILE))
        self.database = sqlite3.connect(
            self.path, timeout=30, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare()
        except sqlite3.DatabaseError as err:
            self.database.close()
            raise FormatError(
                _("{path} is damaged ({why})").format(path=self.path, why=err),
                hint=_("Delete it: it is made again from the corpus."),
            ) from err

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; it can be opened again."""
        self.database.close()

    def writing(self, *, timeout_s: float = 10.0) -> AbstractContextManager[None]:
        """Be the one that writes for the length of the block; readers are not kept waiting.

        Raises:
            ConscienceError: another process writes for longer than `timeout_s`.
        """
        busy = _("another process is writing the store of retrieval")
        return durable.locked(self.folder / WRITE_LOCK, timeout_s=timeout_s, busy=busy)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Change all or nothing; counts one generation."""
        self.database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.set_meta("generation", str(self.generation + 1))
            self.database.execute("COMMIT")
        except BaseException:
            self.database.execute("ROLLBACK")
            raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read one state, whatever is written meanwhile."""
        self.database.execute("BEGIN")
        try:
            yield
        finally:
            self.database.execute("COMMIT")

    @property
    def generation(self) -> int:
        """Grows by one with every change."""
        return int(self.meta("generation", "0"))

    def meta(self, key: str, default: str = "") -> str:
        """A value kept beside the tables."""
        row = self.database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return default if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Keep a value; inside a transaction."""
        self.database.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, value),
        )

    def document(self, id_: str) -> Document | None:
        """The document as it was put."""
        cursor = self.database.cursor()
        cursor.row_factory = sqlite3.Row
        row = cursor.execute("SELECT * FROM documents WHERE id = ?", (id_,)).fetchone()
        return None if row is None else _document(row)

    def documents(self, *, not_cut: str = "") -> Iterator[str]:
        """Ids in the order they came, of all or of those that are cut otherwise than `not_cut`."""
        rows = self.database.execute(
            "SELECT id FROM documents WHERE cut != ? ORDER BY number", (not_cut,)
        )
        return iter([str(row[0]) for row in rows])

    def cut_of(self, id_: str) -> str:
        """How a document is cut; "" if it is not there."""
        row = self.database.execute("SELECT cut FROM documents WHERE id = ?", (id_,)).fetchone()
        return "" if row is None else str(row[0])

    def put(self, document: Document, chunks: Sequence[Chunk], *, cut: str, reading: int) -> None:
        """Add or replace a document; inside a transaction.

        Where title, text, language and chunks are as before, chunks and vectors stay.

        Args:
            document: lone surrogates in it, which no database takes, become U+FFFD.
            chunks: of its text.
            cut: `Cutter.stamp` of what cut them.
            reading: number of the pass over the corpus that found it.
        """
        document = _clean(document)
        before = self.document(document.id)
        row = self.database.execute(_PUT, (*_values(document), cut, reading)).fetchone()
        number = int(row[0])
        same = before is not None and _searched(before) == _searched(document)
        if same and self._chunks_of(number) == list(chunks):
            return
        self.database.execute("DELETE FROM chunks WHERE document = ?", (number,))
        language = document.language or stems.guess_language(document.text)
        title = stems.stems(document.title, language)
        for at, chunk in enumerate(chunks):
            cursor = self.database.execute(
                "INSERT INTO chunks (document, start, stop, stems) VALUES (?, ?, ?, ?)",
                (number, chunk.start, chunk.end, stems.kind(language)),
            )
            found = title + stems.stems(document.text[chunk.start : chunk.end], language)
            around = _around(document.text, chunks, at)
            self.database.execute(
                "INSERT INTO words (rowid, stems, around) VALUES (?, ?, ?)",
                (cursor.lastrowid, " ".join(found), " ".join(stems.stems(around, language))),
            )

    def touch(self, id_: str, *, reading: int) -> None:
        """Note that a pass over the corpus found the document; inside a transaction."""
        self.database.execute("UPDATE documents SET reading = ? WHERE id = ?", (reading, id_))

    def remove(self, id_: str) -> None:
        """Take a document out, if it is there; inside a transaction."""
        self.database.execute("DELETE FROM documents WHERE id = ?", (id_,))

    def remove_unread(self, reading: int) -> int:
        """Take out what the pass `reading` did not find; how many; inside a transaction."""
        return self.database.execute("DELETE FROM documents WHERE reading < ?", (reading,)).rowcount

    def count(self, table: str) -> int:
        """Rows of "documents", "chunks" or "words"."""
        if table not in {"documents", "chunks", "words"}:
            raise ValueError(table)
        row = self.database.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
        return int(row[0])

    def titles(self, limit: int) -> list[tuple[str, str]]:
        """Title and id of at most `limit` documents that have a title, spread over all of them."""
        rows = self.database.execute(
            "SELECT title, id FROM documents WHERE title != '' ORDER BY number"
        ).fetchall()
        step = max(1, -(-len(rows) // limit))
        return [(str(title), str(id_)) for title, id_ in rows[::step]]

    def files(self) -> dict[str, tuple[str, int]]:
        """Path of each file -> its title, "" if it holds more than one document, and its chunks."""
        rows = self.database.execute(
            "SELECT d.source, iif(count(DISTINCT d.number) = 1, min(d.title), ''), count(*) "
            "FROM documents d JOIN chunks c ON c.document = d.number WHERE d.kind = 'file' "
            "GROUP BY d.source"
        )
        return {str(source): (str(title), int(chunks)) for source, title, chunks in rows}

    def newest(self) -> str:
        """Date of the newest document; "" without any."""
        row = self.database.execute(
            "SELECT published FROM documents ORDER BY published_at DESC LIMIT 1"
        ).fetchone()
        return "" if row is None else str(row[0])

    def _prepare(self) -> None:
        # fsync at every commit: an index must never be newer than the store after a power cut.
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self.database.execute(f"PRAGMA {pragma}")
        self.database.execute("PRAGMA recursive_triggers = ON")
        version = self._version()
        if version > VERSION:
            raise FormatError(
                _("{path} was made by a newer version of conscienceai.").format(path=self.path),
                hint=_("Install the newer version, then try again."),
            )
        if version == 0:
            with self.writing():
                if self._version() == 0:
                    self.database.executescript(
                        f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;"
                    )

    def _version(self) -> int:
        return int(self.database.execute("PRAGMA user_version").fetchone()[0])

    def _chunks_of(self, number: int) -> list[Chunk]:
        rows = self.database.execute(
            "SELECT start, stop FROM chunks WHERE document = ? ORDER BY number", (number,)
        )
        return [Chunk(*row) for row in rows]


def timestamp(published: str) -> float:
    """Seconds since the epoch of an ISO 8601 date; 0 of anything else."""
    try:
        found = datetime.fromisoformat(published)
    except ValueError:
        return 0.0
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _around(text: str, chunks: Sequence[Chunk], at: int) -> str:
    """What the chunks before and after the one at `at` have that it has not."""
    chunk = chunks[at]
    before = text[chunks[at - 1].start : chunk.start] if at else ""
    after = text[chunk.end : chunks[at + 1].end] if at + 1 < len(chunks) else ""
    return f"{before} {after}"


def clean(text: str) -> str:
    """`text` with lone surrogates replaced; its length stays."""
    return SURROGATES.sub("\ufffd", text)


def _clean(document: Document) -> Document:
    return replace(
        document,
        title=clean(document.title),
        text=clean(document.text),
        link=clean(document.link),
        source=clean(document.source),
        source_name=clean(document.source_name),
    )


def _searched(document: Document) -> tuple[str, ...]:
    """What chunks, words and vectors are made of."""
    return (
        document.title,
        document.text,
        document.language,
        document.published[:10],
        document.source_name,
    )


def _values(document: Document) -> tuple[object, ...]:
    return (
        document.id,
        document.revision,
        document.sha256,
        document.kind,
        document.source,
        document.source_name,
        document.title,
        document.text,
        document.link,
        document.published,
        timestamp(document.published),
        document.is_date_guessed,
        document.language,
        "\n".join(document.topics),
        document.ingested_at,
        document.priority,
    )


def _document(row: sqlite3.Row) -> Document:
    return Document(
        id=row["id"],
        revision=row["revision"],
        sha256=row["sha256"],
        kind=row["kind"],
        source=row["source"],
        source_name=row["source_name"],
        title=row["title"],
        text=row["text"],
        link=row["link"],
        published=row["published"],
        is_date_guessed=bool(row["is_date_guessed"]),
        language=row["language"],
        topics=tuple(filter(None, row["topics"].split("\n"))),
        ingested_at=row["ingested_at"],
        priority=row["priority"],
    )
