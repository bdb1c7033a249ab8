"""Rounds with everything real but the network: training, packages, spool, screen, registry."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from client import own
from client.config import NodeHome
from client.dataset import load_dataset
from client.packaging import PackageFacts, load_feedback, make_package
from client.training import Session, Start, TrainingPlan, train
from federation.adapter.format import AdapterSpec, Arrays, initial_arrays
from federation.adapter.instructions import Terms
from federation.adapter.manifest import sha256_of
from federation.adapter.parts import at_rank, leading
from federation.adapter.signing import SigningKey, pseudonym
from federation.adapter.tensors import save_tensors
from federation.model.load import Loaded
from server.intake import Intake
from server.registry import Registry
from strategies.catalogue import find
from strategies.round import Member, Outcome, Round, RoundPolicy
from strategies.spool import Arrival, Spool
from tests.round_bench import OpenGate
from tests.tiny_model import qa_rows, write_rows

PLAN = TrainingPlan(learning_rate=1e-2, epochs=1, batch_size=4, max_seq_len=48)


@dataclass
class RealNode:
    """One volunteer: texts of its own, a key, what it keeps at home."""

    folder: Path
    number: int
    rank: int = 0
    plan: TrainingPlan = PLAN
    key: SigningKey = field(default_factory=SigningKey.generate)
    trained: Arrays = field(default_factory=dict)

    @property
    def home(self) -> NodeHome:
        """Its files."""
        return NodeHome(self.folder)

    def contribute(self, loaded: Loaded, start: Start) -> bytes:
        """Train from `start`, keep what stays, package the rest."""
        asked = start.instructions
        if self.rank:
            spec = at_rank(start.spec, self.rank)
            start = replace(start, spec=spec, arrays=leading(start.arrays, spec))
        start = replace(start, arrays=own.with_own(self.home, start.arrays, start.spec, asked))
        rows = qa_rows(16 + 8 * self.number)[-8:]
        data = load_dataset([write_rows(self.folder / "rows.jsonl", rows)], day="2026-01-01")
        session = Session(self.folder / "work")
        self.trained, record = train(loaded, start, data, self.plan, session)
        facts = PackageFacts(
            global_version=start.version,
            global_sha256=start.sha256,
            examples=record.examples,
            tokens=record.tokens,
            steps=record.steps,
            loss_before=record.loss_before,
            loss_after=record.loss_after,
            factors=asked.sends,
        )
        kept = self.folder / "feedback"
        residual = load_feedback(kept if kept.is_file() else None, start.spec, asked)
        data_bytes, lost = make_package(
            self.trained, start.arrays, start.spec, facts, self.key, residual
        )
        kept.write_bytes(save_tensors(lost))
        own.keep(self.home, self.trained, asked)
        return data_bytes


class RealRounds:
    """A server's records below `folder` and nodes that train on `loaded`."""

    def __init__(
        self, folder: Path, loaded: Loaded, spec: AdapterSpec, strategy: str, **policy: object
    ) -> None:
        self.folder, self.loaded, self.spec = folder, loaded, spec
        self.policy = RoundPolicy(strategy=strategy, **policy)  # type: ignore[arg-type]
        key = SigningKey.generate()
        self.registry = Registry(folder / "registry", key, key.public_hex)
        terms = Terms(find(strategy).traits.asks(1))
        self.registry.publish(initial_arrays(spec, 0), strategy="initial", spec=spec, terms=terms)
        self.intake = Intake(folder / "intake.sqlite")
        self.nodes: list[RealNode] = []
        self.sizes: list[int] = []

    def add(self, rank: int = 0, **other: object) -> RealNode:
        """Admit one more node."""
        folder = self.folder / f"node-{len(self.nodes)}"
        folder.mkdir(parents=True)
        self.nodes.append(RealNode(folder, len(self.nodes), rank, **other))  # type: ignore[arg-type]
        return self.nodes[-1]

    def start(self) -> Start:
        """What nodes train from now."""
        version = self.registry.current
        manifest = self.registry.manifest(version)
        arrays = self.registry.arrays(version)
        origin, base = sha256_of(manifest), self.registry.base(version)
        return Start(self.spec, arrays, version, origin, manifest.instructions, base)

    def round(self) -> Outcome:
        """Everybody trains and sends; the server merges."""
        members = {
            name: Member(name, node.key.public_hex)
            for node in self.nodes
            if (name := pseudonym(node.key.public_hex))
        }
        spool = Spool(self.folder / "spool", max_bytes_each=2**22, max_total_bytes=2**26)
        work = Round(self.spec, spool, members, self.registry, self.intake)
        self.sizes = []
        for node in self.nodes:
            package = node.contribute(self.loaded, self.start())
            self.sizes.append(len(package))
            refusal = work.take(package, Arrival(pseudonym(node.key.public_hex)))
            assert refusal is None, refusal
        return work.finish(self.policy, OpenGate())
