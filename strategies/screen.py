"""The screen: each update by itself against the rules, then its size against the others'.

Layer 1 is structure: `federation.adapter.checks`, and here who sent it, version and repetition.
Layer 2 is statistics on log-norms (`strategies.sizes`). Data in, data out: a bad update is a
refusal, never an exception, and what is refused has no influence on the verdict of the others.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from federation.adapter.checks import BOTH, Refusal, check_update
from federation.adapter.format import AdapterSpec
from federation.adapter.instructions import Factors, Instructions
from federation.adapter.manifest import PackageManifest
from federation.adapter.parts import at_rank, only
from federation.errors import AdapterError
from strategies.pairs import Norms, norms
from strategies.sizes import Judged, SizePolicy, Space, judge_sizes
from strategies.spool import SpooledUpdate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScreenPolicy:
    """Limits of the screen.

    Attributes:
        max_staleness: versions an update may lag behind the current one.
        max_rms: refuse when a factor moves by more than this per value (root mean square).
        gauge_safe: the rule does not depend on the gauge: leave factor space out.
        sizes: limits of the comparison of norms.
        asks: what the rule of this round wants of updates.
        keeps_home: nodes keep the other one: an update alone has no change of dW.
    """

    max_staleness: int = 7
    max_rms: float = 1.0
    gauge_safe: bool = False
    sizes: SizePolicy = field(default_factory=SizePolicy)
    asks: Instructions = BOTH
    keeps_home: bool = False


@dataclass(frozen=True)
class ScreenHistory:
    """What the server remembers as a round begins.

    Attributes:
        current_version: version of the current global adapter.
        settled: sha256 -> what became of it ("merged in v3"); these are duplicates.
        public_keys: node -> key of every admitted node; None checks no keys (simulation only).
        versions: version -> sha256 of its canonical manifest; others are not compared.
        log_norms: space -> log-norms accepted in earlier rounds, newest last.
        instructions: version -> what it asks of nodes; of others, both factors, whole.
    """

    current_version: int
    settled: Mapping[str, str] = field(default_factory=dict)
    public_keys: Mapping[str, str] | None = None
    versions: Mapping[int, str] = field(default_factory=dict)
    log_norms: Mapping[Space, Sequence[float]] = field(default_factory=dict)
    instructions: Mapping[int, Instructions] = field(default_factory=dict)


@dataclass(frozen=True)
class Accepted:
    """One update that goes into the merge.

    Attributes:
        clip: c in (0, 1], the share of its change that counts.
        staleness: versions it lags behind.
        score: its largest z; None when there was nothing to compare with.
    """

    sha256: str
    node: str
    examples: int
    clip: float = 1.0
    staleness: int = 0
    score: float | None = None


@dataclass(frozen=True)
class Refused:
    """One update that does not, and why."""

    sha256: str
    node: str
    refusal: Refusal


@dataclass(frozen=True)
class Screened:
    """Every update in exactly one of three lists, each sorted by sha256.

    Attributes:
        waiting: sha256 of updates left for a later round: their node has a newer one in this.
        log_norms: space -> log-norms of the accepted, after clipping; append to the history.
    """

    accepted: tuple[Accepted, ...] = ()
    refused: tuple[Refused, ...] = ()
    waiting: tuple[str, ...] = ()
    log_norms: Mapping[Space, tuple[float, ...]] = field(default_factory=dict)


def screen_updates(
    updates: Sequence[SpooledUpdate],
    spec: AdapterSpec,
    current: Mapping[str, npt.NDArray[np.float32]],
    policy: ScreenPolicy,
    history: ScreenHistory,
) -> Screened:
    """Judge each update; the verdicts do not depend on the order of `updates`.

    Of several good updates of one node the newest counts, by (global_version, sha256); the others
    wait without a verdict, for one node must not weigh twice in a round.
    """
    ordered = sorted(updates, key=lambda update: update.sha256)
    results: dict[str, Norms | Refusal] = {}
    for update in ordered:
        results[update.sha256] = _measure(update, spec, current, policy, history)
    refusals = {sha256: found for sha256, found in results.items() if isinstance(found, Refusal)}
    sound = [update for update in ordered if update.sha256 not in refusals]
    newest: dict[str, SpooledUpdate] = {}
    for update in sound:
        newest[update.node] = max(newest.get(update.node, update), update, key=_age)
    chosen = {update.sha256 for update in newest.values()}
    sizes = {sha256: found for sha256, found in results.items() if sha256 in chosen}
    judged = judge_sizes(_log_norms(sizes), _spaces(policy), policy.sizes, history.log_norms)
    refusals |= {sha256: _too_large(z, policy.sizes) for sha256, z in judged.outliers.items()}
    return Screened(
        accepted=tuple(
            _accept(update, judged, history) for update in sound if update.sha256 in judged.clips
        ),
        refused=tuple(
            Refused(update.sha256, update.node, refusals[update.sha256])
            for update in ordered
            if update.sha256 in refusals
        ),
        waiting=tuple(update.sha256 for update in sound if update.sha256 not in chosen),
        log_norms=judged.log_norms,
    )


def _measure(
    update: SpooledUpdate,
    spec: AdapterSpec,
    current: Mapping[str, npt.NDArray[np.float32]],
    policy: ScreenPolicy,
    history: ScreenHistory,
) -> Norms | Refusal:
    """Run layer 1; one update at a time is in memory."""
    try:
        refusal = _check_structure(update, spec, policy, history)
        if refusal is not None:
            return refusal
        found = norms(update, current, spec)
        update.release()
        return _check_norms(found, update.manifest, spec, policy) or found
    except AdapterError as err:
        return Refusal("format", err.message)
    except Exception as err:  # a hostile file must cost its sender, never the round
        logger.exception("update %s of node %s", update.sha256[:12], update.node)
        return Refusal("error", f"the update could not be read: {type(err).__name__}")


def _check_structure(
    update: SpooledUpdate, spec: AdapterSpec, policy: ScreenPolicy, history: ScreenHistory
) -> Refusal | None:
    if update.sha256 in history.settled:
        return Refusal("duplicate", f"judged before: {history.settled[update.sha256]}")
    keys = history.public_keys
    if keys is not None and update.node not in keys:
        return Refusal("identity", f"node {update.node} is not admitted")
    key = None if keys is None else keys[update.node]
    manifest = update.manifest
    asked = history.instructions.get(manifest.global_version, BOTH)
    refusal = check_update(update.package, spec, node=update.node, public_key=key, asked=asked)
    return refusal or _check_version(manifest, spec, policy, history)


def _check_version(
    manifest: PackageManifest, spec: AdapterSpec, policy: ScreenPolicy, history: ScreenHistory
) -> Refusal | None:
    version, current = manifest.global_version, history.current_version
    if version > current:
        return Refusal("version", f"trained from v{version}, but the newest is v{current}")
    if current - version > policy.max_staleness:
        behind = f"v{version}, {current - version} versions behind v{current}"
        return Refusal("stale", f"trained from {behind}; at most {policy.max_staleness} are taken")
    if history.versions.get(version, manifest.global_sha256) != manifest.global_sha256:
        return Refusal("version", f"trained from another v{version} than this federation's")
    return _check_rule(manifest, spec, policy, history)


def _check_rule(
    manifest: PackageManifest, spec: AdapterSpec, policy: ScreenPolicy, history: ScreenHistory
) -> Refusal | None:
    """Refuse what was made for a rule that wanted something else than this round's."""
    asked, wanted = history.instructions.get(manifest.global_version, BOTH), policy.asks
    if (asked.trains, asked.sends) != (wanted.trains, wanted.sends):
        version = f"v{manifest.global_version} asked for {asked.sends} of {asked.trains}"
        return Refusal("stale", f"{version}, this round for {wanted.sends} of {wanted.trains}")
    if manifest.rank != spec.rank and not wanted.any_rank:
        return Refusal("stale", f"rank {manifest.rank}; this round takes {spec.rank} alone")
    return None


