"""Rounds in memory: the code of a real round from coding to server optimiser, without files.

    train -> attack -> code -> screen sizes -> weigh -> reduce -> server optimiser

Where clients train is behind `Task`. A real round also checks signatures, hashes and schemas of
packages, and its gate refuses candidates; neither is here.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from federation.adapter.delta import subtract
from federation.adapter.format import AdapterSpec
from federation.adapter.tensors import Arrays
from federation.errors import RoundError
from strategies.compare.attacks import corrupt, parse
from strategies.compare.fitted import Clients, fitted
from strategies.compare.setting import Setting, check
from strategies.compare.sized import Sifted, sift, unsifted
from strategies.compare.wire import Coder, VirtualUpdate, factors
from strategies.merge import Merged, merge_all
from strategies.optimiser import State, StepPolicy, find_optimiser, take_step
from strategies.pairs import gram
from strategies.rule import Ctx
from strategies.weigh import WeighPolicy, weights_for

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
MEASURED_CLIENTS = 64  # with more, what averaging loses is not worked out: N² r² numbers a module


@dataclass(frozen=True)
class Job:
    """One client's part of one round.

    Attributes:
        start: the adapter it begins with, at its rank; not modified.
        trains: the factors it trains, of "A" and "B".
    """

    client: int
    number: int
    start: Mapping[str, F32]
    trains: frozenset[str]


@dataclass(frozen=True)
class Measured:
    """Held-out loss: overall, and by part (a client of the lab, a field of texts)."""

    loss: float
    parts: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Loss, the largest loss of a part, and all parts."""
        worst = max(self.parts.values(), default=self.loss)
        return {"loss": self.loss, "worst": worst, "parts": self.parts}


class Task(Protocol):
    """Clients with their data, and what is measured: the lab is one, a language model another."""

    @property
    def spec(self) -> AdapterSpec:
        """The global adapter."""
        ...

    def initial(self) -> Arrays:
        """The adapter that all begin with."""
        ...

    def examples(self, client: int) -> int:
        """How many examples the client says it has."""
        ...

    def train(self, jobs: Sequence[Job]) -> Iterator[Arrays]:
        """Train each job; results in the order of `jobs`."""
        ...

    def measure(self, adapters: Sequence[Mapping[str, F32]]) -> Measured:
        """Measure the global adapter, or one adapter per client where each keeps its own."""
        ...

    def add_base(self, delta: Arrays) -> None:
        """Add a low-rank delta (scale 1) to the frozen base of all clients."""
        ...

    def facts(self) -> dict[str, str]:
        """Hashes of what all arms must share: base, data and their order."""
        ...


