"""What was said: sessions and turns in one SQLite file of the user's own (WAL).

Each turn is on disk when `add` returns, so a killed chat loses at most the one that was running.
The file is opened for each call and closed after it: a chat that runs never holds on to what
`forget` took away. Nothing here is training data, unless its session was marked so.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from federation import durable
from federation.errors import FormatError, UsageError
from federation.language import _
from rag.answer.words import language_of, stems
from rag.retrieval.stems import ALGORITHMS

VERSION = 1
KEPT_TURNS = 100  # of each session
LOADED_TURNS = 20
TITLE_LENGTH = 60
BUSY_S = 30.0
DAY_S = 86_400.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
  id TEXT PRIMARY KEY, title TEXT NOT NULL, created REAL NOT NULL, updated REAL NOT NULL,
  train INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS turns (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  session TEXT NOT NULL REFERENCES sessions(id) ON DELETE CASCADE,
  role TEXT NOT NULL, content TEXT NOT NULL, ts REAL NOT NULL, message_id TEXT NOT NULL,
  sources TEXT NOT NULL, adapter TEXT NOT NULL, metrics TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS turns_of ON turns(session, id);
CREATE VIRTUAL TABLE IF NOT EXISTS said USING fts5(stems, tokenize = 'unicode61');
"""


@dataclass(frozen=True)
class Turn:
    """One message of a conversation.

    Attributes:
        ts: seconds since 1970.
        id: of the row; 0 before it is written.
        session: id of its session; "" before it is written.
        message_id: of the answer it belongs to.
        sources: of an answer, as in `Answer.to_json`.
        adapter: version that wrote it.
        metrics: of an answer.
    """

    role: Literal["user", "assistant"]
    content: str
    ts: float
    id: int = 0
    session: str = ""
    message_id: str = ""
    sources: tuple[Mapping[str, Any], ...] = ()
    adapter: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Session:
    """A conversation; `train` is true only if the user said that it may be trained on."""

    id: str
    title: str
    created: float
    updated: float
    turns: int
    train: bool


class Memory:
    """Conversations in `path`; the file is made, private, when the first turn is written.

    Args:
        path: of the SQLite file.
        keep_days: turns older than this go when a session begins; 0 keeps them.
        keep_turns: of each session; older ones go as new ones come.
    """

    def __init__(self, path: Path, *, keep_days: int = 0, keep_turns: int = KEPT_TURNS) -> None:
        self.path = path
        self._keep_days = keep_days
        self._keep_turns = keep_turns

    def begin(self, *, train: bool = False, now: float | None = None) -> str:
        """Start a session; returns its id, 128 random bits. What is too old goes."""
        moment = time.time() if now is None else now
        session = secrets.token_hex(16)
        with self._writing() as base:
            _make_session(base, session, "", moment)
            base.execute("UPDATE sessions SET train = ? WHERE id = ?", (train, session))
        if self._keep_days:
            self.forget(before=moment - self._keep_days * DAY_S)
        return session

    def add(self, session: str, *turns: Turn) -> None:
        """Write the turns of one exchange, all or none; they are on disk when this returns.

        A session that was forgotten meanwhile begins anew under its id.
        """
        with self._writing() as base:
            first = next((turn.content for turn in turns if turn.role == "user"), "")
            _make_session(base, session, _title(first), turns[0].ts)
            for turn in turns:
                _write_turn(base, session, turn)
            updated = {"at": turns[-1].ts, "title": _title(first), "session": session}
            base.execute(
                "UPDATE sessions SET updated = :at, title = CASE title WHEN '' THEN :title "
                "ELSE title END WHERE id = :session",
                updated,
            )
            _drop_turns(
                base,
                "session = ? AND id NOT IN "
                "(SELECT id FROM turns WHERE session = ? ORDER BY id DESC LIMIT ?)",
                (session, session, self._keep_turns),
            )

    def sessions(self) -> list[Session]:
        """All that hold a turn, the latest first."""
        query = (
            "SELECT s.id, s.title, s.created, s.updated, COUNT(t.id), s.train FROM sessions s "
            "JOIN turns t ON t.session = s.id GROUP BY s.id ORDER BY s.updated DESC, s.id"
        )
        return [
            Session(row[0], row[1], row[2], row[3], row[4], train=bool(row[5]))
            for row in self._read(query)
        ]

    def turns(self, session: str, *, last: int = -1) -> list[Turn]:
        """Turns of a session, oldest first; only the `last` ones if that is not negative."""
        query = "SELECT * FROM turns WHERE session = ? ORDER BY id DESC LIMIT ?"
        return [_turn(row) for row in reversed(self._read(query, (session, last)))]

    def search(self, text: str, *, limit: int = 10, without: Sequence[int] = ()) -> list[Turn]:
        """The user's own messages that share words with `text`, best first.

        Args:
            text: a question.
            limit: at most so many.
            without: ids of turns to pass over.
        """
        terms = " OR ".join(f'"{term}"' for term in dict.fromkeys(_stems(text)))
        if not terms:
            return []
        query = (
            "SELECT t.* FROM said JOIN turns t ON t.id = said.rowid WHERE said MATCH ? "
            "ORDER BY bm25(said), t.id DESC LIMIT ?"
        )
        rows = self._read(query, (terms, limit + len(without)))
        return [_turn(row) for row in rows if row["id"] not in set(without)][:limit]

    def mark_for_training(self, session: str, *, train: bool) -> None:
        """Say whether a session may be trained on.

        Raises:
            UsageError: no such session.
        """
        with self._writing() as base:
            asked = base.execute("UPDATE sessions SET train = ? WHERE id = ?", (train, session))
            if not asked.rowcount:
                raise UsageError(_("there is no session {id}").format(id=session))

    def for_training(self) -> list[Turn]:
        """Turns of the sessions marked so, and of no other."""
        query = (
            "SELECT t.* FROM turns t JOIN sessions s ON s.id = t.session "
            "WHERE s.train = 1 ORDER BY t.id"
        )
        return [_turn(row) for row in self._read(query)]

    def forget(self, session: str = "", *, before: float = 0.0) -> int:
        """Delete a session, or turns before a moment, and wipe where they stood in the file.

        Returns:
            How many turns went.
        """
        if not self.path.is_file():
            return 0
        with self._writing() as base:
            if session:
                gone = _drop_turns(base, "session = ?", (session,))
            else:
                gone = _drop_turns(base, "ts < ?", (before,))
            base.execute(
                "DELETE FROM sessions WHERE id NOT IN (SELECT session FROM turns) "
                "AND (id = ? OR updated < ?)",
                (session, before),
            )
        if gone:
            self._wipe()
        return gone

    def forget_all(self) -> int:
        """Delete everything and the file itself; returns how many turns went."""
        if not self.path.is_file():
            return 0
        gone = self.forget(before=float("inf"))
        with self._lock():
            for suffix in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            durable.sync_folder(self.path.parent)
        return gone

    def to_json(self, session: str = "") -> dict[str, Any]:
        """Everything, or one session, as a JSON object."""
        chosen = [entry for entry in self.sessions() if session in ("", entry.id)]
        return {
            "format": VERSION,
            "sessions": [
                {**asdict(entry), "turns": [asdict(turn) for turn in self.turns(entry.id)]}
                for entry in chosen
            ],
        }

    def _wipe(self) -> None:
        with self._lock(), closing(self._connect()) as base:
            base.execute("INSERT INTO said(said) VALUES ('optimize')")
            base.execute("VACUUM")
            base.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _read(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        if not self.path.is_file():
            return []
        with closing(self._connect()) as base:
            return base.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        durable.make_folder(self.path.parent)
        with self._lock():
            if not self.path.exists():
                os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, durable.PRIVATE_FILE))
            with closing(self._connect()) as base:
                base.execute("BEGIN IMMEDIATE")
                try:
                    yield base
                except BaseException:
                    base.execute("ROLLBACK")
                    raise
                base.execute("COMMIT")

    def _lock(self) -> Any:  # noqa: ANN401 - a context manager
        path = self.path.with_name(f".{self.path.name}.lock")
        busy = _("the memory is in use by another program")
        return durable.locked(path, timeout_s=BUSY_S, busy=busy)

    def _connect(self) -> sqlite3.Connection:
        base = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        base.row_factory = sqlite3.Row
        try:
            version = base.execute("PRAGMA user_version").fetchone()[0]
            if version < VERSION:
                base.executescript(f"{_SCHEMA} PRAGMA user_version = {VERSION};")
            base.executescript(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;"
                "PRAGMA foreign_keys = ON;"
            )
        except sqlite3.DatabaseError as err:
            base.close()
            text = _("{path} is not a memory of ours ({why})").format(path=self.path, why=err)
            raise FormatError(text, hint=_("Move it away.")) from err
        if version > VERSION:
            base.close()
            text = _("{path} was made by a newer version of conscienceai").format(path=self.path)
            raise FormatError(text, hint=_("Install the newer version, then try again."))
        return base


