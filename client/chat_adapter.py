"""Which adapter the chat writes with: the newest, or the one before, or one that was asked for.

`models/current` stays where the operator's newest version put it: below it nothing may fall, and
from it training begins. What the chat thinks of a version is its own affair, and lies in
`models/chat_adapter.json`: by the hash of the version's manifest, whether it passed, or why not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from client.adapters import AdapterStore, Global
from client.config import NodeHome, load_federation
from federation import durable, settings
from federation.errors import AdapterError, ConfigError
from federation.language import _

logger = logging.getLogger(__name__)

KEPT = 20  # verdicts; the oldest go


class Verdict(settings.Settings):
    """What became of one version in a check; `reason` is "" if it passed."""

    version: int
    reason: str = Field(default="", max_length=1000)
    at: str = ""


class Verdicts(settings.Settings):
    """The whole file: manifest's sha256 → verdict, the oldest first."""

    format: Literal[1] = 1
    of: dict[str, Verdict] = Field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What the chat should write with.

    Attributes:
        adapters: to be tried in this order; none is the base model alone.
        note: why the first one is not the newest, or not the one asked for; "" if it is.
    """

    adapters: tuple[Global, ...] = ()
    note: str = ""


def verdicts_file(home: NodeHome) -> Path:
    """Where verdicts lie."""
    return home.models / "chat_adapter.json"


def load_verdicts(home: NodeHome) -> Verdicts:
    """All that are held; none if the file is damaged, which is logged."""
    try:
        return settings.load(Verdicts, verdicts_file(home))[0]
    except ConfigError as err:
        logger.warning("what the chat thinks of its adapters is not readable: %s", err)
        return Verdicts()


def note_verdict(home: NodeHome, adapter: Global, reason: str = "") -> None:
    """Keep a verdict; a running chat follows it."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    held = dict(load_verdicts(home).of)
    held.pop(adapter.sha256, None)
    held[adapter.sha256] = Verdict(version=adapter.version, reason=reason[:1000], at=now)
    last = dict(list(held.items())[-KEPT:])
    durable.write_text(verdicts_file(home), Verdicts(of=last).model_dump_json(indent=2) + "\n")


def store_of(home: NodeHome) -> AdapterStore | None:
    """The adapters of this node; None for one that has not joined."""
    return AdapterStore(home, load_federation(home)) if home.federation.exists() else None


def wanted(store: AdapterStore | None, verdicts: Mapping[str, Verdict], pin: str = "") -> Wanted:
    """Choose: the pinned version if it is kept, else the newest, else the one before it.

    Args:
        store: None for a node that has not joined.
        verdicts: of earlier checks; never more than one step is gone back.
        pin: sha256 of a version's manifest, "" for the newest.
    """
    if store is None:
        return Wanted(note=_not_kept(pin) if pin else "")
    newest, note = _newest(store, verdicts)
    pinned = kept(store, pin) if pin else None
    if pin:
        note = _not_kept(pin) if pinned is None else ""
    chosen = (pinned, newest, store.previous())
    return Wanted(tuple(entry for entry in chosen if entry is not None), note)


def _newest(store: AdapterStore, verdicts: Mapping[str, Verdict]) -> tuple[Global | None, str]:
    try:
        newest = store.current()
    except AdapterError as err:
        logger.warning("the global adapter on disk is not usable: %s", err)
        return None, err.message
    verdict = verdicts.get(newest.sha256) if newest is not None else None
    if newest is None or verdict is None or not verdict.reason:
        return newest, ""
    return None, refusal(newest, verdict.reason)


def refusal(adapter: Global, reason: str) -> str:
    """A sentence for people."""
    return _("global@v{version} does not answer: {reason}").format(
        version=adapter.version, reason=reason
    )


def kept(store: AdapterStore | None, sha256: str) -> Global | None:
    """The version whose manifest has that hash; None if it is not here, or damaged."""
    if store is None:
        return None
    for version in reversed(store.versions()):
        try:
            found = store.load(version)
        except AdapterError as err:
            logger.warning("global v%d on disk is not usable: %s", version, err)
            continue
        if found.sha256 == sha256:
            return found
    return None


def _not_kept(sha256: str) -> str:
    return _("The adapter {sha256} that was chosen is not kept here; the newest answers.").format(
        sha256=sha256[:12]
    )