@dataclass
class Record:
    """What one cell gave, ready for JSON; equal settings give equal bytes but for `seconds`.

    Attributes:
        rounds: loss, worst part, bytes so far and the rest, one dict a round; the first is round 0.
        seconds: CPU seconds of the server's work, round by round.
    """

    setting: dict[str, Any]
    facts: dict[str, str] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain dict of the fields."""
        return asdict(self)


def federate(
    task: Task, setting: Setting, *, report: Callable[[int, float], None] = lambda _n, _loss: None
) -> Record:
    """Run all rounds of one cell.

    Args:
        task: fresh: what `add_base` gave it is part of its state.
        setting: of the cell.
        report: told round and loss after each round.

    Raises:
        ConfigError: the cell makes no sense.
    """
    run = _Federation(task, setting)
    record = Record(setting.to_json(), run.facts())
    record.rounds.append({"round": 0, "up": 0, "down": 0} | run.measure().to_json())
    for number in range(1, setting.rounds + 1):
        told = run.round(number)
        found = run.measure()
        record.rounds.append({"round": number} | told | found.to_json())
        record.seconds.append(run.seconds)
        report(number, found.loss)
    return record


class _Federation:
    """What lasts from one round to the next."""

    def __init__(self, task: Task, setting: Setting) -> None:
        self.task, self.setting = task, setting
        self.rule = check(setting)
        self.spec, self.current = task.spec, task.initial()
        self.attack = parse(setting.attack)
        self.hostile = self.attack.hostile(setting.clients, setting.seed)
        self.coder = Coder(setting.coding, feedback=not self.rule.traits.refactorises)
        self.optimiser = find_optimiser(setting.optimiser)
        self.moments: dict[str, State] = {}
        self.kept: dict[int, Arrays] = {}
        self.norms: dict[str, tuple[float, ...]] = {}
        self.ranks = [setting.rank_of(client) for client in range(setting.clients)]
        self.up = self.down = 0
        self.seconds = 0.0

    def facts(self) -> dict[str, str]:
        """What all arms of a panel must share."""
        steps = f"{self.setting.rounds} × {self.setting.steps}"
        return self.task.facts() | {"initial": _hash(self.current), "steps": steps}

    def measure(self) -> Measured:
        """Held-out loss of the global adapter, or of each client's own."""
        if not self.rule.traits.keeps:
            return self.task.measure([self.current])
        return self.task.measure([self._start(client) for client in range(len(self.ranks))])

    def round(self, number: int) -> dict[str, Any]:
        """One round; returns what is told of it."""
        updates = self._collect(number)
        began = time.process_time()
        sifted = self._sift(updates)
        places, weights, note = self._weigh(updates, sifted)
        clients = Clients(
            [updates[place] for place in places],
            [self.ranks[place] for place in places],
            self.current,
            self.spec,
        )
        merged = self._merge(number, clients, weights)
        told: dict[str, Any] = {
            "accepted": len(places),
            "refused": len(sifted.refused),
            "refused_honest": len(set(sifted.refused) - self.hostile),
            "hostile_weight": float(
                sum(w for at, w in zip(places, weights, strict=True) if at in self.hostile)
            ),
            "note": note,
        }
        self._adopt(merged)
        self.seconds = time.process_time() - began
        if places and len(self.ranks) <= MEASURED_CLIENTS:
            told["lost"] = clients.lost(merged, weights)
        return {"up": self.up, "down": self.down} | told

    def _collect(self, number: int) -> list[VirtualUpdate]:
        """Let everybody train; what is sent, coded."""
        traits = self.rule.traits
        trains, sends = traits.trains(number), traits.sends(number)
        jobs = [Job(at, number, self._start(at), trains) for at in range(len(self.ranks))]
        deltas: list[Arrays] = []
        for job, trained in zip(jobs, self.task.train(jobs), strict=True):
            if traits.keeps:
                self.kept[job.client] = factors(trained, traits.keeps)
            change = subtract(trained, job.start)
            for name in change.keys() - factors(change, sends).keys():
                change[name][:] = 0
            deltas.append(change)
        if self.hostile:
            rng = np.random.default_rng([self.setting.seed, 17, number])
            starts = [job.start for job in jobs]
            deltas = corrupt(self.attack, deltas, starts, self.hostile, rng)
        self.up += sum(self.coder.bytes_of(delta, sends) for delta in deltas)
        return [self.coder.code(client, delta, sends) for client, delta in enumerate(deltas)]

    def _start(self, client: int) -> Mapping[str, F32]:
        if self.ranks[client] == self.spec.rank and not self.kept:
            return self.current
        start = fitted(self.current, self.spec, self.ranks[client])
        return start | self.kept.get(client, {})

    def _sift(self, updates: list[VirtualUpdate]) -> Sifted:
        examples = [self.task.examples(client) for client in range(len(updates))]
        if not self.setting.screen or set(self.ranks) != {self.spec.rank}:
            return unsifted(updates, examples)
        safe = self.rule.traits.gauge_safe
        place = self.current, self.spec
        sifted = sift(updates, examples, place, self.norms, gauge_safe=safe)
        for space, values in sifted.log_norms.items():
            self.norms[space] = (*self.norms.get(space, ()), *values)
        return sifted

    def _weigh(self, updates: list[VirtualUpdate], sifted: Sifted) -> tuple[list[int], F64, str]:
        places = list(sifted.accepted)
        chosen = [updates[place] for place in places]
        try:
            weights = weights_for(
                list(sifted.accepted.values()),
                WeighPolicy(by=self.setting.weigher),
                lambda: gram(chosen, self.current, self.spec),
            )
        except RoundError as err:  # too few for the weigher: the current version stays
            return [], np.empty(0), err.message
        return places, weights, ""

    def _merge(self, number: int, clients: Clients, weights: F64) -> Merged:
        rng = np.random.default_rng((self.setting.seed, number))
        ctx = Ctx(round=number, rank=self.spec.rank, rng=rng)
        if set(self.ranks) != {self.spec.rank}:
            return clients.merge(weights, self.rule.reduce, ctx)
        return merge_all(clients.updates, weights, self.current, self.spec, self.rule.reduce, ctx)

    def _adopt(self, merged: Merged) -> None:
        proposed = merged.adapter
        if self.optimiser is not None:
            policy = StepPolicy(lr=self.setting.server_lr)
            stepped = take_step(self.optimiser, self.current, proposed, self.moments, policy)
            proposed, self.moments = stepped.adapter, stepped.state
        for name, value in proposed.items():
            if not np.array_equal(value, self.current[name]):
                self.down += 4 * value.size * sum(self.ranks) // self.spec.rank
        self.current = proposed
        if merged.base:
            self.down += 4 * len(self.ranks) * sum(value.size for value in merged.base.values())
            self.task.add_base(merged.base)


def _hash(arrays: Mapping[str, F32]) -> str:
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(np.ascontiguousarray(arrays[name]).tobytes())
    return total.hexdigest()
