"""Whoever plays nodes inside a process that is not ours: it keeps one worker, and its base, warm.

Flower's simulation hands a message to any of its processes. So each question says with what the
worker is to be opened and what has been added to the base so far; what is there already is kept.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from federation.adapter.tensors import load_arrays, save_tensors
from server.compare.workers import Answer, Worker
from strategies.compare.federate import Job
from strategies.compare.lab import Lab
from strategies.compare.setting import Setting


@dataclass(frozen=True)
class Question:
    """What one client is asked.

    Attributes:
        what: "open", "train" or "measure", as `client.virtual` knows them; the lab only trains.
        opening: what the worker is opened with: the lab's `setting`, or a model.
        values: of the question, JSON.
        blob: an adapter.
        bases: all deltas of the base so far, in their order.
    """

    what: str
    opening: Mapping[str, Any]
    values: Mapping[str, Any] = field(default_factory=dict)
    blob: bytes = b""
    bases: Sequence[bytes] = ()


class Asked(Protocol):
    """A `Worker`, or the lab in its place."""

    def ask(self, what: str, blob: bytes = b"", **values: Any) -> Answer:  # noqa: ANN401 - JSON
        """Ask for one thing and wait for the answer."""
        ...

    def stop(self) -> None:
        """End it."""
        ...


class LabWorker:
    """The lab's clients, asked as a `Worker` is."""

    _setting: Setting
    _lab: Lab

    def ask(self, what: str, blob: bytes = b"", **values: Any) -> Answer:  # noqa: ANN401 - JSON
        """Open, train one client, or add a delta to the base (without one: take all away)."""
        if what == "train":
            start, trains = load_arrays(blob), frozenset(values["trains"])
            job = Job(int(values["client"]), int(values["round"]), start, trains)
            return {}, save_tensors(next(self._lab.train([job])))
        if blob:
            self._lab.add_base(load_arrays(blob))
            return {}, b""
        if what == "open":
            self._setting = Setting.from_json(values["setting"])
        self._lab = Lab(self._setting)
        return {}, b""

    def stop(self) -> None:
        """Nothing runs."""


class Player:
    """One worker, opened when the first question comes, and what lies on its base."""

    def __init__(self) -> None:
        self._opening: Mapping[str, Any] = {}
        self._worker: Asked = LabWorker()
        self._opened: dict[str, Any] = {}
        self._laid: list[str] = []

    def answer(self, asked: Question) -> Answer:
        """Answer for one client.

        Raises:
            ConscienceError: it could not be done.
        """
        if asked.opening != self._opening:
            self._open(asked.opening)
        if asked.what == "open":
            return self._opened, b""
        self._lay(asked.bases)
        return self._worker.ask(asked.what, asked.blob, **asked.values)

    def _open(self, opening: Mapping[str, Any]) -> None:
        self._worker.stop()
        self._opening = {}
        self._worker = LabWorker() if "setting" in opening else Worker()
        self._opened, _ = self._worker.ask("open", **opening)
        self._opening, self._laid = opening, []

    def _lay(self, bases: Sequence[bytes]) -> None:
        wanted = [hashlib.sha256(each).hexdigest() for each in bases]
        if wanted[: len(self._laid)] != self._laid:
            self._worker.ask("base")
            self._laid = []
        for at in range(len(self._laid), len(wanted)):
            self._worker.ask("base", bases[at])
        self._laid = wanted


@functools.cache
def player() -> Player:
    """The one of this process: a base model is loaded once, whatever number of nodes it plays."""
    return Player()
