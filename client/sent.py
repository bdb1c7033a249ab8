"""What left this machine: `sent.jsonl`, one line a hand-over, appended and never rewritten.

The ClientApp writes a line for a package that the server asked for; the SuperNode, `join` and
`tor bench` write how much they have said. It stays on this machine, for `flower-client privacy`.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from federation import durable

logger = logging.getLogger(__name__)

Kind = Literal["package", "requests"]
KINDS: tuple[Kind, ...] = ("package", "requests")
EVERY_S = 900.0


@dataclass(frozen=True)
class Sent:
    """One line.

    Attributes:
        at: ISO 8601, UTC, seconds.
        kind: package: one that was handed over; requests: all that a process said to the server
            since its line before, packages included.
        wire_bytes: as they were given to TLS; of a package with its padding.
        count: how many requests.
        sha256: of a package.
        size_bytes: of a package, without padding.
    """

    at: str
    kind: Kind
    wire_bytes: int
    count: int = 1
    sha256: str = ""
    size_bytes: int = 0


def note(
    path: Path, kind: Kind, wire_bytes: int, *, at: datetime | None = None, **facts: object
) -> None:
    """Append a line; `facts` are further fields of `Sent`."""
    moment = (at or datetime.now(UTC)).isoformat(timespec="seconds")
    line = {"at": moment, "kind": kind, "wire_bytes": wire_bytes, **facts}
    durable.append_line(path, json.dumps(line))


def read(path: Path) -> list[Sent]:
    """All lines, oldest first; one that a power cut halved is passed over."""
    found = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ()
    for line in lines:
        try:
            entry = Sent(**json.loads(line))
            datetime.fromisoformat(entry.at)
        except (ValueError, TypeError):
            continue
        if entry.kind in KINDS:
            found.append(entry)
    return found


class Meter:
    """Counts a process's requests and writes a line now and then; for any thread.

    Args:
        path: `sent.jsonl`.
        every_s: pause between two lines.
        clock: monotonic seconds.
    """

    def __init__(
        self, path: Path, *, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._every_s = every_s
        self._clock = clock
        self._lock = threading.Lock()
        self._count = self._bytes = 0
        self._due = clock() + every_s

    def add(self, wire_bytes: int) -> None:
        """Count one request."""
        with self._lock:
            self._count += 1
            self._bytes += wire_bytes
            is_due = self._clock() >= self._due
        if is_due:
            self.flush()

    def flush(self) -> None:
        """Write what was counted since the last line, if anything was; keep it if that fails."""
        with self._lock:
            self._due = self._clock() + self._every_s
            if not self._count:
                return
            try:
                note(self._path, "requests", self._bytes, count=self._count)
            except OSError as err:
                logger.warning("%s cannot be written: %s", self._path.name, err)
            else:
                self._count = self._bytes = 0
