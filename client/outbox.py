"""Packages waiting to be handed over, and what became of each: durable against kill and power cut.

States only move forward, and the last three are final:

    waiting → handed_over → merged | refused | expired

`handed_over` means only that the bytes were sent. The package stays on disk and is offered again
until a verdict arrives; the server takes a hash once. A package's file is durable before its row
is; a row is final before its file is removed. Opening the outbox mends whatever a kill left.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from client.config import NodeConfig, NodeHome
from federation import durable
from federation.adapter.manifest import PackageManifest
from federation.adapter.package import open_package
from federation.errors import AdapterError, FormatError, UsageError
from federation.language import _
from federation.protocol import Verdict

State = Literal["waiting", "handed_over", "merged", "refused", "expired"]
FINAL: tuple[State, ...] = ("merged", "refused", "expired")
DATABASE = "outbox.sqlite"
FEEDBACK = ".feedback"
_TABLE = """
CREATE TABLE IF NOT EXISTS packages (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    sha256 TEXT NOT NULL UNIQUE,
    global_version INTEGER NOT NULL,
    examples INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    state TEXT NOT NULL,
    version INTEGER,
    reason TEXT NOT NULL DEFAULT '',
    created_at REAL NOT NULL,
    changed_at REAL NOT NULL
)
"""
_COLUMNS = (
    "sha256, global_version, examples, size_bytes, state, version, reason, created_at, changed_at"
)


@dataclass(frozen=True)
class Entry:
    """One package and its state.

    Attributes:
        global_version: the version it was trained from.
        version: the version it was merged into, if it was.
        created_at: seconds since the epoch; stays on this machine.
        changed_at: when the state last changed.
    """

    sha256: str
    global_version: int
    examples: int
    size_bytes: int
    state: State
    version: int | None
    reason: str
    created_at: float
    changed_at: float

    @property
    def is_final(self) -> bool:
        """Whether nothing more can happen to it."""
        return self.state in FINAL


class Outbox:
    """The outbox folder of one node; safe to open from several processes.

    Args:
        folder: made if missing, private.
        max_bytes: bound on the packages kept, all together.
        clock: seconds since the epoch.
    """

    def __init__(
        self, folder: Path, *, max_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.folder = durable.make_folder(folder)
        self.max_bytes = max_bytes
        self._clock = clock
        with self._locked():
            self._database = _connect(folder / DATABASE)
            self._mend()

    def __enter__(self) -> Outbox:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database; the outbox can be opened again."""
        self._database.close()

    def put(
        self, data: bytes, manifest: PackageManifest, *, feedback: bytes | None = None
    ) -> Entry:
        """Keep a package; the same bytes twice are one entry.

        Args:
            data: the package.
            manifest: the one inside it.
            feedback: what its coding lost (`federation.adapter.delta.encode`), as safetensors;
                private, never sent.

        Raises:
            AdapterError: no room, even without the packages that still wait.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        with self._locked():
            known = self._find(sha256)
            if known is not None:
                return known
            self._make_room(len(data))
            if feedback is not None:
                durable.write_bytes(self._feedback(sha256), feedback)
            durable.write_bytes(self._file(sha256), data)
            self._insert(sha256, manifest, len(data))
            return self._get(sha256)

    def offers(self) -> list[Entry]:
        """Packages without a verdict, oldest first; any whose file is damaged is expired here."""
        with self._locked():
            for entry in self._open_entries():
                if not self._is_intact(entry):
                    self._finish(entry.sha256, "expired", _("the package file is damaged"))
            return self._open_entries()

    def read(self, sha256: str) -> bytes:
        """Read the package.

        Raises:
            UsageError: there is no such package.
            FormatError: its file is missing or damaged.
        """
        entry = self._get(sha256)
        path = self._file(sha256)
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != sha256:
            raise FormatError(f"the file of package {entry.sha256[:12]} is missing or damaged")
        return data

    def hand_over(self, sha256: str) -> None:
        """Note that the package was sent; a later state is left as it is.

        Raises:
            UsageError: there is no such package.
        """
        self._get(sha256)
        self._change(sha256, "handed_over")

    def settle(self, sha256: str, verdict: Verdict) -> None:
        """Take the server's verdict; unknown packages and final states are left alone."""
        with self._locked():
            self._finish(sha256, verdict.state, verdict.reason, verdict.version)

    def expire(self, reason: str, predicate: Callable[[Entry], bool]) -> list[Entry]:
        """Give up the packages without a verdict for which `predicate` holds; returns them."""
        with self._locked():
            chosen = [entry for entry in self._open_entries() if predicate(entry)]
            for entry in chosen:
                self._finish(entry.sha256, "expired", reason)
            return [self._get(entry.sha256) for entry in chosen]

    def drop(self, sha256: str) -> Entry:
        """Give up a waiting package because its owner says so.

        Raises:
            UsageError: there is no such package, or it is no longer waiting.
        """
        with self._locked():
            entry = self._get(sha256)
            if entry.state != "waiting":
                raise UsageError(
                    _("package {sha} cannot be dropped: its state is {state}").format(
                        sha=sha256[:12], state=entry.state
                    ),
                    hint=_("Only packages that have not left this machine can be dropped."),
                )
            self._finish(sha256, "expired", _("dropped by its owner"))
            return self._get(sha256)

    def entries(self) -> list[Entry]:
        """All packages ever kept, oldest first."""
        return self._select("1 = 1")

    def entry(self, prefix: str) -> Entry:
        """Find a package by the beginning of its hash.

        Raises:
            UsageError: none, or more than one.
        """
        found = [entry for entry in self.entries() if prefix and entry.sha256.startswith(prefix)]
        if len(found) == 1:
            return found[0]
        raise UsageError(
            _("there are {count} packages whose hash begins with '{prefix}'").format(
                count=len(found), prefix=prefix
            ),
            hint=_("Run: flower-client outbox list"),
        )

    def feedback_for_next(self) -> Path | None:
        """Residual of the newest package that was neither refused nor expired, if it has one."""
        usable = self._select("state NOT IN ('refused', 'expired')")
        path = self._feedback(usable[-1].sha256) if usable else None
        return path if path is not None and path.is_file() else None

    def _locked(self) -> AbstractContextManager[None]:
        return durable.locked(self.folder / "outbox.lock", timeout_s=60)

    def _file(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.zip"

    def _feedback(self, sha256: str) -> Path:
        return self.folder / f"{sha256}{FEEDBACK}"

    def _select(self, where: str, *values: object) -> list[Entry]:
        # `where` is always a literal of this file; values are bound
        query = f"SELECT {_COLUMNS} FROM packages WHERE {where} ORDER BY sequence"  # noqa: S608
        return [Entry(*row) for row in self._database.execute(query, values)]

    def _open_entries(self) -> list[Entry]:
        return self._select("state IN ('waiting', 'handed_over')")

    def _find(self, sha256: str) -> Entry | None:
        found = self._select("sha256 = ?", sha256)
        return found[0] if found else None

    def _get(self, sha256: str) -> Entry:
        entry = self._find(sha256)
        if entry is None:
            raise UsageError(_("there is no package {sha} in the outbox").format(sha=sha256[:12]))
        return entry

    def _insert(self, sha256: str, manifest: PackageManifest, size: int) -> None:
        now = self._clock()
        self._database.execute(
            "INSERT OR IGNORE INTO packages (sha256, global_version, examples, size_bytes, state,"
            " created_at, changed_at) VALUES (?, ?, ?, ?, 'waiting', ?, ?)",
            (sha256, manifest.global_version, manifest.examples, size, now, now),
        )

    def _change(
        self, sha256: str, state: State, reason: str = "", version: int | None = None
    ) -> bool:
        cursor = self._database.execute(
            "UPDATE packages SET state = ?1, reason = ?2, version = ?3, changed_at = ?4"
            " WHERE sha256 = ?5 AND state IN ('waiting', 'handed_over') AND state <> ?1",
            (state, reason, version, self._clock(), sha256),
        )
        return cursor.rowcount == 1

    def _finish(
        self, sha256: str, state: State, reason: str = "", version: int | None = None
    ) -> None:
        if self._change(sha256, state, reason, version):
            self._file(sha256).unlink(missing_ok=True)
            self._forget_feedback()

    def _forget_feedback(self) -> None:
        """Remove residuals that no verdict can make the newest usable one again."""
        needed = {entry.sha256 for entry in self._open_entries()}
        needed |= {entry.sha256 for entry in self._select("state = 'merged'")[-1:]}
        for path in self.folder.glob(f"*{FEEDBACK}"):
            if path.stem not in needed:
                path.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        entries = self._open_entries()
        excess = sum(entry.size_bytes for entry in entries) + size - self.max_bytes
        waiting = [entry for entry in entries if entry.state == "waiting"]
        if excess > sum(entry.size_bytes for entry in waiting):
            raise AdapterError(
                _("the outbox has no room for a package of {size} bytes").format(size=size),
                hint=_("Wait for the server's verdicts, or allow the outbox more space."),
            )
        for entry in waiting:
            if excess <= 0:
                return
            self._finish(entry.sha256, "expired", _("the outbox was full"))
            excess -= entry.size_bytes

    def _is_intact(self, entry: Entry) -> bool:
        path = self._file(entry.sha256)
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256

    def _mend(self) -> None:
        """Make rows and files agree after a kill; the lock is held, so nobody is half-way."""
        for path in self.folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
        for path in self.folder.glob("*.zip"):
            entry = self._find(path.stem)
            if entry is None:
                self._adopt(path)
            elif entry.is_final:
                path.unlink(missing_ok=True)
        for entry in self._open_entries():
            if not self._file(entry.sha256).is_file():
                self._finish(entry.sha256, "expired", _("the package file is missing"))
        self._forget_feedback()

    def _adopt(self, path: Path) -> None:
        try:
            package = open_package(path, max_bytes=self.max_bytes)
        except FormatError:
            package = None
        if (
            package is not None
            and package.sha256 == path.stem
            and isinstance(package.manifest, PackageManifest)
        ):
            self._insert(package.sha256, package.manifest, package.size_bytes)
        else:
            path.unlink(missing_ok=True)


def open_outbox(home: NodeHome, config: NodeConfig) -> Outbox:
    """Open the outbox of the node at `home`, with the room that `config` allows it."""
    return Outbox(home.outbox, max_bytes=config.outbox_max_mb * 2**20)


def _connect(path: Path) -> sqlite3.Connection:
    if not path.exists():
        durable.write_bytes(path, b"")  # an empty database, private from its first moment
    database = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute(_TABLE)
    except sqlite3.DatabaseError as err:
        database.close()
        raise AdapterError(
            _("the outbox {path} cannot be opened: {error}").format(path=path, error=err),
            hint=_("Move that file away: packages that lie beside it will be taken in again."),
        ) from err
    return database
