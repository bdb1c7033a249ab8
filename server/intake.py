"""The ledger of packages: each is used once, and each node learns what became of its own.

States: spooled → merged(vN) | refused(code, detail) | expired. Final states never change. A package
is known by (sha256, node): a refusal earned by someone who hands over a copy of another node's
package must not fall on its owner. A merge counts for the content, whoever brought it.
The truth about merges is the registry's manifests; `reconcile` repairs this ledger from them.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from federation import durable
from federation.protocol import Verdict

State = Literal["spooled", "merged", "refused", "expired"]
_REASON_LENGTH = 400
_SCHEMA = """
CREATE TABLE IF NOT EXISTS packages (
    sha256 TEXT NOT NULL, node TEXT NOT NULL, state TEXT NOT NULL,
    version INTEGER, code TEXT NOT NULL DEFAULT '', detail TEXT NOT NULL DEFAULT '',
    at REAL NOT NULL, acknowledged INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (sha256, node)
) STRICT;
CREATE INDEX IF NOT EXISTS by_node ON packages (node, acknowledged);
PRAGMA user_version = 1;
"""


class MergedInputs(Protocol):
    """What `reconcile` needs of the registry."""

    def merged_inputs(self) -> Mapping[str, int]:
        """Package sha256 -> version."""


@dataclass(frozen=True)
class Record:
    """What is known of one package of one node.

    Attributes:
        version: the version it was merged into; None otherwise.
        code: a refusal's code (`federation.adapter.checks.Refusal`); "" otherwise.
    """

    sha256: str
    node: str
    state: State
    version: int | None
    code: str
    detail: str


class Intake:
    """The ledger in one SQLite file; safe to open from several processes."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        durable.make_folder(path.parent)
        self._path = path
        self._clock = clock
        with self._transaction() as db:
            db.executescript(_SCHEMA)
        path.chmod(durable.PRIVATE_FILE)

    def record(self, sha256: str, node: str) -> Record | None:
        """What is known of `node`'s package."""
        return next(iter(self._records("sha256 = ? AND node = ?", (sha256, node))), None)

    def spooled(self) -> list[Record]:
        """Packages received and not yet judged, by hash."""
        return self._records("state = 'spooled'", ())

    def settled(self, sha256: str, node: str = "") -> bool:
        """Whether this package must not be taken (again).

        Args:
            sha256: the package.
            node: who hands it over; "" asks for a final verdict on anybody's copy. Naming the
                node keeps a refusal of somebody else's copy from counting against it.
        """
        held = self._records("sha256 = ? AND state != 'spooled'", (sha256,))
        return any(node in ("", r.node) or r.state == "merged" for r in held)

    def record_spooled(self, sha256: str, *, node: str) -> bool:
        """Note a package as received; False (and nothing changes) if it is `settled`."""
        if self.settled(sha256, node):
            return False
        self._write((sha256, node, "spooled", None, "", ""))
        return True

    def record_merged(self, sha256: str, *, node: str, version: int) -> None:
        """Note a package as merged into `version`."""
        self._write((sha256, node, "merged", version, "", ""))

    def record_refused(self, sha256: str, *, node: str, code: str, detail: str) -> None:
        """Note a package as refused; a merged one stays merged."""
        self._write((sha256, node, "refused", None, code, detail[:_REASON_LENGTH]))

    def record_expired(self, sha256: str, *, node: str, detail: str) -> None:
        """Note a package as too old to be used."""
        self._write((sha256, node, "expired", None, "stale", detail[:_REASON_LENGTH]))

    def verdicts_for(self, node: str, offered: Iterable[str] = ()) -> tuple[Verdict, ...]:
        """What `node` has not acknowledged yet, and final news on any package it still offers."""
        wanted = set(offered)
        settled = self._records("node = ? AND state != 'spooled'", (node,))
        open_ones = set(self._unacknowledged(node))
        return tuple(
            _verdict(record)
            for record in settled
            if record.sha256 in wanted or record.sha256 in open_ones
        )

    def acknowledge(self, node: str, shas: Iterable[str]) -> None:
        """Note that `node` has heard the verdicts on `shas`."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE packages SET acknowledged = 1 "
                "WHERE node = ? AND sha256 = ? AND state != 'spooled'",
                [(node, sha) for sha in shas],
            )

    def reconcile(self, registry: MergedInputs) -> int:
        """Mark as merged whatever the registry's manifests name.

        Returns:
            How many records were behind (a round was killed between registry and ledger).
        """
        merged = registry.merged_inputs()
        with self._transaction() as db:
            rows = db.execute("SELECT sha256, version FROM packages WHERE state != 'merged'")
            behind = [(merged[sha], sha) for sha, _ in rows.fetchall() if sha in merged]
            cursor = db.executemany(
                "UPDATE packages SET state = 'merged', version = ?, acknowledged = 0 "
                "WHERE sha256 = ? AND state = 'spooled'",
                behind,
            )
            return max(cursor.rowcount, 0)

    def counts(self) -> dict[str, dict[str, int]]:
        """Packages per node and state."""
        with self._transaction() as db:
            rows = db.execute("SELECT node, state, COUNT(*) FROM packages GROUP BY node, state")
            found: dict[str, dict[str, int]] = {}
            for node, state, count in rows.fetchall():
                found.setdefault(node, {})[state] = int(count)
        return found

    def _unacknowledged(self, node: str) -> list[str]:
        return [r.sha256 for r in self._records("node = ? AND acknowledged = 0", (node,))]

    def _records(self, where: str, values: tuple[object, ...]) -> list[Record]:
        columns = "sha256, node, state, version, code, detail"
        query = f"SELECT {columns} FROM packages WHERE {where} ORDER BY at, sha256"  # noqa: S608 (constants of ours)
        with self._transaction() as db:
            return [Record(*row) for row in db.execute(query, values).fetchall()]

    def _write(self, row: tuple[object, ...]) -> None:
        """Insert, or move a spooled record on; final states stay as they are."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO packages (sha256, node, state, version, code, detail, at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (sha256, node) DO UPDATE SET state = excluded.state, "
                "version = excluded.version, code = excluded.code, "
                "detail = excluded.detail, at = excluded.at, acknowledged = 0 "
                "WHERE packages.state = 'spooled'",
                (*row, self._clock()),
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._path, timeout=30.0)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            with db:
                yield db
        finally:
            db.close()


def _verdict(record: Record) -> Verdict:
    if record.state == "spooled":
        raise ValueError(f"package {record.sha256[:12]} is not settled")
    reason = record.detail if not record.code else f"{record.code}: {record.detail}"
    return Verdict(
        sha256=record.sha256,
        state=record.state,
        version=record.version,
        reason=reason[:_REASON_LENGTH],
    )
