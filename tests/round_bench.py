"""A round without processes: the real strategy, spool, registry and ledger; nodes made by hand."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from federation import padding, protocol
from federation.adapter.format import AdapterSpec, Arrays, initial_arrays
from federation.adapter.manifest import sha256_of
from federation.adapter.signing import SigningKey, pseudonym
from federation.protocol import CollectReply, DeployReply, HelloReply, Offer
from server.desk import ServerDesk
from server.intake import Intake
from server.nodes import Nodes
from server.onion_clients import OnionClients
from server.registry import Registry
from server.round_memory import RoundMemory
from strategies.adapter_fedavg import AdapterFedAvg
from strategies.gate import GateDecision
from strategies.round import NO_BASES, Bases, Round, RoundPolicy
from strategies.spool import Spool
from strategies.streaming import Timing
from tests.adapter_samples import make_sample, make_spec
from tests.fake_grid import FakeGrid

LIMIT = 4_000_000


@dataclass
class HandNode:
    """A volunteer made by hand: `package` is what it offers; `twist` may spoil the reply."""

    flower_id: int
    key: SigningKey
    package: bytes
    twist: Callable[[Message, HandNode], Message | None] | None = None
    held: int = 0
    told: list[protocol.Verdict] = field(default_factory=list)
    blobs: int = 0
    base_bytes: int = 0
    addresses: list[str] = field(default_factory=list)

    @property
    def node(self) -> str:
        """Its pseudonym."""
        return pseudonym(self.key.public_hex)

    @property
    def sha256(self) -> str:
        """Hash of its package."""
        return hashlib.sha256(self.package).hexdigest()

    def answer(self, message: Message) -> Message | None:
        """Answer hello, collect and deploy as a well-behaved node; `twist` sees collect alone."""
        kind = message.metadata.message_type
        text = str(message.content.config_records["body"]["body"])
        if "blob" in message.content.array_records:
            self.blobs += 1
            record = message.content.array_records["blob"]
            self.base_bytes += len(record["base"].data) if "base" in record else 0
        if kind == "query.hello":
            offer = Offer(sha256=self.sha256, global_version=0, size_bytes=len(self.package))
            body = HelloReply(node=self.node, held_version=self.held, offers=(offer,))
            return reply_with(message, body)
        if kind == "train":
            self.told += protocol.parse(protocol.Collect, text).verdicts
            if self.twist is not None:
                return self.twist(message, self)
            return collected(
                message, self.package, node=self.node, held_version=self.held, sha256=self.sha256
            )
        deploy = protocol.parse(protocol.Deploy, text)
        self.told += deploy.verdicts
        self.held = deploy.version
        self.addresses.append(deploy.address)
        body = DeployReply(node=self.node, held_version=self.held, accepted=True)
        return reply_with(message, body)


class OpenGate:
    """Accepts or refuses everything, as told."""

    def __init__(self, *, accepts: bool = True) -> None:
        self.accepts = accepts
        self.look: Callable[[], object] = lambda: None
        self.kept: list[Arrays] = []

    def decide(
        self,
        current: Mapping[str, npt.NDArray[np.float32]],
        candidate: Arrays,
        bases: Bases = NO_BASES,
    ) -> GateDecision:
        """Say what it was told to say."""
        del current, candidate, bases
        self.look()
        said = "as told"
        return GateDecision(self.accepts, said, None, {})

    def keep(self, candidate: Arrays, decision: GateDecision, bases: Bases = NO_BASES) -> None:
        """Remember the candidate."""
        del decision, bases
        self.kept.append(candidate)


class Bench:
    """Everything of one server below `folder`; `twin` gives it the key and registry of another."""

    def __init__(
        self, folder: Path, spec: AdapterSpec | None = None, *, twin: Bench | None = None
    ) -> None:
        self.folder = folder
        self.spec = spec or make_spec()
        self.key = SigningKey.generate() if twin is None else twin.key
        self.gate = OpenGate()
        if twin is not None:
            shutil.copytree(twin.folder / "registry", folder / "registry")
        self.registry = Registry(folder / "registry", self.key, self.key.public_hex)
        if not self.registry.versions():
            self.registry.publish(initial_arrays(self.spec, 0), strategy="initial", spec=self.spec)
        self.nodes = Nodes(folder / "nodes.sqlite")
        self.intake = Intake(folder / "intake.sqlite")
        self.onion: OnionClients | None = None
        self.people: list[HandNode] = []
        self.origin = sha256_of(self.registry.manifest(0))

    def add(self, seed: int, *, key: SigningKey | None = None, **facts: Any) -> HandNode:
        """Admit a node whose package is a random change made from `seed`."""
        key = key or SigningKey.generate()
        facts = {"global_sha256": self.origin} | facts
        package = make_sample(self.spec, key, seed=seed, **facts)
        person = HandNode(100 + len(self.people), key, package)
        name = f"node-{len(self.people)}"
        self.nodes.invite(name, token_sha256=f"{len(self.people):064d}", expires_at=4e9)
        self.nodes.claim(
            f"{len(self.people):064d}", supernode_key=f"key-{name}", signing_key=key.public_hex
        )
        self.nodes.activate(name, pseudonym=person.node, flower_node_id=str(person.flower_id))
        self.people.append(person)
        return person

    def strategy(self, timing: Timing | None = None, **policy: Any) -> AdapterFedAvg:
        """A strategy over the records on disk, as a fresh process would build it."""
        desk = ServerDesk(self.nodes, self.intake, self.registry, max_staleness=3, onion=self.onion)
        spool = Spool(self.folder / "spool", max_bytes_each=LIMIT, max_total_bytes=100 * LIMIT)
        memory = RoundMemory(self.folder / "memory", self.registry)
        work = Round(self.spec, spool, desk.members(), self.registry, self.intake, memory)
        no_time = Timing(gather_s=0.0, hello_s=0.0, collect_s=0.0, deploy_s=0.0, poll_s=0.0)
        return AdapterFedAvg(desk, work, self.gate, RoundPolicy(**policy), timing or no_time)

    def run(self, *, order: list[int] | None = None, **policy: Any) -> AdapterFedAvg:
        """One round with everybody; returns the strategy with its report."""
        answers: Mapping[int, Any] = {p.flower_id: p.answer for p in self.people}
        grid = FakeGrid(dict(answers), order=order or ())
        strategy = self.strategy(**policy)
        strategy.run(grid)  # type: ignore[arg-type]
        return strategy

    def current(self) -> Arrays:
        """Weights of the current version."""
        return self.registry.arrays(self.registry.current)


def reply_with(message: Message, body: protocol.Body, blob: bytes | None = None) -> Message:
    """A reply as a node makes it."""
    content = RecordDict({"body": ConfigRecord({"body": body.model_dump_json()})})
    if blob is not None:
        array = Array(dtype="uint8", shape=(len(blob),), stype=protocol.BLOB_KIND, data=blob)
        content["blob"] = ArrayRecord({"blob": array})
    return Message(content, reply_to=message)


def collected(message: Message, package: bytes, **fields: Any) -> Message:
    """A reply to collect with `package`, padded as a node pads it."""
    body = CollectReply(size_bytes=len(package), **fields)
    return reply_with(message, body, padding.pad(package))


def equal(one: Arrays, other: Arrays) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(
        np.array_equal(one[name].view(np.uint32), other[name].view(np.uint32)) for name in one
    )
