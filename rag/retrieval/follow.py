"""Brings the store up to what the corpus file holds: from the byte it has read up to, in batches.

The file is append-only. A last line without its newline is left for later. If the file shrank, or
its beginning or the bytes just read are no longer what they were, it is read anew from the start:
documents that are as they were keep their chunks and vectors, and at the end those that the new
file does not have are taken out. The place is kept in the same transaction as what was read.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from federation.errors import FormatError
from rag.corpus_rows import Removal, from_line
from rag.retrieval.chunks import Cutter
from rag.retrieval.store import Store

logger = logging.getLogger(__name__)
WITNESS_BYTES = 4096  # of the file's beginning and of the end of what was read
BATCH_BYTES = 2 * 2**20


@dataclass(frozen=True)
class Followed:
    """What a pass over the corpus did.

    Attributes:
        put: documents added or changed.
        removed: documents taken out.
        unreadable: lines that are no rows, or of a newer format; passed over.
        is_anew: the file was read from its start although the store had read some of it.
    """

    put: int = 0
    removed: int = 0
    unreadable: int = 0
    is_anew: bool = False


def follow(
    corpus: Path,
    store: Store,
    cutter: Cutter,
    *,
    anew: bool = False,
    report: Callable[[int, int], None] = lambda _done, _size: None,
) -> Followed:
    """Read what was appended to `corpus` since the last time; inside `store.writing()`.

    Args:
        corpus: JSON Lines; a file that is missing is as one without rows.
        store: brought up to it.
        cutter: cuts new and changed documents.
        anew: read it from its start, as if it had been replaced.
        report: called after each batch with bytes read and the file's size.
    """
    if not corpus.exists():
        return _forget_all(store)
    total = Followed()
    with corpus.open("rb") as file:
        size = file.seek(0, 2)
        if anew or not _is_as_read(file, size, store):
            is_first = store.meta("corpus.offset", "0") == "0"
            total = Followed(is_anew=not is_first)
            _start_over(store)
        for lines, end in _batches(file, int(store.meta("corpus.offset", "0"))):
            with store.transaction():
                total = _take(lines, store, cutter, total)
                store.set_meta("corpus.offset", str(end))
                store.set_meta("corpus.witness", _witness(file, end))
            report(end, size)
        removed = _end_pass(store)
    return Followed(total.put, total.removed + removed, total.unreadable, total.is_anew)


def unread_bytes(corpus: Path, store: Store) -> int:
    """Bytes of whole lines that the store has not read; all of them if it must start anew."""
    if not corpus.exists():
        return 0
    with corpus.open("rb") as file:
        size = file.seek(0, 2)
        start = int(store.meta("corpus.offset", "0")) if _is_as_read(file, size, store) else 0
        return sum(len(line) for lines, _end in _batches(file, start) for line in lines)


def _take(lines: list[bytes], store: Store, cutter: Cutter, total: Followed) -> Followed:
    put, removed, unreadable = total.put, total.removed, total.unreadable
    reading = int(store.meta("corpus.reading", "0"))
    for line in lines:
        try:
            entry = from_line(line.decode("utf-8"))
        except (FormatError, UnicodeDecodeError) as err:
            logger.warning("a line of the corpus was passed over: %s", type(err).__name__)
            unreadable += 1
            continue
        if isinstance(entry, Removal):
            store.remove(entry.id)
            removed += 1
        elif store.document(entry.id) == entry:
            store.touch(entry.id, reading=reading)
        else:
            store.put(entry, cutter.cut(entry), cut=cutter.stamp, reading=reading)
            put += 1
    found = int(store.meta("corpus.unreadable", "0")) + unreadable - total.unreadable
    store.set_meta("corpus.unreadable", str(found))
    return Followed(put, removed, unreadable, total.is_anew)


def _batches(file: BinaryIO, start: int) -> Iterator[tuple[list[bytes], int]]:
    """Whole lines from `start` on, some megabytes at a time, and where each batch ends."""
    end = start
    lines: list[bytes] = []
    held = 0
    file.seek(start)
    for line in iter(file.readline, b""):
        if not line.endswith(b"\n"):
            break
        end += len(line)
        held += len(line)
        lines.append(line)
        if held >= BATCH_BYTES:
            yield lines, end
            lines, held = [], 0
            file.seek(end)
    if lines:
        yield lines, end


def _is_as_read(file: BinaryIO, size: int, store: Store) -> bool:
    offset = int(store.meta("corpus.offset", "0"))
    witness = store.meta("corpus.witness")
    return offset <= size and (_witness(file, offset) if offset else "") == witness


def _witness(file: BinaryIO, offset: int) -> str:
    """Hash of the file's beginning and of the last bytes before `offset`."""
    length = min(offset, WITNESS_BYTES)
    file.seek(0)
    first = file.read(length)
    file.seek(offset - length)
    return hashlib.sha256(first + file.read(length)).hexdigest()


def _start_over(store: Store) -> None:
    with store.transaction():
        store.set_meta("corpus.offset", "0")
        store.set_meta("corpus.witness", "")
        store.set_meta("corpus.unreadable", "0")
        store.set_meta("corpus.reading", str(int(store.meta("corpus.reading", "0")) + 1))


def _end_pass(store: Store) -> int:
    """Take out what an earlier file had and this one has not."""
    reading = int(store.meta("corpus.reading", "0"))
    if store.meta("corpus.swept", "0") == str(reading):
        return 0
    with store.transaction():
        removed = store.remove_unread(reading)
        store.set_meta("corpus.swept", str(reading))
    return removed


def _forget_all(store: Store) -> Followed:
    if store.count("documents") == 0:
        return Followed()
    _start_over(store)
    return Followed(removed=_end_pass(store), is_anew=True)
