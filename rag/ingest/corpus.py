"""The corpus: one append-only file, and an index beside it that says what is in there.

The file is the truth. What is appended is on disk before the index hears of it, so a killed run
leaves at most an index that is behind and a torn last line: opening cuts the line back and reads
on from where the index stopped. An index that fits no such file is made anew from it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self

from federation import durable
from federation.errors import ConscienceError, FormatError
from federation.language import _
from rag.corpus_rows import Removal, from_line, to_line
from rag.documents import Document
from rag.ingest import duplicates

logger = logging.getLogger(__name__)

INDEX_FORMAT = duplicates.FORMAT
TAIL_BYTES = 4096  # so much of the file before the index's place must be as it was
READ_BYTES = 4_000_000
CACHE_KIB = 16_000  # an index of some ten thousand documents
# `alike.row` is the rowid of a document; a VACUUM would give others, so this file never gets one.
_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS documents (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, source TEXT NOT NULL, revision INTEGER NOT NULL,
    sha256 TEXT NOT NULL, link TEXT NOT NULL, train INTEGER NOT NULL, sketch TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS documents_sha256 ON documents (sha256);
CREATE INDEX IF NOT EXISTS documents_source ON documents (source);
CREATE TABLE IF NOT EXISTS alike (
    band INTEGER NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (band, row)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (source TEXT PRIMARY KEY, stamp TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS feeds (key TEXT PRIMARY KEY, state TEXT NOT NULL);
"""


class Known(NamedTuple):
    """What the index holds of a document."""

    revision: int
    sha256: str
    is_for_training: bool


class Corpus:
    """The corpus and its index, held by one process. A context manager.

    Args:
        path: the file; made at the first append.
        index: SQLite file; feeds' states live in it too.
    """

    def __init__(self, path: Path, index: Path) -> None:
        self.path = path
        self._index = index

    def __enter__(self) -> Self:
        durable.make_folder(self._index.parent)
        self.db = _open(self._index)
        _cut_torn_line(self.path)
        self._catch_up()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.db.close()

    def known(self, document_id: str) -> Known | None:
        """The present revision of a document; None if the corpus does not hold it."""
        query = "SELECT revision, sha256, train FROM documents WHERE id = ?"
        row = self.db.execute(query, (document_id,)).fetchone()
        return None if row is None else Known(int(row[0]), str(row[1]), bool(row[2]))

    def known_among(self, names: Iterable[str]) -> dict[str, Known]:
        """As `known`, of many documents at once; those that are not held are left out."""
        query = (
            "SELECT id, revision, sha256, train FROM documents "
            "WHERE id IN (SELECT value FROM json_each(?))"
        )
        rows = self.db.execute(query, (json.dumps(list(names)),))
        return {str(row[0]): Known(int(row[1]), str(row[2]), bool(row[3])) for row in rows}

    def texts_among(self, hashes: Iterable[str]) -> set[str]:
        """Those of `hashes` that are the sha256 of a document."""
        query = (
            "SELECT value FROM json_each(?) "
            "WHERE EXISTS (SELECT 1 FROM documents WHERE sha256 = value)"
        )
        return {str(row[0]) for row in self.db.execute(query, (json.dumps(list(hashes)),))}

    def count(self) -> int:
        """How many documents there are."""
        return int(self.db.execute("SELECT count(*) FROM documents").fetchone()[0])

    def sources_below(self, folder: str) -> set[str]:
        """Files whose documents are held: `folder` itself, or those in it."""
        below = folder.rstrip(os.sep) + os.sep
        query = "SELECT DISTINCT source FROM documents WHERE kind = 'file'"
        found = {str(row[0]) for row in self.db.execute(query)}
        return {source for source in found if source == folder or source.startswith(below)}

    def ids_of(self, source: str) -> set[str]:
        """Documents of one feed or file."""
        rows = self.db.execute("SELECT id FROM documents WHERE source = ?", (source,))
        return {str(row[0]) for row in rows}

    @contextmanager
    def batch(self) -> Iterator[None]:
        """All that is `put` in the block, in the file and in the index, or nothing of it.

        Raises:
            ConscienceError: the file cannot be written; it is as it was.
        """
        self.db.execute("BEGIN IMMEDIATE")
        self._lines: list[str] = []
        self._bands: list[tuple[int, int | None]] = []
        try:
            yield
            self._keep_bands()
            if self._lines:
                data = "".join(self._lines).encode("utf-8", "replace")
                self._remember(_append(self.path, data))
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    def put(self, entry: Document | Removal, sketch: str | None = None) -> None:
        """Add a revision or a removal, inside a `batch`.

        Args:
            entry: to be written.
            sketch: of its text; None: computed here.
        """
        self._note(entry, sketch)
        self._lines.append(to_line(entry) + "\n")

    def add(self, document: Document, sketch: str) -> None:
        """`put` of a document that the corpus does not hold; quicker."""
        self._insert(document, sketch)
        self._lines.append(to_line(document) + "\n")

    def relabel(self, source: str, *, is_for_training: bool) -> int:
        """Write the documents of a source again where the owner has thought better of training.

        Returns:
            How many were; their revisions stay.
        """
        query = "SELECT id FROM documents WHERE source = ? AND train != ?"
        wanted = {str(row[0]) for row in self.db.execute(query, (source, is_for_training))}
        if not wanted:
            return 0
        last: dict[str, Document] = {}
        with self.path.open("rb") as file:
            for line in file:
                with suppress(FormatError):
                    entry = from_line(line.decode("utf-8", "replace"))
                    if isinstance(entry, Document) and entry.id in wanted:
                        last[entry.id] = entry
        with self.batch():
            for entry in last.values():
                self.put(replace(entry, is_for_training=is_for_training))
        return len(last)

    def _catch_up(self) -> None:
        size = self.path.stat().st_size if self.path.exists() else 0
        start = int(self._fact("end") or 0)
        fits = start <= size and self._fact("tail") == _tail(self.path, start)
        if self._fact("format") != INDEX_FORMAT or not fits:
            logger.info("the index is made anew from %s", self.path.name)
            start = 0
            with self.batch():
                self._forget()
        if start < size:
            self._read_on(start)

    def _forget(self) -> None:
        """Know no document, and let each feed be read whole again."""
        self.db.execute("DROP TABLE IF EXISTS bands")  # of format 1
        for table in ("documents", "alike", "files"):
            self.db.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
        blank = ", ".join(
            f"'$.{name}', ''" for name in ("etag", "modified", "body_sha256", "next_at")
        )
        self.db.execute(f"UPDATE feeds SET state = json_set(state, {blank})")  # noqa: S608 - likewise
        self._set_fact("format", INDEX_FORMAT)
        self._remember(0)

    def _read_on(self, start: int) -> None:
        with self.path.open("rb") as file:
            file.seek(start)
            while lines := file.readlines(READ_BYTES):
                with self.batch():
                    for line in lines:
                        self._note_line(line)
                    start += sum(map(len, lines))
                    self._remember(start)

    def _note_line(self, line: bytes) -> None:
        try:
            self._note(from_line(line.decode("utf-8", "replace")), None)
        except FormatError as err:
            logger.warning("a line of %s is passed over: %s", self.path.name, err)

    def _note(self, entry: Document | Removal, sketch: str | None) -> None:
        self._leave_bands(entry.id)
        if isinstance(entry, Removal):
            self.db.execute("DELETE FROM documents WHERE id = ?", (entry.id,))
            return
        if sketch is None:
            is_feed = entry.kind == "feed"
            sketch = duplicates.sketch(f"{entry.title}\n{entry.text}") if is_feed else ""
        self._insert(entry, sketch)

    def _insert(self, entry: Document, sketch: str) -> None:
        names = (entry.id, entry.kind, entry.source)
        values = (entry.revision, entry.sha256, entry.link, entry.is_for_training, sketch)
        marks = "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        place = self.db.execute(marks, (*names, *values)).lastrowid
        self._bands += [(band, place) for band in duplicates.bands(sketch)]

    def _keep_bands(self) -> None:
        """All of a batch at once and in their order: half of the time that one by one takes."""
        self.db.executemany("INSERT INTO alike VALUES (?, ?)", sorted(self._bands))
        self._bands = []

    def _leave_bands(self, name: str) -> None:
        """Forget the sketch of an earlier revision."""
        self._keep_bands()
        query = "SELECT rowid, sketch FROM documents WHERE id = ?"
        place, sketch = self.db.execute(query, (name,)).fetchone() or (0, "")
        pairs = [(band, place) for band in duplicates.bands(sketch)]
        self.db.executemany("DELETE FROM alike WHERE band = ? AND row = ?", pairs)

    def _remember(self, end: int) -> None:
        self._set_fact("end", str(end))
        self._set_fact("tail", _tail(self.path, end))

    def _fact(self, name: str) -> str:
        row = self.db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return "" if row is None else str(row[0])

    def _set_fact(self, name: str, value: str) -> None:
        self.db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))


