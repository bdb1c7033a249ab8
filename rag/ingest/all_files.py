"""Files and folders of the volunteer's, into the corpus: added, updated, taken out again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from federation.errors import FormatError, UsageError
from federation.language import _
from rag.corpus_rows import Removal
from rag.documents import Document
from rag.ingest.corpus import Corpus
from rag.ingest.entries import Entry
from rag.ingest.files import MAX_FILE_BYTES, SUFFIXES
from rag.ingest.harvest import NOTHING, TOPIC_CHARACTERS, Harvest, counted, put_again
from rag.ingest.identity import document_id
from rag.ingest.reader import Reader
from rag.ingest.topics import matching

MAX_FILES = 100_000
FilesOutcome = Literal["read", "unchanged", "removed", "failed"]


@dataclass(frozen=True)
class FileResult:
    """How one file fared; `removed` counts documents that are no longer in it."""

    path: str
    outcome: FilesOutcome
    harvest: Harvest = NOTHING
    removed: int = 0
    why: str = ""


@dataclass(frozen=True)
class FileTools:
    """What files are taken in with.

    Attributes:
        is_for_training: whether their texts may be learnt from.
    """

    corpus: Corpus
    reader: Reader
    topics: tuple[str, ...] = ()
    is_for_training: bool = False
    report: Callable[[FileResult], None] = lambda _result: None
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


def ingest_path(tools: FileTools, path: Path) -> list[FileResult]:
    """Take in a file, or all readable ones of a folder; take out what is no longer there.

    Raises:
        UsageError: there is no such path, and never was.
        ConscienceError: the corpus cannot be written.
    """
    place = path.expanduser().absolute()
    held = tools.corpus.sources_below(source_of(place))
    if not place.exists() and not held:
        raise UsageError(_("there is no file or folder {path}").format(path=path))
    results = []
    found = list(files_below(place))
    for each in found:
        results.append(_one(tools, each))
        tools.report(results[-1])
    for source in sorted(held - set(map(source_of, found))):
        results.append(_remove(tools, source))
        tools.report(results[-1])
    return results


def files_below(place: Path) -> Iterator[Path]:
    """The file itself, or the readable files of a folder in order; hidden ones are passed over."""
    if place.is_file():
        yield place
        return
    count = 0
    for folder, folders, names in os.walk(place):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder) / name
            is_wanted = path.suffix.lower() in SUFFIXES and not name.startswith(".")
            if is_wanted and path.is_file():
                count += 1
                if count > MAX_FILES:
                    return
                yield path


def source_of(path: Path) -> str:
    """A path as text, also where its name is none."""
    return os.fsencode(path).decode("utf-8", "replace")


def _one(tools: FileTools, path: Path) -> FileResult:
    source = source_of(path)
    try:
        facts = path.stat()
        stamp = f"{facts.st_size} {facts.st_mtime_ns} {tools.is_for_training}"
        row = tools.corpus.db.execute("SELECT stamp FROM files WHERE source = ?", (source,))
        if row.fetchone() == (stamp,):
            same = Harvest(same=len(tools.corpus.ids_of(source)))
            return FileResult(source, "unchanged", same)
        if facts.st_size > MAX_FILE_BYTES:
            sentence = _("it is larger than {size} MB").format(size=MAX_FILE_BYTES / 1e6)
            return FileResult(source, "failed", why=sentence)
        entries = tools.reader.file(path.read_bytes(), Path(source).name)
    except OSError as err:
        return FileResult(source, "failed", why=err.strerror or type(err).__name__)
    except FormatError as err:
        return FileResult(source, "failed", why=err.message)
    modified = datetime.fromtimestamp(facts.st_mtime, UTC)
    harvest, removed = _bring_in(tools, path, entries, modified, stamp)
    return FileResult(source, "read", harvest, removed)


def _bring_in(
    tools: FileTools, path: Path, entries: Sequence[Entry], modified: datetime, stamp: str
) -> tuple[Harvest, int]:
    source, harvest, seen = source_of(path), Harvest(), set[str]()
    before = tools.corpus.ids_of(source)
    with tools.corpus.batch():
        for entry in entries:
            document = _document(tools, path, entry, modified)
            if document.id in seen:
                continue
            seen.add(document.id)
            known = tools.corpus.known(document.id)
            outcome = "new"
            if known is None:
                tools.corpus.put(document)
            else:
                outcome = put_again(tools.corpus, document, known, None)
            harvest = counted(harvest, outcome, bool(document.topics))
        gone = sorted(before - seen)
        for name in gone:
            tools.corpus.put(Removal(name))
        tools.corpus.db.execute("INSERT OR REPLACE INTO files VALUES (?, ?)", (source, stamp))
    return harvest, len(gone)


def _remove(tools: FileTools, source: str) -> FileResult:
    ids = sorted(tools.corpus.ids_of(source))
    with tools.corpus.batch():
        for name in ids:
            tools.corpus.put(Removal(name))
        tools.corpus.db.execute("DELETE FROM files WHERE source = ?", (source,))
    return FileResult(source, "removed", removed=len(ids))


def _document(tools: FileTools, path: Path, entry: Entry, modified: datetime) -> Document:
    return Document(
        id=document_id(f"file {source_of(path)}", entry.key),
        revision=1,
        sha256=entry.sha256,
        kind="file",
        source=source_of(path),
        source_name=Path(source_of(path)).name,
        title=entry.title,
        text=entry.text,
        link=entry.link,
        published=entry.published or modified.isoformat(timespec="seconds"),
        is_date_guessed=not entry.published,
        language=entry.language,
        topics=matching(tools.topics, f"{entry.title}\n{entry.text[:TOPIC_CHARACTERS]}"),
        ingested_at=tools.now().isoformat(timespec="seconds"),
        is_for_training=tools.is_for_training,
    )
