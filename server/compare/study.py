"""Cells run one after another, each kept in a file named by all that decides it.

A comparison that was killed, or is asked for more, runs what is not there yet (`resume`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from federation import durable
from strategies.compare.federate import Task, federate
from strategies.compare.setting import FORMAT, Setting

logger = logging.getLogger(__name__)
CELLS = "cells"
Open = Callable[[Setting], AbstractContextManager[Task]]
Json = dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """Whom a study tells: `cell` after each one (how many, of how many, was it run now)."""

    cell: Callable[[int, int, bool], None] = lambda _done, _all, _ran: None
    round: Callable[[Setting, int, float], None] = lambda _setting, _number, _loss: None


class Study:
    """Runs cells and keeps their records below `folder`.

    Args:
        folder: of the comparison; cells go to `folder/cells`.
        open_task: gives the task of a cell, fresh, and ends it.
        facts: what else decides a result: base, data, code, versions.
    """

    def __init__(self, folder: Path, open_task: Open, facts: Mapping[str, str]) -> None:
        self.folder = folder / CELLS
        self._open, self._facts = open_task, dict(facts)

    def run(
        self, cells: Sequence[Setting], *, resume: bool, progress: Progress | None = None
    ) -> list[Json]:
        """Return one record per cell, in the order of `cells`.

        Args:
            cells: any number.
            resume: take records that are there already.
            progress: told after each round and cell.
        """
        told = progress or Progress()
        records = []
        for done, setting in enumerate(cells, start=1):
            path = self.folder / f"{setting.key(self._facts)}.json"
            found = read_record(path, setting) if resume else None
            if found is None:
                with self._open(setting) as task:
                    record = federate(task, setting, report=partial(told.round, setting))
                found = json.loads(json.dumps(record.to_json()))
                content = {"format": FORMAT, "of": self._facts, **found}
                durable.write_text(path, json.dumps(content, ensure_ascii=False) + "\n")
                told.cell(done, len(cells), True)
            else:
                told.cell(done, len(cells), False)
            records.append(found)
        return records


def read_record(path: Path, setting: Setting) -> Json | None:
    """Read a kept record; None if there is none, or it cannot be used (that is logged)."""
    try:
        content: Json = json.loads(path.read_text(encoding="utf-8"))
        whole = len(content["rounds"]) == setting.rounds + 1
        if content["format"] == FORMAT and content["setting"] == setting.to_json() and whole:
            return {key: value for key, value in content.items() if key not in ("format", "of")}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as err:
        logger.warning("the cell %s cannot be read and is run again: %s", path.name, err)
        return None
    logger.warning("the cell %s is of another format and is run again", path.name)
    return None


def code_facts(*more: str) -> dict[str, str]:
    """Hash of the strategies' code, and versions of what computes (`more`: distributions)."""
    total = hashlib.sha256()
    for name, text in sorted(_sources("strategies")):
        total.update(name.encode() + b"\0" + text)
    names = ("numpy", *more)
    return {"code": total.hexdigest()} | {name: metadata.version(name) for name in names}


def _sources(room: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    folders = [(room, resources.files(room))]
    while folders:
        place, folder = folders.pop()
        for item in folder.iterdir():
            if item.is_dir() and item.name != "__pycache__":
                folders.append((f"{place}/{item.name}", item))
            elif item.name.endswith(".py"):
                found.append((f"{place}/{item.name}", item.read_bytes()))
    return found
