"""Part `coding` of `bench_round`: does an int8 delta cost quality?

Two nights of three nodes on the starter set, in one process, with the functions of the product:
training, coding with error feedback, the weighted merge. A seed sets the first adapter and the
order of the rows; the rows are the same for all seeds, so the spread over seeds is the noise of
training alone. Night 1 is trained once per seed and coded three ways; night 2 starts from what came
of it. The deltas alone differ, so differences are paired.
"""

from __future__ import annotations

import hashlib
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from bench_round_table import Line, Section
from demo_data import Material, starter, without_field

from client.dataset import Dataset
from client.rows import to_document
from client.training_plan import Session, Start, TrainingPlan
from federation.adapter.delta import SCALES, encode, rank_axis, subtract
from federation.adapter.format import AdapterSpec, initial_arrays
from federation.adapter.tensors import Arrays, RawTensor
from federation.model.documents import Document
from strategies.coded import Coded
from strategies.merge import merge_by
from strategies.rule import Ctx
from strategies.rules.fedit import FEDIT
from strategies.screen import Accepted
from strategies.weigh import weights_for

EXACT, CODINGS = "f32", ("f32", "bf16", "int8")
NIGHTS, RANK = 2, 8
PLAN = TrainingPlan(learning_rate=3e-3, batch_size=8, max_seq_len=256, max_heldout=1)
MEASURED_TOKENS = 512
Say = Callable[[str], None]


@dataclass(frozen=True)
class CodedUpdate:
    """One node's change as coded for the wire, in memory; what `strategies.merge` reads."""

    node: str
    tensors: Mapping[str, RawTensor]

    @property
    def sha256(self) -> str:
        """Stands for the package's; the order of the sum."""
        return hashlib.sha256(self.node.encode()).hexdigest()

    def coded(self, name: str) -> Coded:
        """Tensor `name` of the change."""
        if SCALES not in self.tensors:
            return Coded.of(self.tensors[name])
        row = sorted(set(self.tensors) - {SCALES}).index(name)
        steps = np.asarray(self.tensors[SCALES][row], np.float32)
        return Coded.of(self.tensors[name], steps, rank_axis(name))


@dataclass
class Nodes:
    """The nodes of one federation with one coding: what each coding lost stays with its node."""

    coding: str
    lost: dict[str, Arrays] = field(default_factory=dict)

    def update(self, node: str, delta: Arrays) -> CodedUpdate:
        """Code a change, with what the node's last coding lost on top."""
        if self.coding == EXACT:
            return CodedUpdate(node, delta)
        tensors, self.lost[node] = encode(delta, self.coding, self.lost.get(node))
        return CodedUpdate(node, tensors)