@contextmanager
def open_corpus(path: Path, index: Path) -> Iterator[Corpus]:
    """The corpus for one process alone.

    Raises:
        ConscienceError: another one holds it.
    """
    busy = _("Another ingest is running.")
    with (
        durable.locked(index.with_suffix(".lock"), timeout_s=0.5, busy=busy),
        Corpus(path, index) as corpus,
    ):
        yield corpus


def _open(path: Path) -> sqlite3.Connection:
    try:
        return _connect(path)
    except sqlite3.DatabaseError:
        logger.warning("%s is damaged and is made anew", path.name)
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, durable.PRIVATE_FILE))
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        db.executescript(_TABLES)
    except BaseException:
        db.close()
        raise
    return db


def _append(path: Path, data: bytes) -> int:
    """Append durably; returns where the file ends now."""
    durable.make_folder(path.parent)
    is_new = not path.exists()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, durable.PRIVATE_FILE)
    try:
        start = os.fstat(handle).st_size
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    except OSError as err:
        os.ftruncate(handle, start)
        sentence = _("{name} could not be written ({why}).").format(
            name=path.name, why=err.strerror
        )
        raise ConscienceError(sentence, hint=_("Is the disk full?")) from err
    finally:
        os.close(handle)
    end = start + len(data)
    if is_new:
        durable.sync_folder(path.parent)
    return end


def _cut_torn_line(path: Path) -> None:
    """Take back what an ended process left after the last newline."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65_536)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            logger.warning("%s: %d bytes of a torn line are cut back", path.name, size - end)
            file.truncate(end)
            os.fsync(file.fileno())


def _tail(path: Path, end: int) -> str:
    """Hash of the bytes right before `end`."""
    if not path.exists():
        return hashlib.sha256(b"").hexdigest()
    with path.open("rb") as file:
        file.seek(max(0, end - TAIL_BYTES))
        return hashlib.sha256(file.read(min(end, TAIL_BYTES))).hexdigest()
