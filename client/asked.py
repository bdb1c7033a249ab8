"""Which servers of feeds this machine asked: `asked.jsonl`, a line a request, of bounded size.

Of a request only the host is kept, never its path or query, which may hold a key of its owner's.
It stays on this machine, for `flower-client privacy`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from federation import durable
from federation.errors import ConscienceError
from rag.ingest.fetch import Contact

logger = logging.getLogger(__name__)

MAX_BYTES = 1_000_000  # some 7,000 requests; beyond, the older half goes


@dataclass(frozen=True)
class Asked:
    """One line.

    Attributes:
        at: ISO 8601, UTC, seconds.
        host: that was asked; its name was looked up even where no connection came about.
        sent_bytes: of the request, before TLS and Tor; 0 if no answer began to come.
        received_bytes: of the answer, as it came.
        tor: whether through Tor.
    """

    at: str
    host: str
    sent_bytes: int
    received_bytes: int
    tor: bool


@dataclass(frozen=True)
class Host:
    """All requests to one host.

    Attributes:
        through_tor: how many of them.
    """

    host: str
    requests: int
    through_tor: int
    sent_bytes: int
    received_bytes: int
    first: str
    last: str


def noting(path: Path) -> Callable[[Contact], None]:
    """What a Fetcher tells each request to: a line of `path`."""
    return lambda contact: note(path, contact)


def note(path: Path, contact: Contact, *, at: datetime | None = None) -> None:
    """Append a line; of a file that has grown too large the newer half stays.

    What cannot be written is a warning: a full disk is no reason to read nothing.
    """
    moment = (at or datetime.now(UTC)).isoformat(timespec="seconds")
    entry = Asked(moment, contact.host, contact.sent_bytes, contact.received_bytes, contact.is_tor)
    try:
        with durable.locked(path.with_suffix(".lock")):
            durable.append_line(path, json.dumps(asdict(entry)))
            if path.stat().st_size > MAX_BYTES:
                _halve(path)
    except (OSError, ConscienceError) as err:
        logger.warning("%s cannot be written: %s", path.name, err)


def read(path: Path) -> list[Asked]:
    """All lines, oldest first; one that a power cut halved is passed over."""
    found = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ()
    for line in lines:
        try:
            entry = Asked(**json.loads(line))
            datetime.fromisoformat(entry.at)
        except (ValueError, TypeError):
            continue
        found.append(entry)
    return found


def by_host(entries: Sequence[Asked]) -> tuple[Host, ...]:
    """Sums for each host, the one that was asked last first."""
    lines: dict[str, list[Asked]] = {}
    for entry in entries:
        lines.setdefault(entry.host, []).append(entry)
    hosts = (
        Host(
            host,
            requests=len(its),
            through_tor=sum(entry.tor for entry in its),
            sent_bytes=sum(entry.sent_bytes for entry in its),
            received_bytes=sum(entry.received_bytes for entry in its),
            first=its[0].at,
            last=its[-1].at,
        )
        for host, its in lines.items()
    )
    return tuple(sorted(hosts, key=lambda host: host.last, reverse=True))


def _halve(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    durable.write_bytes(path, b"".join(lines[len(lines) // 2 :]))