def _check_norms(
    found: Norms, manifest: PackageManifest, spec: AdapterSpec, policy: ScreenPolicy
) -> Refusal | None:
    """Refuse what needs no statistics: nothing at all, or absurdly much."""
    if not all(math.isfinite(norm) for norm in (found.product, found.a, found.b)):
        return Refusal("finite", "its size is not finite")
    if (max(found.a, found.b) if policy.keeps_home else found.product) == 0.0:
        return Refusal("norm", "it changes nothing")
    sizes = at_rank(spec, manifest.rank).shapes
    parts: tuple[tuple[Factors, float], ...] = (("A", found.a), ("B", found.b))
    for factor, norm in parts:
        values = sum(math.prod(shape) for shape in only(sizes, factor).values())
        rms = norm / math.sqrt(values)
        if rms > policy.max_rms:
            limit = f"at most {policy.max_rms:g} is taken"
            return Refusal("norm", f"{factor} moves by {rms:.3g} per value; {limit}")
    return None


def _too_large(z: float, policy: SizePolicy) -> Refusal:
    limit = f"at most {policy.reject_z:g} is taken"
    return Refusal("norm", f"its size lies {z:.1f} spreads above the others'; {limit}")


def _accept(update: SpooledUpdate, judged: Judged, history: ScreenHistory) -> Accepted:
    return Accepted(
        sha256=update.sha256,
        node=update.node,
        examples=update.manifest.examples,
        clip=judged.clips[update.sha256],
        staleness=history.current_version - update.manifest.global_version,
        score=judged.scores.get(update.sha256),
    )


def _age(update: SpooledUpdate) -> tuple[int, str]:
    return update.manifest.global_version, update.sha256


def _spaces(policy: ScreenPolicy) -> tuple[Space, ...]:
    return ("product",) if policy.gauge_safe else ("product", "a", "b")


def _log_norms(found: Mapping[str, Norms | Refusal]) -> dict[str, dict[Space, float]]:
    return {
        sha256: {
            space: math.log(norm) if norm > 0 else -math.inf
            for space, norm in (("product", size.product), ("a", size.a), ("b", size.b))
        }
        for sha256, size in found.items()
        if isinstance(size, Norms)
    }
