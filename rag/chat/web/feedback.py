"""What the user thinks of answers: a line each, kept at home."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from federation import durable


@dataclass(frozen=True)
class Opinion:
    """Of one answer; a later one of the same answer replaces it."""

    message_id: str
    rating: Literal["up", "down"]
    reason: str
    ts: float


class Feedback:
    """Opinions in a JSON Lines file.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, message_id: str, rating: Literal["up", "down"], reason: str) -> None:
        """Keep one; on disk when this returns."""
        opinion = Opinion(message_id, rating, reason, time.time())
        durable.append_line(self._path, json.dumps(asdict(opinion), ensure_ascii=False))

    def of(self, message_ids: set[str]) -> dict[str, Opinion]:
        """The last opinion of each of these answers that has one."""
        return {each.message_id: each for each in self.all() if each.message_id in message_ids}

    def all(self) -> list[Opinion]:
        """The last opinion of each answer that has one, in the order they were first given."""
        if not self._path.is_file():
            return []
        found: dict[str, Opinion] = {}
        for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                opinion = Opinion(**json.loads(line))
            except (ValueError, TypeError):  # a line that was cut off
                continue
            found[opinion.message_id] = opinion
        return list(found.values())

    def forget(self, message_ids: set[str] | None = None) -> None:
        """Delete those of these answers; None: all of them."""
        if message_ids is None:
            self._path.unlink(missing_ok=True)
            return
        held = self.all()
        kept = [each for each in held if each.message_id not in message_ids]
        if len(kept) < len(held):
            lines = [json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in kept]
            durable.write_text(self._path, "".join(lines))
