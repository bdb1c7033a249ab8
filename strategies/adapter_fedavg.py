"""The Flower strategy: hello → collect → screen → weigh → reduce → gate → register → deploy.

Flower's own loop calls the four hooks; between them only bodies of `federation.protocol` and at
most one blob a message travel. A reply that is broken in any way counts as one lost reply.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar, cast

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    MetricRecordValues,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result

from federation import heap, padding, protocol
from federation.errors import ConscienceError
from federation.protocol import (
    Body,
    Collect,
    CollectReply,
    Deploy,
    DeployReply,
    Hello,
    HelloReply,
    Offer,
    Verdict,
)
from strategies.flower_message import (
    again,
    blob_of,
    blob_record,
    body_of,
    compose,
    error_of,
    is_absence,
    with_base,
)
from strategies.round import Gate, Member, Outcome, Round, RoundPolicy
from strategies.spool import Arrival
from strategies.streaming import Messages, StreamingGrid, Timing

logger = logging.getLogger(__name__)
B = TypeVar("B", bound=Body)


class Desk(Protocol):
    """What the strategy asks the operator's books: `server.desk.ServerDesk` is one."""

    def member(self, flower_node_id: int) -> Member | None:
        """The admitted node behind a Flower node id."""

    def choose(self, member: Member, offers: Sequence[Offer]) -> str:
        """Hash of the offer to ask for, or "" for none."""

    def verdicts(self, member: Member, offers: Sequence[Offer]) -> tuple[Verdict, ...]:
        """Verdicts the node has not acknowledged, and those on packages it offers again."""

    def acknowledge(self, member: Member, verdicts: Sequence[Verdict]) -> None:
        """The node has these verdicts."""

    def address(self, member: Member) -> str:
        """The "host:port" that the node should dial from now on; "" for no change."""

    def version(self) -> int:
        """The current global version."""

    def package(self) -> bytes:
        """The current global adapter as one package."""

    def base(self, after: int) -> bytes:
        """What a node that holds version `after` lacks of what is added to the base model."""

    def chain(self, after: int) -> tuple[str, ...]:
        """Signed manifests of the versions after `after`, oldest first, as JSON texts."""


@dataclass
class RoundReport:
    """What happened in a round, exchange by exchange; plain values, ready for JSON."""

    mode: str
    nodes: list[dict[str, Any]] = field(default_factory=list)
    lost: list[dict[str, str]] = field(default_factory=list)
    outcome: dict[str, Any] = field(default_factory=dict)
    deployed: list[dict[str, Any]] = field(default_factory=list)
    version_before: int = -1
    version_after: int = -1
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class _Peer:
    """One node during the round."""

    member: Member
    held: int = -1
    offers: tuple[Offer, ...] = ()
    want: str = ""
    told: tuple[Verdict, ...] = ()
    heard: frozenset[str] = frozenset()


