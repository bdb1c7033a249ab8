"""What the page's answers are made with: the node's library, model, adapter, always the newest."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.adapters import AdapterStore
from client.board import running_state
from client.chat_adapter import verdicts_file
from client.chat_model import NodeModel
from client.config import NodeConfig, NodeHome, load_federation
from client.knowledge import open_model, responder_of
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


@dataclass(frozen=True)
class _Stamps:
    """What an answer depends on, as it was when it was last looked at."""

    joined: Stamp
    adapter: tuple[Stamp, Stamp, str]
    refusal: Stamp
    knows: bool


class NodeAnswers:
    """See `rag.chat.web.services.Answers`; any thread may call.

    Args:
        home: the node's home.
        config: its settings.
        library: open; stays the caller's, used by nobody else.
        pin: sha256 of the adapter that was chosen, "" for the newest.
    """

    def __init__(
        self,
        home: NodeHome,
        config: NodeConfig,
        library: Library,
        pin: Callable[[], str] = lambda: "",
    ) -> None:
        self._home, self._config, self._library = home, config, library
        self._pin = pin
        self._lock = threading.RLock()  # the library takes one call at a time
        self._model: NodeModel | None = None
        self._made: dict[bool, Responder] = {}
        self._stamps: _Stamps | None = None

    def responder(self, *, adapter: bool = True) -> Responder:
        """The newest: what was ingested is followed, a new adapter or fit is taken up."""
        with self._lock:
            self._follow()
            stamps = self._look()
            if stamps != self._stamps and self._renew(stamps):
                self._made, self._stamps = {}, stamps
            if self._model is not None:
                self._model.sweep()
            if adapter not in self._made:
                self._made[adapter] = self._open(adapter=adapter)
            return self._made[adapter]

    def model_state(self) -> Mapping[str, Any]:
        """See `rag.chat.web.services.Answers`; answers that quote need no model in memory."""
        model = self._model
        if model is None:
            return {"loaded": False, "refused": ""}
        return {"loaded": model.is_loaded, "refused": model.refused}

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

    def _look(self) -> _Stamps:
        home = self._home
        return _Stamps(
            joined=_stamp(home.federation),
            adapter=(_stamp(home.current_adapter), _stamp(verdicts_file(home)), self._pin()),
            refusal=_stamp(home.refusal),
            knows=self._library.store.count("documents") > 0,
        )

    def _renew(self, new: _Stamps) -> bool:
        """Bring the model up to date; False if that is to be tried again later."""
        old = self._stamps
        if old is None or self._model is None or old.joined != new.joined:
            self._model = open_model(self._home, self._config)
            return self._model is None or self._model.follow(self._pin())
        return old.adapter == new.adapter or self._model.follow(self._pin())

    def _open(self, *, adapter: bool) -> Responder:
        assert self._stamps is not None  # noqa: S101 - set before
        search = self if self._stamps.knows else None
        writer = self._model.writer(adapter=adapter) if self._model is not None else None
        return responder_of(self._home, self._config, search, writer)


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
