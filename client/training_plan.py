"""What a training run is told and what it tells: plan, start, progress, record. No torch."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from client.dataset import Dataset
from federation.adapter.format import AdapterSpec, Arrays
from federation.adapter.instructions import Instructions
from federation.language import _

CPU_BATCH_TOKENS = 2048  # tokens per forward pass on a CPU: more is no faster, only larger
FINAL_RATE = 0.1  # the cosine ends at this fraction of the learning rate
WITHOUT_EFFECT_ON_WEIGHTS = ("max_minutes", "checkpoint_steps", "checkpoint_seconds")


@dataclass(frozen=True)
class TrainingPlan:
    """How to train.

    Attributes:
        batch_size: sequences of `max_seq_len` tokens that fit in memory together.
        gradient_accumulation: batches per optimiser step.
        max_minutes: stop at the next step after so long; 0 = no limit.
        dropout: LoRA dropout, the only dropout active.
        autocast: bfloat16 autocast; takes effect on CUDA alone.
        checkpoint_steps: save at least every so many steps…
        checkpoint_seconds: …and at least every so many seconds.
        max_heldout: held-out documents measured, the same ones each time.
        proximal_mu: pull toward the start, see `client.sharing`.
    """

    learning_rate: float = 2e-4
    epochs: int = 1
    batch_size: int = 8
    max_seq_len: int = 512
    max_minutes: float = 0.0
    seed: int = 0
    gradient_accumulation: int = 1
    dropout: float = 0.0
    weight_decay: float = 0.0
    warmup_fraction: float = 0.05
    max_grad_norm: float = 1.0
    autocast: bool = False
    checkpoint_steps: int = 25
    checkpoint_seconds: float = 60.0
    max_heldout: int = 200
    proximal_mu: float = 0.0


@dataclass(frozen=True)
class Start:
    """The global adapter that training starts from, or its leading rows.

    Attributes:
        instructions: what to train of it and what to send.
        base: what is added to the base model, and never trained; empty is nothing.
    """

    spec: AdapterSpec
    arrays: Arrays
    version: int = 0
    sha256: str = ""
    instructions: Instructions = field(default_factory=Instructions)
    base: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """Where training stands; `note` is a sentence for the owner, on its own when `steps` is 0."""

    step: int = 0
    steps: int = 0
    loss: float = 0.0
    tokens_per_s: float = 0.0
    eta_s: float = 0.0
    tokens: int = 0
    note: str = ""


@dataclass(frozen=True)
class Session:
    """Where a run keeps its checkpoints, and whom it tells.

    Attributes:
        work: private folder; checkpoints go to `work/checkpoints`.
        resume: continue from the last checkpoint if it belongs to the same run.
        report: called after each step and for each note.
        clock: seconds, monotonic.
        before_batch: called with the batch's padded tokens before each forward pass; may raise
            (tests inject memory faults here).
    """

    work: Path
    resume: bool = False
    report: Callable[[Progress], None] = lambda _progress: None
    clock: Callable[[], float] = time.monotonic
    before_batch: Callable[[int], None] = lambda _tokens: None


@dataclass(frozen=True)
class TrainingRecord:
    """What a training run did.

    Attributes:
        examples: distinct training documents seen.
        tokens: real (not padding) tokens processed.
        loss_before: nats per token on the documents named by `measured_on`, with the start adapter.
        loss_after: the same with the trained adapter.
        measured_on: "heldout", or "train" when there were too few rows to hold any out.
        stopped: "done" or "max_minutes".
        resumed_at: step continued from; 0 = from the beginning.
        batch_size: sequences per forward pass at the end, after `halvings`.
        curve: (step, mean loss per token) for each step.
    """

    task: str
    examples: int
    heldout: int
    tokens: int
    steps: int
    steps_planned: int
    loss_before: float
    loss_after: float
    measured_on: str
    seconds: float
    tokens_per_s: float
    device: str
    batch_size: int
    gradient_accumulation: int
    halvings: int
    stopped: str
    resumed_at: int
    start_version: int
    start_sha256: str
    settings: dict[str, Any] = field(default_factory=dict)
    curve: tuple[tuple[int, float], ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return asdict(self)


def fit_to_machine(
    plan: TrainingPlan, device: str, limit: int | None
) -> tuple[TrainingPlan, list[str]]:
    """Shorten sequences to what the model can take; on a CPU, trade batch for accumulation.

    Sequences per step (batch times accumulation) stay as they were.

    Args:
        plan: not modified.
        device: torch's name of it.
        limit: longest input of the model in tokens, None if it has none.

    Returns:
        The plan to carry out, and a sentence for each change.
    """
    notes = []
    if limit is not None and plan.max_seq_len > limit:
        text = _("this model takes {limit} tokens at most: max_seq_len is {limit}, not {asked}")
        notes.append(text.format(limit=limit, asked=plan.max_seq_len))
        plan = replace(plan, max_seq_len=limit)
    per_step = plan.batch_size * plan.gradient_accumulation
    room = max(1, CPU_BATCH_TOKENS // plan.max_seq_len)
    if device == "cpu" and plan.batch_size > room:
        batch = max(size for size in range(1, room + 1) if per_step % size == 0)
        accumulation = per_step // batch
        text = _("no GPU: training on the CPU with batch size {batch}, accumulation {accumulation}")
        notes.append(text.format(batch=batch, accumulation=accumulation))
        plan = replace(plan, batch_size=batch, gradient_accumulation=accumulation)
    elif device == "cpu":
        notes.append(_("no GPU: training on the CPU"))
    return plan, notes


def learning_rate_at(plan: TrainingPlan, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a tenth; `step` counts from 1 to `steps`."""
    warmup = max(1, round(plan.warmup_fraction * steps))
    if step <= warmup:
        return plan.learning_rate * step / warmup
    done = (step - warmup) / max(1, steps - warmup)
    fraction = FINAL_RATE + (1.0 - FINAL_RATE) * 0.5 * (1.0 + math.cos(math.pi * done))
    return plan.learning_rate * fraction


def run_key(start: Start, data: Dataset, plan: TrainingPlan, quantization: str) -> dict[str, str]:
    """What two sessions must share for one to continue the other: name -> sha256."""
    arrays = hashlib.sha256()
    for part in (start.arrays, start.base):
        for name in sorted(part):
            arrays.update(np.ascontiguousarray(part[name]).tobytes())
    settings = {k: v for k, v in asdict(plan).items() if k not in WITHOUT_EFFECT_ON_WEIGHTS}
    return {
        "plan": _hash(settings),
        "data": data.sha256,
        "adapter": arrays.hexdigest(),
        "model": _hash([start.spec.spec_hash, quantization]),
        "task": start.instructions.trains,
    }


def differing(theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """Names under which two run keys disagree."""
    return [name for name, value in ours.items() if theirs.get(name) != value]


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
