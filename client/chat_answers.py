"""What the page's answers are made with: the node's library, model, adapter, always the newest."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.adapters import AdapterStore
from client.board import running_state
from client.config import NodeConfig, NodeHome, load_federation
from client.knowledge import NodeWriter, open_responder
from client.library import NodeSearch
from federation.errors import ConscienceError
from rag.answer.respond import Responder
from rag.passages import Found

if TYPE_CHECKING:
    from rag.retrieval.library import Library

logger = logging.getLogger(__name__)

AROUND = 280  # characters shown on each side of a quotation
PATIENCE_S = 1.0
Stamp = tuple[int, int]


class NodeAnswers:
    """See `rag.chat.web.services.Answers`; any thread may call.

    Args:
        home: the node's home.
        config: its settings.
        library: open; stays the caller's, used by nobody else.
    """

    def __init__(self, home: NodeHome, config: NodeConfig, library: Library) -> None:
        self._home, self._config, self._library = home, config, library
        self._lock = threading.RLock()  # the library takes one call at a time
        self._responder: Responder | None = None
        self._stamps: tuple[Stamp, Stamp, bool] | None = None

    def responder(self) -> Responder:
        """The newest: what was ingested is followed, a new adapter or fit is opened."""
        with self._lock:
            self._follow()
            knows = self._library.store.count("documents") > 0
            stamps = (_stamp(self._home.current_adapter), _stamp(self._home.refusal), knows)
            if self._responder is None or stamps != self._stamps:
                self._responder = self._open(stamps)
                self._stamps = stamps
            return self._responder

    def is_loaded(self) -> bool:
        """Whether the model is in memory; answers that quote need none."""
        writer = self.responder().writer
        return isinstance(writer, NodeWriter) and writer.is_loaded

    def find(self, question: str, k: int) -> Found:
        """See `rag.answer.search`; what was ingested a moment ago is found."""
        with self._lock:
            return NodeSearch(self._library).find(question, k)

    def knows(self) -> Mapping[str, Any]:
        """See `rag.chat.web.services.Answers`."""
        with self._lock:
            stats = self._library.stats()
            return {
                "docs": stats.documents,
                "chunks": stats.chunks,
                "newest": stats.newest,
                "embedder": stats.embedder,
                "vectors": stats.vectors,
                "index_sha": stats.index.sha256 if stats.index else "",
                "notes": self._library.notes(),
            }

    def around(self, document_id: str, start: int, end: int) -> Mapping[str, str] | None:
        """See `rag.chat.web.services.Answers`."""
        with self._lock:
            document = self._library.store.document(document_id)
        if document is None or not 0 <= start <= end <= len(document.text):
            return None
        before, after = document.text[:start][-AROUND:], document.text[end:][:AROUND]
        return {"before": before, "after": after, "title": document.title, "url": document.link}

    def embed(self, texts: Sequence[str]) -> tuple[str, list[list[float]]]:
        """See `rag.chat.web.services.Answers`."""
        return self._library.embed(texts)

    def _follow(self) -> None:
        try:
            self._library.follow(timeout_s=PATIENCE_S)
        except ConscienceError as err:  # another process is at it: what there is can be searched
            logger.info("the library is behind: %s", err)

    def _open(self, stamps: tuple[Stamp, Stamp, bool]) -> Responder:
        new = open_responder(self._home, self._config, search=self if stamps[2] else None)
        before = self._responder
        if before is None or self._stamps is None or self._stamps[0] != stamps[0]:
            return new
        return replace(new, writer=before.writer, model=before.model)  # its model stays loaded


class NodeState:
    """See `rag.chat.web.services.State`.

    Args:
        home: the node's home.
    """

    def __init__(self, home: NodeHome) -> None:
        self._home = home
        self._held: tuple[Stamp, str] = ((0, 0), "")

    def now(self) -> dict[str, Any]:
        """Whether it has joined and runs, its adapter, when that came, what it sent last."""
        running = running_state(self._home)
        stamp = _stamp(self._home.current_adapter)
        if stamp != self._held[0]:
            self._held = (stamp, self._version())
        since = datetime.fromtimestamp(stamp[0] / 1e9, UTC).isoformat(timespec="seconds")
        return {
            "joined": self._home.federation.exists(),
            "running": bool(running),
            "state": str(running.get("state", "")),
            "adapter": self._held[1],
            "last_round": since if self._held[1] else "",
            "next_round": "",  # the operator decides; a node is not told
            "handed_over": _last_sent(self._home.sent),
        }

    def _version(self) -> str:
        if not self._home.federation.exists():
            return ""
        try:
            held = AdapterStore(self._home, load_federation(self._home)).held()
        except ConscienceError as err:
            logger.warning("the global adapter cannot be named: %s", err)
            return ""
        return f"v{held.version}" if held else ""


def _stamp(path: Path) -> Stamp:
    try:
        facts = path.stat()
    except OSError:
        return (0, 0)
    return (facts.st_mtime_ns, facts.st_size)


def _last_sent(path: Path) -> str:
    """When something was handed over last."""
    try:
        row = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return ""
    return str(row.get("at", "")) if isinstance(row, dict) else ""
