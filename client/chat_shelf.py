"""What the page may change of what the node reads: its feeds, and files that are dropped on it."""

from __future__ import annotations

import logging
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from client.config import NodeConfig, NodeHome
from client.feed_list import add_feed, add_starter, change_feed, feed_overview
from client.feed_trial import look_at
from client.ingesting import Ears, Summary, places_of, take_feeds, take_paths
from client.library import (
    bring_up_to_date,
    is_searched,
    open_library,
    searches_elsewhere,
)
from federation import durable
from federation.errors import ConscienceError, FormatError, UsageError
from federation.language import _
from rag.ingest.files import sniff

logger = logging.getLogger(__name__)

SUFFIX = {"pdf": ".pdf", "docx": ".docx", "jsonl": ".jsonl", "html": ".html", "md": ".md",
          "text": ".txt"}  # fmt: skip
NAMED = re.compile(r"[0-9a-f]{32}")
NAME_LENGTH = 60


class Upkeep:
    """Makes vectors and the refusal's fit in the background, once more whenever it is asked to.

    Args:
        home: the node's home.
        config: its settings.
    """

    def __init__(self, home: NodeHome, config: NodeConfig) -> None:
        self._home, self._config = home, config
        self._asked, self._is_over = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Something new is there."""
        self._asked.set()

    def close(self) -> None:
        """End; work that goes on is not waited for: it is safe to leave at any moment."""
        self._is_over = True
        self._asked.set()

    def _run(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            if self._is_over:
                return
            try:
                self._bring_up()
            except ConscienceError as err:
                logger.warning("what is new has no vectors yet: %s", err)

    def _bring_up(self) -> None:
        corpus = self._home.corpus  # what the page's feeds and files are written into
        bring_up_to_date(self._home, self._config, logger.info, lambda *_step: None, corpus=corpus)


class NodeFeeds:
    """See `rag.chat.web.services.Feeds`."""

    def __init__(self, home: NodeHome, config: NodeConfig, then: Callable[[], None]) -> None:
        self._home, self._config, self._then = home, config, then

    def rows(self) -> list[dict[str, Any]]:
        """All of them."""
        return feed_overview(self._home)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add one."""
        add_feed(self._home, row)

    def remove(self, url: str) -> None:
        """Take one out."""
        change_feed(self._home, url, lambda _feed: None)

    def add_starter(self, language: str) -> None:
        """Add the shipped ones that are not there yet."""
        add_starter(self._home, language)

    def test(self, url: str) -> Mapping[str, Any]:
        """Look at one."""
        return look_at(self._home, self._config, url, logger.info).to_json()

    def ingest(self) -> dict[str, Any]:
        """Fetch what is due."""
        places = places_of(self._home, None, None, None)
        if not places.feeds.exists():
            return _counts(None)
        summary = take_feeds(
            self._home, self._config, places, None, is_forced=False, ears=Ears(say=logger.info)
        )
        _follow(self._home, self._config)
        self._then()
        is_found = is_searched(self._home, self._config, self._home.corpus)
        note = "" if is_found else searches_elsewhere(self._home, self._config)
        return {**_counts(summary), "note": note}


class NodeDocuments:
    """See `rag.chat.web.services.Documents`: each file in a folder of its own, named by us."""

    def __init__(self, home: NodeHome, config: NodeConfig, then: Callable[[], None]) -> None:
        self._home, self._config, self._then = home, config, then

    def rows(self) -> list[dict[str, Any]]:
        """All, the newest first."""
        if not self._home.documents.is_dir():
            return []
        with open_library(self._home, self._config, corpus=self._home.corpus) as library:
            sources = library.store.files()
        found = [
            (file.stat().st_mtime, _row(folder.name, file, sources))
            for folder in self._home.documents.iterdir()
            if NAMED.fullmatch(folder.name)
            for file in folder.iterdir()
        ]
        return [row for _when, row in sorted(found, key=lambda entry: -entry[0])]

    def add(self, label: str, body: bytes) -> dict[str, Any]:
        """Take one in, or leave nothing of it.

        Raises:
            FormatError: it is of no kind that is read, or holds no text.
            UsageError: what is taken in here would not be searched.
        """
        if not is_searched(self._home, self._config, self._home.corpus):
            raise UsageError(searches_elsewhere(self._home, self._config))
        kind = sniff(body, label)
        name = secrets.token_hex(16)
        path = self._home.documents / name / f"{plain(label)}{SUFFIX[kind]}"
        durable.write_bytes(path, body)
        summary = self._take(path)
        if summary.failed or not (summary.count("new") or summary.count("same")):
            shutil.rmtree(path.parent)
            why = summary.failed[0].why if summary.failed else _("there is no text in it")
            raise FormatError(why)
        self._then()
        return next(row for row in self.rows() if row["id"] == name)

    def remove(self, document_id: str) -> bool:
        """Take one out, of the corpus too."""
        folder = self._home.documents / document_id
        if not NAMED.fullmatch(document_id) or not folder.is_dir():
            return False
        shutil.rmtree(folder)
        self._take(folder)
        return True

    def _take(self, path: Path) -> Summary:
        places = places_of(self._home, None, None, None)
        summary = take_paths(
            self._config, places, [path], is_for_training=False, ears=Ears(say=logger.info)
        )
        _follow(self._home, self._config)
        return summary


def plain(label: str) -> str:
    """A file's name without its ending, in letters, digits, spaces and dashes alone."""
    stem = label.rpartition(".")[0] or label
    kept = re.sub(r"[^\w \-]+", " ", stem)
    return " ".join(kept.split())[:NAME_LENGTH].strip() or "document"


def _row(name: str, file: Path, sources: Mapping[str, tuple[str, int]]) -> dict[str, Any]:
    title, chunks = sources.get(str(file), (file.stem, 0))
    return {
        "id": name,
        "title": title or file.stem,
        "kind": file.suffix.removeprefix("."),
        "bytes": file.stat().st_size,
        "chunks": chunks,
        "indexed": chunks > 0,
    }


def _counts(summary: Summary | None) -> dict[str, Any]:
    if summary is None:
        return {"new": 0, "changed": 0, "seen": 0, "failed": [], "note": ""}
    content = summary.to_json()
    failed = [
        {"url": row.get("url", row["name"]), "name": row["name"], "reason": row["why"]}
        for row in content["sources"]
        if row["outcome"] in ("failed", "gone")
    ]
    new, changed, same = content["new"], content["changed"], content["same"]
    return {"new": new, "changed": changed, "seen": new + changed + same, "failed": failed}


def _follow(home: NodeHome, config: NodeConfig) -> None:
    """Its words can be found at once."""
    try:
        with open_library(home, config, corpus=home.corpus) as library:
            library.follow()
    except ConscienceError as err:  # another process is at it, and will come to it
        logger.info("the library is behind: %s", err)
