"""What the server asks of whoever runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rag.answer.respond import Responder
from rag.chat.memory import Memory
from rag.chat.web.feedback import Feedback
from rag.chat.web.settings import SettingsFile


class Answers(Protocol):
    """What answers, and what it knows. Every call may take long, and may come from any thread."""

    def responder(self, *, adapter: bool = True) -> Responder:
        """The newest: searches what was ingested until now, writes with the newest adapter.

        Args:
            adapter: False writes with the base model alone.
        """

    def model_state(self) -> Mapping[str, Any]:
        """`{loaded, refused}`: whether it is in memory, why the newest adapter does not answer."""

    def knows(self) -> Mapping[str, Any]:
        """`{docs, chunks, newest, index_sha, notes}` of what is searched."""

    def around(self, document_id: str, start: int, end: int) -> Mapping[str, str] | None:
        """`{before, after}` of a quotation in its document; None if it is no longer there."""

    def embed(self, texts: Sequence[str]) -> tuple[str, list[list[float]]]:
        """The embedder's name and a vector for each text.

        Raises:
            ModelError: there is no embedder.
        """


class Feeds(Protocol):
    """The feeds file and its upkeep."""

    def rows(self) -> list[dict[str, Any]]:
        """All feeds and how each fares."""

    def add(self, row: Mapping[str, Any]) -> None:
        """Add one; a ConscienceError says why not."""

    def remove(self, url: str) -> None:
        """Take one out; a ConscienceError says why not."""

    def add_starter(self, language: str) -> None:
        """Add the well-known ones in "es" or "en"."""

    def test(self, url: str) -> Mapping[str, Any]:
        """Look at one that may be added; nothing is stored. A ConscienceError says why not."""

    def ingest(self) -> dict[str, Any]:
        """Fetch those that are due; what came of it."""


class Documents(Protocol):
    """Files that were given to the page."""

    def rows(self) -> list[dict[str, Any]]:
        """All, the newest first."""

    def add(self, label: str, body: bytes) -> dict[str, Any]:
        """Take one in; a FormatError says why not. `label` is for people, never a path."""

    def remove(self, document_id: str) -> bool:
        """Take one out; whether there was one."""


class State(Protocol):
    """How the node fares."""

    def now(self) -> dict[str, Any]:
        """Rounds, versions, whether it runs."""


@dataclass(frozen=True)
class Services:
    """Everything the server uses."""

    answers: Answers
    feeds: Feeds
    documents: Documents
    state: State
    memory: Memory
    feedback: Feedback
    settings: SettingsFile
    version: str
