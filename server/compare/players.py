"""Those who answer for nodes inside a process: each keeps one worker, and its base, warm.

A message may reach any of them, in any process. So each question says with what the worker is to be
opened and what has been added to the base so far; what is there already is kept. Whoever answers,
the answer is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from federation.adapter.tensors import load_arrays, save_tensors
from server.compare.workers import Answer, Asking, Worker
from strategies.compare.federate import Job
from strategies.compare.lab import Lab
from strategies.compare.setting import Setting


@dataclass(frozen=True)
class Question:
    """What one node is asked.

    Attributes:
        opening: what the worker is opened with: the lab's `setting`, or a model.
        tasks: "open", "train" or "measure", all alike, as `client.virtual` knows them; the lab
            only trains. One for each client that the node plays.
        laid: hashes of all deltas of the base so far, in their order.
        bases: these deltas.
    """

    opening: Mapping[str, Any]
    tasks: Sequence[Asking]
    laid: Sequence[str] = ()
    bases: Sequence[bytes] = ()


class Players(Protocol):
    """Whoever plays the clients of a comparison."""

    @property
    def opened(self) -> Mapping[str, Any]:
        """What one of them said when it was opened; all would say the same."""
        ...

    def add_base(self, delta: bytes) -> None:
        """Lay a delta on everybody's base."""
        ...

    def reset_base(self) -> None:
        """Give everybody's base its own weights back."""
        ...

    def each(self, tasks: Iterable[Asking]) -> Iterator[Answer]:
        """Do tasks, each by whoever is free; answers in the order of the tasks."""
        ...


class Asked(Protocol):
    """A `Worker`, or the lab in its place."""

    def ask(self, what: str, blob: bytes = b"", **values: Any) -> Answer:  # noqa: ANN401 - JSON
        """Ask for one thing and wait for the answer."""
        ...

    def each(self, tasks: Sequence[Asking]) -> list[Answer]:
        """Ask for what clients of one round do."""
        ...

    def stop(self) -> None:
        """End it."""
        ...


class LabWorker:
    """The lab's clients, asked as a `Worker` is; they train at once."""

    _setting: Setting
    _lab: Lab

    def ask(self, what: str, blob: bytes = b"", **values: Any) -> Answer:  # noqa: ANN401 - JSON
        """Open, or add a delta to the base (without one: take all away)."""
        if blob:
            self._lab.add_base(load_arrays(blob))
            return {}, b""
        if what == "open":
            self._setting = Setting.from_json(values["setting"])
        self._lab = Lab(self._setting)
        return {}, b""

    def each(self, tasks: Sequence[Asking]) -> list[Answer]:
        """Train clients of one round, all by the same factors."""
        jobs = []
        for _what, blob, values in tasks:
            trains = frozenset(values["trains"])
            jobs.append(Job(values["client"], values["round"], load_arrays(blob), trains))
        return [({}, save_tensors(found)) for found in self._lab.train(jobs)]

    def stop(self) -> None:
        """Nothing runs."""


class Player:
    """One worker, opened when the first question comes, and what lies on its base."""

    def __init__(self) -> None:
        self._opening: Mapping[str, Any] = {}
        self._worker: Asked = LabWorker()
        self._opened: dict[str, Any] = {}
        self._laid: list[str] = []

    def answer(self, asked: Question) -> list[Answer]:
        """Answer for the clients of one node, in the order of the tasks.

        Raises:
            ConscienceError: it could not be done; whatever is raised, the worker is opened anew for
                the next question.
        """
        try:
            if asked.opening != self._opening:
                self._open(asked.opening)
            if asked.tasks[0][0] == "open":
                return [(self._opened, b"")] * len(asked.tasks)
            self._lay(asked)
            return self._worker.each(asked.tasks)
        except BaseException:  # also when interrupted, with an answer still in the pipe
            self._opening = {}
            raise

    def stop(self) -> None:
        """End the worker."""
        self._worker.stop()

    def _open(self, opening: Mapping[str, Any]) -> None:
        self._worker.stop()
        self._opening = {}
        self._worker = LabWorker() if "setting" in opening else Worker()
        self._opened, _ = self._worker.ask("open", **opening)
        self._opening, self._laid = opening, []

    def _lay(self, asked: Question) -> None:
        wanted = list(asked.laid)
        if wanted[: len(self._laid)] != self._laid:
            self._worker.ask("base")
            self._laid = []
        for delta in asked.bases[len(self._laid) :]:
            self._worker.ask("base", delta)
        self._laid = wanted


class Stage:
    """Players who are free; there are as many as have ever answered at once."""

    def __init__(self) -> None:
        self._free: list[Player] = []

    @contextmanager
    def player(self) -> Iterator[Player]:
        """Somebody who is free: who has just answered, or a new one."""
        try:
            player = self._free.pop()  # one step, whatever other threads do
        except IndexError:
            player = Player()
        try:
            yield player
        finally:
            self._free.append(player)

    def close(self) -> None:
        """End the workers of all who are free."""
        while self._free:
            self._free.pop().stop()


STAGE = Stage()  # of this process


def starts_of(jobs: Sequence[Job]) -> dict[int, bytes]:
    """What jobs begin with, as bytes, by its `id`: most of a round's begin with the same."""
    starts = {id(job.start): job.start for job in jobs}
    return {name: save_tensors(start) for name, start in starts.items()}
