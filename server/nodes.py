"""Who was invited, who is a node, who is banned, and what each has sent.

One row a node, from its invitation on: invited → enrolling → active → banned. Of the token only its
sha256 is kept. The gateway reads this file on every request, so a ban works at once.
"""

from __future__ import annotations

import base64
import hmac
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from federation import durable
from federation.errors import InvitationError, UsageError

Status = Literal["invited", "enrolling", "active", "banned"]
_COLUMNS = (
    "name, status, pseudonym, signing_key, supernode_key, flower_node_id, created_at, expires_at, "
    "enrolled_at, banned_at, last_seen, bytes_up, bytes_down"
)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS nodes (
    name TEXT PRIMARY KEY, status TEXT NOT NULL, token_sha256 TEXT NOT NULL DEFAULT '',
    pseudonym TEXT NOT NULL DEFAULT '', signing_key TEXT NOT NULL DEFAULT '',
    supernode_key TEXT NOT NULL DEFAULT '', flower_node_id TEXT NOT NULL DEFAULT '',
    created_at REAL NOT NULL, expires_at REAL NOT NULL DEFAULT 0,
    enrolled_at REAL NOT NULL DEFAULT 0, banned_at REAL NOT NULL DEFAULT 0,
    last_seen REAL NOT NULL DEFAULT 0,
    bytes_up INTEGER NOT NULL DEFAULT 0, bytes_down INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS by_supernode ON nodes (supernode_key) WHERE supernode_key != '';
CREATE UNIQUE INDEX IF NOT EXISTS by_signing ON nodes (signing_key) WHERE signing_key != '';
CREATE TABLE IF NOT EXISTS daily (
    supernode_key TEXT PRIMARY KEY, day INTEGER NOT NULL, bytes INTEGER NOT NULL
) STRICT;
PRAGMA user_version = 1;
"""


@dataclass(frozen=True)
class Node:
    """One row. Times are Unix seconds, 0 for never.

    Attributes:
        pseudonym: 16 hex digits; the id in manifests and messages. "" until enrolled.
        signing_key: Ed25519 public key, hex.
        supernode_key: value of Flower's `flwr-public-key` header (base64 of PEM).
        flower_node_id: decimal text; Flower's ids need 64 bits unsigned.
        bytes_up: request bodies passed by the gateway; `bytes_down`: response bodies.
    """

    name: str
    status: Status
    pseudonym: str
    signing_key: str
    supernode_key: str
    flower_node_id: str
    created_at: float
    expires_at: float
    enrolled_at: float
    banned_at: float
    last_seen: float
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True)
class Claim:
    """A token that was good: whose it is, and whether that node is enrolled already."""

    name: str
    is_repeat: bool


class EnrolmentError(InvitationError):
    """An invitation that the server does not take; `code` as in `EnrolRefusal`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Nodes:
    """The node book in one SQLite file; safe to open from several processes."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        durable.make_folder(path.parent)
        self._path = path
        self._clock = clock
        with self._transaction() as db:
            db.executescript(_SCHEMA)
        path.chmod(durable.PRIVATE_FILE)

    def all(self) -> list[Node]:
        """Every node, by name."""
        return self._select("1 = 1 ORDER BY name", ())

    def active(self) -> list[Node]:
        """Nodes that take part."""
        return self._select("status = 'active' ORDER BY name", ())

    def by_name(self, name: str) -> Node:
        """The node called `name`.

        Raises:
            UsageError: there is none.
        """
        found = self._select("name = ?", (name,))
        if not found:
            raise UsageError(f"there is no node called '{name}'", hint="Run: flower-server nodes")
        return found[0]

    def by_pseudonym(self, pseudonym: str) -> Node | None:
        """The node with this id, if any."""
        return next(iter(self._select("pseudonym = ? AND pseudonym != ''", (pseudonym,))), None)

    def by_flower_id(self, node_id: int) -> Node | None:
        """The node that Flower knows as `node_id`, if any."""
        return next(iter(self._select("flower_node_id = ?", (str(node_id),))), None)

    def status_of(self, supernode_key: str) -> Status | None:
        """Status of the node whose requests carry this header value; None: unknown."""
        found = self._select("supernode_key = ?", (supernode_key,)) if supernode_key else []
        return found[0].status if found else None

    def invite(self, name: str, *, token_sha256: str, expires_at: float) -> None:
        """Add an invited node; a name still only invited gets the new token instead.

        Raises:
            UsageError: a node of that name has enrolled.
        """
        with self._transaction() as db:
            cursor = db.execute(
                "INSERT INTO nodes (name, status, token_sha256, created_at, expires_at) "
                "VALUES (?, 'invited', ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
                "token_sha256 = excluded.token_sha256, expires_at = excluded.expires_at, "
                "created_at = excluded.created_at WHERE nodes.status = 'invited'",
                (name, token_sha256, self._clock(), expires_at),
            )
            if cursor.rowcount == 0:
                raise UsageError(
                    f"a node called '{name}' has enrolled already", hint="Choose another name."
                )

    def invite_for(self, name: str, *, token_sha256: str, seconds: float) -> None:
        """As `invite`, good for `seconds` from now."""
        self.invite(name, token_sha256=token_sha256, expires_at=self._clock() + seconds)

    def claim(self, token_sha256: str, *, supernode_key: str, signing_key: str) -> Claim:
        """Take the invitation for these keys, atomically.

        The same keys may claim again, so that an answer lost on the way burns no invitation.

        Raises:
            EnrolmentError: unknown, used by other keys, expired, or a key of another node.
        """
        with self._transaction() as db:
            db.execute("BEGIN IMMEDIATE")
            name, status, held, expires_at = _find_token(db, token_sha256)
            if status != "invited":
                if held != (supernode_key, signing_key) or status == "banned":
                    raise EnrolmentError("used", "this invitation has been used already")
                return Claim(name, is_repeat=status == "active")
            if self._clock() >= expires_at:
                raise EnrolmentError("expired", "this invitation has expired")
            try:
                db.execute(
                    "UPDATE nodes SET status = 'enrolling', supernode_key = ?, signing_key = ? "
                    "WHERE name = ?",
                    (supernode_key, signing_key, name),
                )
            except sqlite3.IntegrityError as err:
                raise EnrolmentError("key-in-use", "one of these keys is taken") from err
        return Claim(name, is_repeat=False)

    def release(self, name: str) -> None:
        """Give an invitation back whose enrolment failed on our side."""
        with self._transaction() as db:
            db.execute(
                "UPDATE nodes SET status = 'invited', supernode_key = '', signing_key = '' "
                "WHERE name = ? AND status = 'enrolling'",
                (name,),
            )

    def activate(self, name: str, *, pseudonym: str, flower_node_id: str) -> Node:
        """Make a claimed node active."""
        with self._transaction() as db:
            db.execute(
                "UPDATE nodes SET status = 'active', pseudonym = ?, flower_node_id = ?, "
                "enrolled_at = ? WHERE name = ? AND status = 'enrolling'",
                (pseudonym, flower_node_id, self._clock(), name),
            )
        return self.by_name(name)

    def ban(self, name: str) -> Node:
        """Refuse this node from now on; returns it as it was before.

        Raises:
            UsageError: there is no such node.
        """
        before = self.by_name(name)
        with self._transaction() as db:
            db.execute(
                "UPDATE nodes SET status = 'banned', banned_at = ? "
                "WHERE name = ? AND status != 'banned'",
                (self._clock(), name),
            )
        return before

    def add_traffic(self, traffic: Mapping[str, tuple[int, int]]) -> None:
        """Add bytes (up, down) per SuperNode key; unknown keys are dropped."""
        now = self._clock()
        with self._transaction() as db:
            db.executemany(
                "UPDATE nodes SET bytes_up = bytes_up + ?, bytes_down = bytes_down + ?, "
                "last_seen = ? WHERE supernode_key = ?",
                [(up, down, now, key) for key, (up, down) in traffic.items() if key],
            )
            db.executemany(
                "INSERT INTO daily SELECT supernode_key, ?1, ?2 FROM nodes "
                "WHERE supernode_key = ?3 ON CONFLICT DO UPDATE SET day = ?1, "
                "bytes = CASE WHEN day = ?1 THEN bytes + ?2 ELSE ?2 END",
                [(_day(now), up + down, key) for key, (up, down) in traffic.items() if key],
            )

    def bytes_today(self, supernode_key: str) -> int:
        """Bytes that this node has moved on this day (UTC), both ways."""
        query = "SELECT bytes FROM daily WHERE supernode_key = ? AND day = ?"
        with self._transaction() as db:
            found = db.execute(query, (supernode_key, _day(self._clock()))).fetchone()
        return int(found[0]) if found else 0

    def _select(self, where: str, values: tuple[object, ...]) -> list[Node]:
        query = f"SELECT {_COLUMNS} FROM nodes WHERE {where}"  # noqa: S608 (constants of ours)
        with self._transaction() as db:
            return [Node(*row) for row in db.execute(query, values).fetchall()]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._path, timeout=30.0)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            with db:
                yield db
        finally:
            db.close()


def header_key(openssh_line: str) -> str:
    """`flwr-public-key` header value of an OpenSSH public key line.

    Raises:
        EnrolmentError: not an ECDSA key on P-384.
    """
    try:
        key = serialization.load_ssh_public_key(openssh_line.strip().encode("ascii"))
    except (ValueError, UnsupportedAlgorithm) as err:
        raise EnrolmentError("malformed", "the node's key cannot be read") from err
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise EnrolmentError("malformed", "the node's key is not ECDSA on P-384")
    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return base64.b64encode(pem).decode("ascii")


def _day(now: float) -> int:
    """Days since 1970 (UTC)."""
    return int(now // 86_400)


def _find_token(
    db: sqlite3.Connection, token_sha256: str
) -> tuple[str, str, tuple[str, str], float]:
    """Name, status, (SuperNode key, signing key) and end of the invitation with this token."""
    found = None
    rows = db.execute(
        "SELECT name, status, supernode_key, signing_key, expires_at, token_sha256 FROM nodes"
    )
    for name, status, supernode, signing, expires_at, held in rows.fetchall():
        if held and hmac.compare_digest(held, token_sha256):
            found = (name, status, (supernode, signing), expires_at)
    if found is None:
        raise EnrolmentError("unknown", "the server does not know this invitation")
    return found
