"""One round without Flower: from the packages in the spool to a published version, or none.

The spool is the durable inbox. Whatever lies in it takes part, whether it came a moment ago or
before the process was killed, so a round that died anywhere is finished by the next call.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from federation.adapter.checks import Refusal
from federation.adapter.format import AdapterSpec
from federation.adapter.instructions import Terms
from federation.adapter.manifest import InputRecord
from federation.errors import AdapterError, RoundError
from strategies.books import NO_BASES, Bases, Gate, Ledger, Member, Memory, Shelf
from strategies.candidate import Candidate, Place, make
from strategies.catalogue import find
from strategies.gate import GateDecision
from strategies.policy import Mode, RoundPolicy
from strategies.screen import Accepted, Screened, ScreenHistory, screen_updates
from strategies.sizes import SizePolicy
from strategies.spool import Arrival, Spool, SpooledUpdate

__all__ = [
    "NO_BASES",
    "Bases",
    "Gate",
    "Ledger",
    "Member",
    "Memory",
    "Mode",
    "Outcome",
    "Round",
    "RoundPolicy",
    "Shelf",
]

logger = logging.getLogger(__name__)
F32 = npt.NDArray[np.float32]


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
        memory: what rounds remember; needed by server optimisers with a memory and for privacy.
    """

    def __init__(
        self,
        spec: AdapterSpec,
        spool: Spool,
        members: Mapping[str, Member],
        shelf: Shelf,
        ledger: Ledger,
        memory: Memory | None = None,
    ) -> None:
        self.spec = spec
        self.spool = spool
        self.members = members
        self.shelf = shelf
        self.ledger = ledger
        self.memory = memory

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
        version = self.shelf.current
        place = Place(self.spec, version, current, self.shelf.base(version), self.memory)
        try:
            candidate = make(policy, screened.accepted, accepted, place)
        except RoundError as err:  # too few for the weigher: as with the quorum
            outcome.reason = f"{err.message}; the current version stays and the updates wait"
            outcome.waiting += len(accepted)
            return outcome
        lap("merge")
        decision = self._judge(policy, gate, current, candidate)
        outcome.gate, outcome.reason = decision.to_json(), decision.reason
        if candidate.spent:
            outcome.gate["privacy"] = candidate.spent
        lap("gate")
        if decision.accepted:
            self._publish(policy, candidate, screened.accepted, outcome)
            outcome.log_norms = {k: tuple(v) for k, v in screened.log_norms.items()}
        else:
            gate.keep(candidate.arrays, decision, *_given(candidate.bases))
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
            instructions=self.shelf.instructions(),
        )
        traits = find(policy.strategy).traits
        wanted = traits.asks(self.shelf.current + 1)
        limits = replace(policy.screen, asks=wanted, keeps_home=bool(traits.keeps))
        if policy.privacy is not None:  # what one node sends must not change another's share
            limits = replace(limits, sizes=SizePolicy(clip_z=math.inf, reject_outliers=False))
        screened = screen_updates(updates, self.spec, current, limits, history)
        for refused in screened.refused:
            self._refuse(refused.sha256, refused.node, refused.refusal, outcome)
        outcome.waiting = len(screened.waiting)
        return screened

    def _judge(
        self,
        policy: RoundPolicy,
        gate: Gate,
        current: Mapping[str, F32],
        candidate: Candidate,
    ) -> GateDecision:
        """Ask the gate; where each node keeps a factor, there is no model that it could judge."""
        if not find(policy.strategy).traits.keeps:
            return gate.decide(current, candidate.arrays, *_given(candidate.bases))
        if not all(np.isfinite(value).all() for value in candidate.arrays.values()):
            return GateDecision(False, "The candidate holds values that are not finite.")
        return GateDecision(True, "Not measured: each node has a model of its own.")

    def _publish(
        self,
        policy: RoundPolicy,
        candidate: Candidate,
        accepted: Sequence[Accepted],
        outcome: Outcome,
    ) -> None:
        inputs = [
            InputRecord(sha256=update.sha256, weight=float(weight), staleness=update.staleness)
            for update, weight in zip(accepted, candidate.shares, strict=True)
        ]
        if self.memory is not None and candidate.moments:
            self.memory.keep_moments(candidate.arrays, policy.optimiser, candidate.moments)
        asks = find(policy.strategy).traits.asks(self.shelf.current + 2)
        manifest = self.shelf.publish(
            candidate.arrays,
            strategy=policy.strategy,
            inputs=inputs,
            gate=outcome.gate,
            terms=Terms(asks, candidate.bases.after),
        )
        outcome.version = manifest.version
        for update, record in zip(accepted, inputs, strict=True):
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


def _given(bases: Bases) -> tuple[Bases, ...]:
    """One more argument for a gate, only where something is added to the base model."""
    return (bases,) if bases.before or bases.after else ()


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
