"""The operator's books as the strategy asks for them: nodes, intake, registry behind one door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from federation.adapter.format import Arrays
from federation.protocol import Offer, Verdict
from server.config import ServerConfig
from server.gate import GateRunner
from server.intake import Intake
from server.nodes import Nodes
from server.onion_clients import PORT, OnionClients
from server.registry import Registry
from strategies.gate import GateDecision, GatePolicy, decide
from strategies.round import NO_BASES, Bases, Member


class ServerDesk:
    """Answers the strategy's questions from the operator's own records.

    Args:
        nodes: who is admitted.
        intake: what became of each package.
        registry: published versions.
        max_staleness: an offer trained further behind than this is expired, not asked for.
        onion: the onion addresses, if there are any.
    """

    def __init__(
        self,
        nodes: Nodes,
        intake: Intake,
        registry: Registry,
        *,
        max_staleness: int,
        onion: OnionClients | None = None,
    ) -> None:
        self._nodes = nodes
        self._intake = intake
        self._registry = registry
        self._max_staleness = max_staleness
        self._onion = onion
        self._rows: tuple[int, dict[int, bytes]] = (-1, {})

    def member(self, flower_node_id: int) -> Member | None:
        """The admitted node behind a Flower node id; None for strangers and banned nodes."""
        node = self._nodes.by_flower_id(flower_node_id)
        if node is None or node.status != "active":
            return None
        return Member(node=node.pseudonym, public_key=node.signing_key, name=node.name)

    def members(self) -> Mapping[str, Member]:
        """All admitted nodes by pseudonym."""
        return {
            node.pseudonym: Member(node.pseudonym, node.signing_key, node.name)
            for node in self._nodes.active()
        }

    def choose(self, member: Member, offers: Sequence[Offer]) -> str:
        """The oldest offer that is new to us; those too old to be used are expired on the way."""
        current = self._registry.current
        for offer in offers:
            if self._intake.settled(offer.sha256, member.node):
                continue
            if self._intake.record(offer.sha256, member.node) is not None:
                continue  # in the spool already
            behind = current - offer.global_version
            if behind > self._max_staleness:
                self._intake.record_expired(
                    offer.sha256,
                    node=member.node,
                    detail=f"trained from v{offer.global_version}, {behind} versions behind",
                )
                continue
            return offer.sha256
        return ""

    def verdicts(self, member: Member, offers: Sequence[Offer]) -> tuple[Verdict, ...]:
        """Verdicts the node has not acknowledged, and those on packages it offers again."""
        return self._intake.verdicts_for(member.node, [offer.sha256 for offer in offers])

    def acknowledge(self, member: Member, verdicts: Sequence[Verdict]) -> None:
        """The node has these verdicts."""
        self._intake.acknowledge(member.node, [verdict.sha256 for verdict in verdicts])

    def address(self, member: Member) -> str:
        """The node's new address as long as an old one of its is about to go."""
        host = "" if self._onion is None else self._onion.successor(member.name)
        return f"{host}:{PORT}" if host else ""

    def version(self) -> int:
        """The current global version."""
        return self._registry.current

    def package(self) -> bytes:
        """The current global adapter as one package."""
        return self._registry.package(self._registry.current)

    def base(self, after: int) -> bytes:
        """The rows of the current base delta that a node lacks which holds version `after`."""
        current = self._registry.current
        if self._rows[0] != current:
            self._rows = (current, {})
        known = self._rows[1]
        if after not in known:  # the same bytes for all that hold the same
            known[after] = self._registry.base_since(after)
        return known[after]

    def chain(self, after: int) -> tuple[str, ...]:
        """Signed manifests of the versions after `after`, oldest first."""
        return self._registry.chain(after)


class ServerGate:
    """The strategy's gate: losses from the runner, the verdict from `strategies.gate`."""

    def __init__(self, runner: GateRunner, registry: Registry, config: ServerConfig) -> None:
        self._runner = runner
        self._registry = registry
        self._config = config

    def decide(
        self,
        current: Mapping[str, npt.NDArray[np.float32]],
        candidate: Arrays,
        bases: Bases = NO_BASES,
    ) -> GateDecision:
        """Compare candidate and current on the gate set, document by document."""
        before = self._runner.losses(dict(current), bases.before)
        after = self._runner.losses(candidate, bases.after)
        return decide(
            before[:, 0] / before[:, 1],
            after[:, 0] / after[:, 1],
            self._runner.langs,
            GatePolicy(tolerance=self._config.gate_tolerance),
            rng_seed=self._config.seed,
        )

    def keep(self, candidate: Arrays, decision: GateDecision, bases: Bases = NO_BASES) -> None:
        """Put a refused candidate aside for study."""
        self._registry.keep_candidate(
            candidate, decision.to_json(), keep=self._config.keep_candidates, base=bases.after
        )
