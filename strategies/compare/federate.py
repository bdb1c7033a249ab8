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

from federation.adapter.blur import blurred
from federation.adapter.delta import subtract
from federation.adapter.format import AdapterSpec
from federation.adapter.parts import at_rank, leading
from federation.adapter.tensors import Arrays
from federation.errors import RoundError
from strategies.candidate import Combined, Place, combine, step
from strategies.compare.arms import FLOWER, CellMemory, Noise, baseline_named, parse_noise
from strategies.compare.attacks import corrupt, parse
from strategies.compare.lost import lost
from strategies.compare.setting import Setting, check
from strategies.compare.sized import Sifted, sift, unsifted
from strategies.compare.wire import Coder, VirtualUpdate, factors
from strategies.merge import Merged
from strategies.optimiser import StepPolicy
from strategies.policy import RoundPolicy
from strategies.weigh import WeighPolicy

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
        self.noise = parse_noise(setting.noise)
        honest = [at for at in range(setting.clients) if at not in self.hostile]
        self.policy = policy_of(setting, self.noise, trusted=honest[0])
        self.memory = CellMemory()
        self.kept: dict[int, Arrays] = {}
        self.norms: dict[str, tuple[float, ...]] = {}
        self.specs = [at_rank(self.spec, setting.rank_of(at)) for at in range(setting.clients)]
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
        return self.task.measure([self._start(client) for client in range(len(self.specs))])

    def round(self, number: int) -> dict[str, Any]:
        """One round; returns what is told of it."""
        updates = self._collect(number)
        began = time.process_time()
        sifted = self._sift(updates)
        chosen = [updates[client] for client in sifted.accepted]
        told: dict[str, Any] = {
            "accepted": len(chosen),
            "refused": len(sifted.refused),
            "refused_honest": len(set(sifted.refused) - self.hostile),
            "note": "",
        }
        place = Place(self.spec, number - 1, self.current, {}, self.memory)
        try:
            combined = self._combine(sifted, chosen, place)
        except RoundError as err:  # too few for the weigher: the current version stays
            self.seconds = time.process_time() - began
            return {"up": self.up, "down": self.down} | told | {"accepted": 0, "note": err.message}
        self._adopt(combined.merged, place)
        self.seconds = time.process_time() - began
        if not self.setting.strategy.startswith(FLOWER):  # what those gave each is not known
            shares = zip(sifted.accepted, combined.weights, strict=True)
            told["hostile_weight"] = float(sum(w for at, w in shares if at in self.hostile))
        if self.noise.place != "none":
            told["epsilon"] = self.noise.epsilon(number)
        elif chosen and len(self.specs) <= MEASURED_CLIENTS:
            told["lost"] = lost(combined.merged, chosen, combined.weights, place.current, self.spec)
        return {"up": self.up, "down": self.down} | told

    def _collect(self, number: int) -> list[VirtualUpdate]:
        """Let everybody train; what is sent, coded."""
        traits = self.rule.traits
        trains, sends = traits.trains(number), traits.sends(number)
        jobs = [Job(at, number, self._start(at), trains) for at in range(len(self.specs))]
        updates: list[VirtualUpdate] = []
        deltas: list[Arrays] = []
        for job, trained in zip(jobs, self.task.train(jobs), strict=True):
            if traits.keeps:
                self.kept[job.client] = factors(trained, traits.keeps)
            change = subtract(trained, job.start)
            for name in change.keys() - factors(change, sends).keys():
                change[name][:] = 0
            if self.hostile:  # they look at what the others changed
                deltas.append(change)
            else:
                updates.append(self._coded(job, change, sends))
        if self.hostile:
            rng = np.random.default_rng([self.setting.seed, 17, number])
            starts = [job.start for job in jobs]
            deltas = corrupt(self.attack, deltas, starts, self.hostile, rng)
        for job, delta in zip(jobs, deltas, strict=False):
            updates.append(self._coded(job, delta, sends))
        return updates

    def _coded(self, job: Job, delta: Arrays, sends: frozenset[str]) -> VirtualUpdate:
        """What a client sends."""
        if self.noise.place == "local" and job.client not in self.hostile:
            delta = self._blurred(job.client, delta, sends, job.number)
        self.up += self.coder.bytes_of(delta, sends)
        return self.coder.code(job.client, delta, sends)

    def _blurred(self, client: int, delta: Arrays, sends: frozenset[str], number: int) -> Arrays:
        rng = np.random.default_rng([self.setting.seed, 19, number, client])
        sent = factors(delta, sends)
        return delta | blurred(sent, self.noise.clip_norm, self.noise.multiplier, rng)

    def _start(self, client: int) -> Mapping[str, F32]:
        if self.specs[client] is self.spec and not self.kept:
            return self.current
        return leading(self.current, self.specs[client]) | self.kept.get(client, {})

    def _sift(self, updates: list[VirtualUpdate]) -> Sifted:
        examples = [self.task.examples(client) for client in range(len(updates))]
        if not self.setting.screen or self.noise.place == "central":
            return unsifted(updates, examples)
        safe = self.rule.traits.gauge_safe
        place = self.current, self.spec
        sifted = sift(updates, examples, place, self.norms, gauge_safe=safe)
        for space, values in sifted.log_norms.items():
            self.norms[space] = (*self.norms.get(space, ()), *values)
        return sifted

    def _combine(self, sifted: Sifted, chosen: list[VirtualUpdate], place: Place) -> Combined:
        if not chosen:
            raise RoundError("no update passed the screen")
        if self.setting.strategy.startswith(FLOWER):
            from strategies.flower_baselines import merge_by

            baseline, hostile = baseline_named(self.setting.strategy), self.setting.suspected
            arrays = merge_by(baseline, chosen, place.current, place.spec, hostile=hostile)
            return Combined(Merged(arrays, {}), np.full(len(chosen), 1.0 / len(chosen)))
        drawn = np.random.default_rng([self.setting.seed, 23, place.version])
        return combine(self.policy, list(sifted.accepted.values()), chosen, place, drawn)

    def _adopt(self, merged: Merged, place: Place) -> None:
        proposed, moments = step(self.policy, merged.adapter, place)
        if moments:
            self.memory.keep_moments(proposed, self.policy.optimiser, moments)
        ranks = sum(spec.rank for spec in self.specs)
        for name, value in proposed.items():
            if not np.array_equal(value, self.current[name]):
                self.down += 4 * value.size * ranks // self.spec.rank
        self.current = proposed
        if merged.base:
            self.down += 4 * len(self.specs) * sum(value.size for value in merged.base.values())
            self.task.add_base(merged.base)


def policy_of(setting: Setting, noise: Noise, *, trusted: int) -> RoundPolicy:
    """Return what a server's round would be told; client `trusted` is the operator's own."""
    return RoundPolicy(
        strategy=setting.strategy,
        seed=setting.seed,
        weigh=WeighPolicy(by=setting.weigher, trusted=str(trusted)),
        optimiser=setting.optimiser,
        step=StepPolicy(lr=setting.server_lr),
        privacy=noise.privacy,
    )


def _hash(arrays: Mapping[str, F32]) -> str:
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(np.ascontiguousarray(arrays[name]).tobytes())
    return total.hexdigest()
