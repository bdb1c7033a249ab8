"""One round without Flower: from the packages in the spool to a published version, or none.

The spool is the durable inbox. Whatever lies in it takes part, whether it came a moment ago or
before the process was killed, so a round that died anywhere is finished by the next call.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from federation.adapter.checks import Refusal
from federation.adapter.format import AdapterSpec
from federation.adapter.manifest import GlobalManifest, InputRecord
from federation.adapter.tensors import Arrays
from federation.errors import AdapterError, RoundError
from strategies.catalogue import find
from strategies.gate import GateDecision
from strategies.merge import merge
from strategies.pairs import gram
from strategies.rule import Ctx
from strategies.screen import Accepted, Screened, ScreenHistory, ScreenPolicy, screen_updates
from strategies.spool import Arrival, Spool, SpooledUpdate
from strategies.weigh import WeighPolicy, weights_for

logger = logging.getLogger(__name__)
Mode = Literal["collect", "live"]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Member:
    """An admitted node: `node` is its pseudonym, `public_key` its Ed25519 key (hex)."""

    node: str
    public_key: str
    name: str = ""


class Shelf(Protocol):
    """Where global adapters stand: `server.registry.Registry` is one."""

    @property
    def current(self) -> int:
        """Number of the current version."""

    def stored(self, version: int) -> Mapping[str, F32]:
        """Tensors of a version, read one by one as they are asked for."""

    def publish(
        self, arrays: Arrays, *, strategy: str, inputs: Sequence[InputRecord], gate: dict[str, Any]
    ) -> GlobalManifest:
        """Sign and store the next version and make it current, atomically."""

    def manifest_hashes(self) -> dict[int, str]:
        """Version to the sha256 of its canonical manifest."""

    def merged_inputs(self) -> dict[str, int]:
        """Package hash to the version it was merged into, over all versions."""


class Ledger(Protocol):
    """What became of each package: `server.intake.Intake` is one."""

    def settled(self, sha256: str, node: str = "") -> bool:
        """Whether this node's package must not be used again."""

    def record_spooled(self, sha256: str, *, node: str) -> bool:
        """Write down that the package lies in the spool; False if it is settled."""

    def record_merged(self, sha256: str, *, node: str, version: int) -> None:
        """Write down that the package went into `version`."""

    def record_refused(self, sha256: str, *, node: str, code: str, detail: str) -> None:
        """Write down why the package was refused."""


class Gate(Protocol):
    """Held-out comparison: `server.gate.GateRunner` is behind one."""

    def decide(self, current: Mapping[str, F32], candidate: Arrays) -> GateDecision:
        """Compare both on held-out text."""

    def keep(self, candidate: Arrays, decision: GateDecision) -> None:
        """Put a refused candidate aside for study."""


@dataclass(frozen=True)
class RoundPolicy:
    """Plain values of one round.

    Attributes:
        mode: "collect" (packages from outboxes) or "live" (trained on the spot).
        quorum: fewest accepted updates to merge, ≥ 1.
        strategy: name of the reducer in the catalogue.
        seed: of whatever randomness the reducer uses.
        log_norms: accepted in earlier rounds, as `Outcome.log_norms` gave them.
    """

    mode: Mode = "collect"
    quorum: int = 1
    strategy: str = "fedit"
    seed: int = 0
    log_norms: Mapping[str, Sequence[float]] = field(default_factory=dict)
    screen: ScreenPolicy = field(default_factory=ScreenPolicy)
    weigh: WeighPolicy = field(default_factory=WeighPolicy)