class AdapterFedAvg(FedAvg):
    """FedAvg over LoRA adapters, from outboxes or trained on the spot.

    Args:
        desk: the operator's books.
        work: takes packages in and merges them.
        gate: held-out comparison.
        policy: mode, quorum, reducer, weigher, screen.
        timing: bounds; nothing waits without one.
    """

    def __init__(
        self,
        desk: Desk,
        work: Round,
        gate: Gate,
        policy: RoundPolicy,
        timing: Timing | None = None,
    ) -> None:
        super().__init__()
        self.desk = desk
        self.work = work
        self.gate = gate
        self.policy = policy
        self.timing = timing or Timing()
        self.report = RoundReport(policy.mode)
        self._peers: dict[int, _Peer] = {}
        self._awaited: set[int] = set()
        self._clock = self.timing.clock
        self._sleep = self.timing.sleep

    def summary(self) -> None:
        """Log what this strategy will do."""
        logger.info(
            "%s: %s, quorum %d, mode %s",
            type(self).__name__,
            self.policy.strategy,
            self.policy.quorum,
            self.policy.mode,
        )

    def run(self, grid: Grid, *, rounds: int = 1) -> Result:
        """Run Flower's loop over a grid that yields replies one at a time."""
        streaming = StreamingGrid(grid, Messages(is_absence, again), self.timing)
        return self.start(
            cast(Grid, streaming),
            initial_arrays=blob_record(self.desk.package()),
            num_rounds=rounds,
            timeout=self.timing.collect_s,
        )

    # -- hello and collect ---------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every online node what it holds, then ask for one package each."""
        self.report = RoundReport(self.policy.mode, version_before=self.desk.version())
        self.work.reconcile()
        with _Phase(self, "gather"):
            self._gather(grid)
        with _Phase(self, "hello"):
            self._say_hello(grid)
        messages = []
        for node_id, peer in self._peers.items():
            message = self._collect_message(node_id, peer, arrays)
            if message is not None:
                messages.append(message)
        self._awaited = {message.metadata.dst_node_id for message in messages}
        self._collect_started = self._clock()
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Spool each reply as it comes, then screen, weigh, reduce, gate and register."""
        for reply in replies:
            self._take(reply)
            del reply  # one at a time in memory: the next is fetched before the name is taken
        self._lose_the_silent("collect")
        heap.give_back()
        self.report.seconds["collect"] = self._clock() - self._collect_started
        outcome = self.work.finish(self.policy, self.gate, clock=self._clock)
        self.report.outcome = outcome.to_json()
        self.report.seconds |= outcome.seconds
        self.report.version_after = self.desk.version()
        if outcome.version is None:
            logger.info("round %d: nothing published: %s", server_round, outcome.reason)
            return None, _metrics(outcome)
        logger.info("round %d: published v%d", server_round, outcome.version)
        return blob_record(self.desk.package()), _metrics(outcome)

    # -- deploy --------------------------------------------------------------------------------

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the current adapter, verdicts, a new address to the nodes that lack them."""
        self._deploy_started = self._clock()
        messages = []
        for node_id, peer in self._peers.items():
            version = self.desk.version()
            news = self.desk.verdicts(peer.member, peer.offers)
            peer.told = tuple(verdict for verdict in news if verdict.sha256 not in peer.heard)
            address = self.desk.address(peer.member)
            if peer.held >= version and not (peer.told or address):
                continue
            chain = self.desk.chain(peer.held)
            body = Deploy(version=version, chain=chain, verdicts=peer.told, address=address)
            blob = self._global(arrays, peer) if peer.held < version else None
            messages.append(self._message(node_id, MessageType.EVALUATE, body, blob))
        self._awaited = {message.metadata.dst_node_id for message in messages}
        return messages

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Note who holds what now, and the loss each node measured on its own held-out text."""
        losses = []
        for reply in replies:
            found = self._read(reply, DeployReply)
            if found is None:
                continue
            peer, body = found
            self.report.deployed.append(
                {"node": body.node, "version": body.held_version, "accepted": body.accepted}
                | {"reason": body.reason, "loss": body.loss, "examples": body.examples}
            )
            self.desk.acknowledge(peer.member, peer.told)
            peer.held = body.held_version
            if body.loss is not None:
                losses.append(body.loss)
        self._lose_the_silent("deploy")
        self.report.seconds["deploy"] = self._clock() - self._deploy_started
        metrics: dict[str, MetricRecordValues] = {"deployed": float(len(self.report.deployed))}
        if losses:
            metrics["mean-local-loss"] = sum(losses) / len(losses)
        return MetricRecord(metrics)

    # -- parts ---------------------------------------------------------------------------------

    def _gather(self, grid: Grid) -> None:
        """Wait, not for ever, until the quorum of admitted nodes is online."""
        deadline = self._clock() + self.timing.gather_s
        while True:
            self._peers = {}
            for node_id in grid.get_node_ids():
                member = self.desk.member(node_id)
                if member is not None:
                    self._peers[node_id] = _Peer(member)
            if len(self._peers) >= self.policy.quorum or self._clock() >= deadline:
                return
            self._sleep(self.timing.poll_s)

    def _say_hello(self, grid: Grid) -> None:
        body = Hello(current_version=self.desk.version(), mode=self.policy.mode)
        kind = f"{MessageType.QUERY}.{protocol.HELLO_ACTION}"
        messages = [self._message(node_id, kind, body) for node_id in self._peers]
        self._awaited = set(self._peers)
        greeted = set()
        for reply in grid.send_and_receive(messages, timeout=self.timing.hello_s):
            found = self._read(reply, HelloReply)
            if found is None:
                continue
            peer, hello = found
            greeted.add(reply.metadata.src_node_id)
            peer.held = hello.held_version
            peer.offers = hello.offers
            peer.want = self.desk.choose(peer.member, hello.offers)
            self.report.nodes.append(
                {"node": hello.node, "held": hello.held_version, "offers": len(hello.offers)}
                | {"asked": peer.want}
            )
        self._lose_the_silent("hello")
        self._peers = {node: peer for node, peer in self._peers.items() if node in greeted}

    def _collect_message(self, node_id: int, peer: _Peer, arrays: ArrayRecord) -> Message | None:
        version = self.desk.version()
        lacks = peer.held < version
        peer.told = self.desk.verdicts(peer.member, peer.offers)
        if self.policy.mode == "collect" and not (peer.want or lacks or peer.told):
            return None
        body = Collect(
            mode=self.policy.mode,
            want=peer.want,
            verdicts=peer.told,
            version=version,
            chain=self.desk.chain(peer.held) if lacks else (),
        )
        blob = self._global(arrays, peer) if lacks else None
        return self._message(node_id, MessageType.TRAIN, body, blob)

    def _global(self, arrays: ArrayRecord, peer: _Peer) -> ArrayRecord:
        """The current adapter, and what this node lacks of the base delta, if anything."""
        rows = self.desk.base(peer.held)
        return with_base(arrays, rows) if rows else arrays

    def _take(self, reply: Message) -> None:
        found = self._read(reply, CollectReply)
        if found is None:
            return
        peer, body = found
        peer.held = max(peer.held, min(body.held_version, self.desk.version()))
        self.desk.acknowledge(peer.member, peer.told)
        peer.heard = frozenset(verdict.sha256 for verdict in peer.told)
        data = blob_of(reply)
        if data is None:
            if body.note:
                self._lose(peer.member, "collect", f"no package: {body.note}")
            return
        if self.policy.mode == "collect" and not peer.want:
            self._lose(peer.member, "collect", "sent a package that was not asked for")
            return
        try:
            package = padding.cut(data, body.size_bytes)
        except ConscienceError as err:
            self._lose(peer.member, "collect", err.message)
            return
        arrival = Arrival(
            node=peer.member.node,
            flower_node=reply.metadata.src_node_id,
            received_at=datetime.now(UTC).isoformat(timespec="seconds"),
            round=self.report.version_before + 1,
        )
        refusal = self.work.take(package, arrival)
        if refusal is not None:
            self._lose(peer.member, "collect", f"{refusal.code}: {refusal.detail}")

    def _read(self, reply: Message, kind: type[B]) -> tuple[_Peer, B] | None:
        """The peer and body of a reply, or None: a broken reply is a lost one."""
        peer = self._peers.get(reply.metadata.src_node_id)
        if peer is None:
            return None
        self._awaited.discard(reply.metadata.src_node_id)
        if reply.has_error():
            self._lose(peer.member, kind.__name__, error_of(reply))
            return None
        try:
            body = body_of(reply, kind)
        except ConscienceError as err:
            self._lose(peer.member, kind.__name__, err.message)
            return None
        if getattr(body, "node", peer.member.node) != peer.member.node:
            self._lose(peer.member, kind.__name__, "speaks in another node's name")
            return None
        return peer, body

    def _lose_the_silent(self, at: str) -> None:
        for node_id in self._awaited:
            self._lose(self._peers[node_id].member, at, "no answer")
        self._awaited = set()

    def _lose(self, member: Member, at: str, why: str) -> None:
        logger.warning("lost reply of node %s at %s: %s", member.node, at, why)
        self.report.lost.append({"node": member.node, "at": at, "why": why[:400]})

    def _message(
        self, node_id: int, kind: str, body: Body, blob: ArrayRecord | None = None
    ) -> Message:
        ttl_s = self.timing.collect_s + self.timing.deploy_s + 600.0
        return compose(body, node_id=node_id, kind=kind, ttl_s=ttl_s, blob=blob)


class _Phase:
    """Times a block into the report of the strategy's round."""

    def __init__(self, strategy: AdapterFedAvg, name: str) -> None:
        self._strategy = strategy
        self._name = name

    def __enter__(self) -> None:
        self._started = self._strategy._clock()

    def __exit__(self, *_: object) -> None:
        elapsed = self._strategy._clock() - self._started
        self._strategy.report.seconds[self._name] = elapsed


def _metrics(outcome: Outcome) -> MetricRecord:
    values: dict[str, MetricRecordValues] = {
        "merged": float(len(outcome.merged)),
        "refused": float(len(outcome.refused)),
        "waiting": float(outcome.waiting),
    }
    return MetricRecord(values)