def _make_session(base: sqlite3.Connection, session: str, title: str, now: float) -> None:
    row = (session, title, now, now)
    base.execute("INSERT OR IGNORE INTO sessions VALUES (?, ?, ?, ?, 0)", row)


def _write_turn(base: sqlite3.Connection, session: str, turn: Turn) -> None:
    sources = json.dumps([dict(source) for source in turn.sources], ensure_ascii=False)
    metrics = json.dumps(dict(turn.metrics), ensure_ascii=False)
    row = (session, turn.role, turn.content, turn.ts, turn.message_id, sources, turn.adapter)
    written = base.execute("INSERT INTO turns VALUES (NULL,?,?,?,?,?,?,?,?)", (*row, metrics))
    if turn.role == "user":
        stemmed = " ".join(_stems(turn.content))
        base.execute("INSERT INTO said(rowid, stems) VALUES (?, ?)", (written.lastrowid, stemmed))


def _drop_turns(base: sqlite3.Connection, where: str, values: Sequence[Any]) -> int:
    query = f"SELECT id FROM turns WHERE {where}"  # noqa: S608 - a literal of this file
    ids = [(row[0],) for row in base.execute(query, values)]
    base.executemany("DELETE FROM said WHERE rowid = ?", ids)
    base.executemany("DELETE FROM turns WHERE id = ?", ids)
    return len(ids)


def _turn(row: sqlite3.Row) -> Turn:
    return Turn(
        role=row["role"],
        content=row["content"],
        ts=row["ts"],
        id=row["id"],
        session=row["session"],
        message_id=row["message_id"],
        sources=tuple(json.loads(row["sources"])),
        adapter=row["adapter"],
        metrics=json.loads(row["metrics"]),
    )


def _stems(text: str) -> list[str]:
    """By the rules of each language: a few words do not tell which one they are of."""
    language = language_of(text)
    found = (one for rules in ALGORITHMS for one in stems(text, language, stem_as=rules))
    return [one.partition(":")[2] for one in found]  # without the mark of the language


def _title(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= TITLE_LENGTH else f"{line[: TITLE_LENGTH - 1].rstrip()}…"