@dataclass
class Outcome:
    """What one round did, ready for JSON."""

    version: int | None = None
    reason: str = ""
    merged: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    waiting: int = 0
    gate: dict[str, Any] = field(default_factory=dict)
    log_norms: dict[str, tuple[float, ...]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain dict of the fields."""
        return asdict(self)


class Round:
    """Takes packages in and, at the end, merges what passed the screen.

    Args:
        spec: what an update must look like.
        spool: the durable inbox.
        members: pseudonym -> admitted node; an update of anybody else is refused.
        shelf: published versions.
        ledger: verdicts.
    """

    def __init__(
        self,
        spec: AdapterSpec,
        spool: Spool,
        members: Mapping[str, Member],
        shelf: Shelf,
        ledger: Ledger,
    ) -> None:
        self.spec = spec
        self.spool = spool
        self.members = members
        self.shelf = shelf
        self.ledger = ledger

    def take(self, data: bytes | memoryview, arrival: Arrival) -> Refusal | None:
        """Store a package as it came; nothing is read from it yet.

        Returns:
            Why it was not stored, or None.
        """
        try:
            entry = self.spool.add(data, arrival)
        except (AdapterError, RoundError) as err:
            return Refusal("size", err.message)
        if not self.ledger.record_spooled(entry.sha256, node=arrival.node):
            self.spool.discard(entry.sha256)
            return Refusal("duplicate", "this package has been judged before")
        return None

    def reconcile(self) -> None:
        """Forget spooled packages that a version or a verdict already accounts for."""
        merged = self.shelf.merged_inputs()
        for entry in self.spool.entries():
            sha256, node = entry.sha256, entry.arrival.node
            if sha256 in merged:
                self.ledger.record_merged(sha256, node=node, version=merged[sha256])
            if sha256 in merged or self.ledger.settled(sha256, node):
                self.spool.discard(sha256)

    def finish(
        self,
        policy: RoundPolicy,
        gate: Gate,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> Outcome:
        """Screen, weigh, reduce, gate and register all that the spool holds.

        Never raises because of a package: a bad one is refused, with its node and the reason.

        Args:
            policy: plain values of this round.
            gate: compares candidate and current.
            clock: monotonic seconds.
        """
        outcome = Outcome()
        lap = _Lap(outcome.seconds, clock)
        self.reconcile()
        current = self.shelf.stored(self.shelf.current)
        updates = {entry.sha256: self.spool.open(entry.sha256) for entry in self.spool.entries()}
        screened = self._screen(policy, current, list(updates.values()), outcome)
        lap("screen")
        if len(screened.accepted) < policy.quorum:
            outcome.reason = (
                f"{len(screened.accepted)} of at least {policy.quorum} good updates; "
                "the current version stays and the updates wait"
            )
            outcome.waiting += len(screened.accepted)
            return outcome
        accepted = [updates[update.sha256] for update in screened.accepted]
        try:
            weights = weights_for(
                screened.accepted, policy.weigh, lambda: gram(accepted, current, self.spec)
            )
        except RoundError as err:  # too few for the weigher: as with the quorum
            outcome.reason = f"{err.message}; the current version stays and the updates wait"
            outcome.waiting += len(accepted)
            return outcome
        candidate = self._merge(policy, accepted, weights, current)
        lap("merge")
        decision = gate.decide(current, candidate)
        outcome.gate, outcome.reason = decision.to_json(), decision.reason
        lap("gate")
        if decision.accepted:
            self._publish(
                policy, candidate, list(zip(screened.accepted, weights, strict=True)), outcome
            )
            outcome.log_norms = {k: tuple(v) for k, v in screened.log_norms.items()}
        else:
            gate.keep(candidate, decision)
            self._refuse_all(screened.accepted, decision.reason, outcome)
        lap("register")
        return outcome

    def _screen(
        self,
        policy: RoundPolicy,
        current: Mapping[str, F32],
        updates: Sequence[SpooledUpdate],
        outcome: Outcome,
    ) -> Screened:
        history = ScreenHistory(
            current_version=self.shelf.current,
            versions=self.shelf.manifest_hashes(),
            public_keys={node: member.public_key for node, member in self.members.items()},
            log_norms=policy.log_norms,
        )
        screened = screen_updates(updates, self.spec, current, policy.screen, history)
        for refused in screened.refused:
            self._refuse(refused.sha256, refused.node, refused.refusal, outcome)
        outcome.waiting = len(screened.waiting)
        return screened

    def _merge(
        self,
        policy: RoundPolicy,
        updates: Sequence[SpooledUpdate],
        weights: npt.NDArray[np.float64],
        current: Mapping[str, F32],
    ) -> Arrays:
        number = self.shelf.current + 1
        rng = np.random.default_rng((policy.seed, number))
        return merge(
            updates,
            weights,
            current,
            self.spec,
            find(policy.strategy).reduce,
            Ctx(round=number, rank=self.spec.rank, rng=rng),
        )

    def _publish(
        self,
        policy: RoundPolicy,
        candidate: Arrays,
        shares: Sequence[tuple[Accepted, np.float64]],
        outcome: Outcome,
    ) -> None:
        inputs = [
            InputRecord(sha256=update.sha256, weight=float(weight), staleness=update.staleness)
            for update, weight in shares
        ]
        manifest = self.shelf.publish(
            candidate, strategy=policy.strategy, inputs=inputs, gate=outcome.gate
        )
        outcome.version = manifest.version
        for (update, _weight), record in zip(shares, inputs, strict=True):
            self.ledger.record_merged(update.sha256, node=update.node, version=manifest.version)
            self.spool.discard(update.sha256)
            # whose it was and how many its examples stays with the operator
            private = {"node": update.node, "examples": update.examples}
            outcome.merged.append(record.model_dump(mode="json") | private)

    def _refuse(self, sha256: str, node: str, refusal: Refusal, outcome: Outcome) -> None:
        logger.warning("refused %s of node %s: %s", sha256[:12], node, refusal.code)
        self.ledger.record_refused(sha256, node=node, code=refusal.code, detail=refusal.detail)
        self.spool.discard(sha256)
        outcome.refused.append(
            {"sha256": sha256, "node": node, "code": refusal.code, "detail": refusal.detail}
        )

    def _refuse_all(self, accepted: Sequence[Accepted], reason: str, outcome: Outcome) -> None:
        refusal = Refusal("gate", f"the merged candidate was not published: {reason}")
        for update in accepted:
            self._refuse(update.sha256, update.node, refusal, outcome)


class _Lap:
    """Writes down how long each step took."""

    def __init__(self, seconds: dict[str, float], clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._last = clock()

    def __call__(self, name: str) -> None:
        now = self._clock()
        self._seconds[name] = now - self._last
        self._last = now