class Bench:
    """The base model, loaded once, and everybody's rows."""

    def __init__(self, rows: int, work: Path, say: Say) -> None:
        from federation.model import adapted
        from federation.model.load import open_base

        material = starter()
        self.say, self.work = say, work
        self.loaded = open_base("semilla", search=work)
        self.spec: AdapterSpec = adapted.spec_of(self.loaded, rank=RANK, alpha=2.0 * RANK)
        self.held_out = tuple(material.documents())
        self.nights = [
            {node: _dataset(material, node, rows, night) for node in material.train}
            for night in range(NIGHTS)
        ]

    def losses(self, seed: int) -> dict[str, float]:
        """Held-out loss after the last night for each coding, all from one seed."""
        start = initial_arrays(self.spec, seed)
        first = self._train_all(start, 0, seed, "all codings")
        found = {}
        for coding in CODINGS:
            nodes, current, deltas = Nodes(coding), start, first
            for night in range(NIGHTS):
                if night:
                    deltas = self._train_all(current, night, seed, coding)
                current = self._merged(nodes, deltas, current, night)
            found[coding] = self.loss(current)
            self.say(f"coding: seed {seed}, {coding}: {found[coding]:.4f} nats per token")
        return found

    def loss(self, arrays: Arrays) -> float:
        """Nats per token over all held-out documents."""
        from federation.model import adapted
        from federation.model.loss import document_losses, mean_loss

        model = adapted.attach(self.loaded, self.spec, arrays, trainable=False)
        tokenizer = self.loaded.tokenizer
        losses = document_losses(model, tokenizer, self.held_out, max_tokens=MEASURED_TOKENS)
        adapted.detach(self.loaded)
        return float(mean_loss(losses))

    def _train_all(self, start: Arrays, night: int, seed: int, what: str) -> dict[str, Arrays]:
        """Everybody's change of `start`."""
        from client.training import train

        deltas = {}
        for node, data in self.nights[night].items():
            self.say(f"coding: seed {seed}, night {night + 1}, {what}: {node} trains")
            plan = TrainingPlan(**{**vars(PLAN), "seed": seed})
            with tempfile.TemporaryDirectory(dir=self.work) as folder:
                session = Session(work=Path(folder))
                trained, _ = train(self.loaded, Start(self.spec, start), data, plan, session)
            deltas[node] = subtract(trained, start)
        return deltas

    def _merged(
        self, nodes: Nodes, deltas: Mapping[str, Arrays], current: Arrays, night: int
    ) -> Arrays:
        updates = [nodes.update(node, delta) for node, delta in deltas.items()]
        accepted = [
            Accepted(update.sha256, update.node, len(self.nights[night][update.node].train))
            for update in updates
        ]
        ctx = Ctx(round=night + 1, rank=self.spec.rank, rng=np.random.default_rng(night))
        return merge_by(FEDIT, updates, weights_for(accepted), current, self.spec, ctx).adapter


def measure(seeds: int, rows: int, say: Say) -> Section:
    """Run `seeds` federations on `rows` rows per node and night.

    Raises:
        ValueError: fewer than two seeds: there is no spread to compare with.
    """
    if seeds < 2:
        raise ValueError("the part 'coding' needs at least two seeds")
    with tempfile.TemporaryDirectory(prefix="bench-coding-") as work:
        bench = Bench(rows, Path(work), say)
        base = bench.loss(initial_arrays(bench.spec, 0))
        found = [bench.losses(seed) for seed in range(seeds)]
    losses = {coding: [each[coding] for each in found] for coding in CODINGS}
    return section_of(base, losses, rows)


def section_of(base: float, losses: Mapping[str, Sequence[float]], rows: int) -> Section:
    """Judge int8 against f32.

    Args:
        base: held-out loss without an adapter.
        losses: coding -> loss per seed, seeds in one order.
        rows: per node and night, for the record.
    """
    noise = statistics.stdev(losses[EXACT])
    lines = [Line("base model", f"{base:.4f}")]
    lines += [
        Line(coding, f"{statistics.mean(of):.4f} ± {statistics.stdev(of):.4f}")
        for coding, of in losses.items()
    ]
    for coding in CODINGS[1:]:
        pairs = zip(losses[coding], losses[EXACT], strict=True)
        differences = [coded - exact for coded, exact in pairs]
        mean = statistics.mean(differences)
        is_goal = coding == "int8"
        lines.append(
            Line(
                f"{coding} - {EXACT}, paired",
                f"{mean:+.5f} ± {statistics.stdev(differences):.5f}",
                f"at most {noise:.5f} worse" if is_goal else "",
                mean <= noise if is_goal else None,
            )
        )
    figures: dict[str, Any] = {"base": base, "rows": rows, "losses": dict(losses), "noise": noise}
    return Section(
        title=f"Held-out loss after {NIGHTS} nights, nats per token, mean ± sd over seeds",
        lines=lines,
        notes=(f"seed noise: the sd of {EXACT} over seeds; {rows} rows per node and night",),
        figures=figures,
    )


def _dataset(material: Material, node: str, rows: int, night: int) -> Dataset:
    """Rows of one node for one night: every k-th of them, other ones each night."""
    own = [to_document(without_field(row)) for row in material.train[node]]
    step = max(1, len(own) // (rows * NIGHTS))
    chosen: list[Document] = own[::step][night::NIGHTS][:rows]
    kinds = {document.is_qa for document in chosen}
    task = "mixed" if len(kinds) > 1 else "qa" if kinds == {True} else "lm"
    return Dataset(task, tuple(chosen), ())
