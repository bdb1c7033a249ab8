"""The resumable training loop of semilla.

What it is: one loop over seeded batches, a schedule driven by the share of the budget used, atomic
checkpoints that hold everything needed to continue, and a provisional export on the way.

How to use it: ``make_semilla.py`` calls ``Trainer(...).run()``. Calling it again with the same
work folder continues where the last checkpoint was written, in the same data order.

What it does not know: where the text came from and how the result is described.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from semilla_data import Blocks
from semilla_model import (
    learning_rate_factor,
    make_optimizers,
    sequence_length,
    training_loss,
)
from transformers import LlamaForCausalLM

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Plan:
    """What a training run may use and how it learns.

    Attributes:
        minutes: Wall-clock budget; training ends when it is spent, whatever was reached.
        tokens: Token budget; training ends when it is reached, if that comes first.
        seed: Seed of weights, data order and chat examples.
        batch_tokens: Predicted tokens per step.
        context: Longest sequence.
        muon_lr: Peak learning rate of Muon.
        adam_lr: Peak learning rate of AdamW.
        checkpoint_minutes: Time between checkpoints.
        evaluate_minutes: Time between small evaluations.
        export_minutes: Time of the provisional export; 0 for none.
    """

    minutes: float
    tokens: int
    seed: int = 20
    batch_tokens: int = 4096
    context: int = 1024
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    checkpoint_minutes: float = 4.0
    evaluate_minutes: float = 4.0
    export_minutes: float = 0.0


@dataclass
class Progress:
    """Where a run is. It is saved in every checkpoint.

    Attributes:
        step: Optimiser steps done.
        tokens: Tokens trained on.
        seconds: Training time used, over all parts of a resumed run.
        checkpoints: Seconds at the last checkpoint.
        evaluated: Seconds at the last small evaluation.
        exported: Whether the provisional export is written.
        curve: One entry per small evaluation.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    checkpoints: float = 0.0
    evaluated: float = 0.0
    exported: bool = False
    curve: list[dict[str, float]] = field(default_factory=list)


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint so that a crash leaves the old one or the new one, never half of one."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


@dataclass(frozen=True)
class Hooks:
    """What the trainer calls out to.

    Attributes:
        say: Takes one line of the log.
        evaluate: Returns a small evaluation of the model by name.
        export: Writes the provisional export.
    """

    say: Callable[[str], None]
    evaluate: Callable[[], dict[str, float]]
    export: Callable[[], None]


class Trainer:
    """Trains one model within one plan."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        blocks: Blocks,
        plan: Plan,
        work_dir: Path,
        hooks: Hooks,
    ) -> None:
        """Set the run up; nothing is trained or read yet."""
        self.model, self.blocks, self.plan = model, blocks, plan
        self.path = work_dir / CHECKPOINT
        self.hooks = hooks
        self.optimizers = make_optimizers(model, plan.muon_lr, plan.adam_lr)
        self.progress = Progress()
        self._loss = 0.0
        self._speed = 0.0
        self._stopping = False

    def share(self) -> float:
        """Share of the budget used: of tokens or of time, whichever is larger."""
        used = self.progress.seconds / 60 / self.plan.minutes
        return min(1.0, max(used, self.progress.tokens / self.plan.tokens))

    def save(self) -> None:
        """Write the checkpoint."""
        self.progress.checkpoints = self.progress.seconds
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "blocks": self.blocks.state(),
            "progress": asdict(self.progress),
            "rng": torch.get_rng_state(),
        }
        save_atomically(state, self.path)

    def resume(self) -> bool:
        """Continue from the checkpoint, if there is one."""
        if not self.path.exists():
            return False
        state = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.blocks.restore(state["blocks"])
        self.progress = Progress(**state["progress"])
        torch.set_rng_state(state["rng"])
        return True

    def stop(self) -> None:
        """Ask the loop to end after the step in progress, with a checkpoint."""
        self._stopping = True

    def _goes_on(self, stop_after: int | None) -> bool:
        """Whether there is budget left and nobody asked to stop."""
        enough = stop_after is not None and self.progress.step >= stop_after
        return self.share() < 1.0 and not enough and not self._stopping

    def step(self) -> None:
        """One optimiser step at the learning rate and sequence length of this moment."""
        share = self.share()
        factor = learning_rate_factor(share)
        length = sequence_length(share, self.plan.context)
        batch = torch.from_numpy(self.blocks.next_batch(self.plan.batch_tokens, length))
        loss = training_loss(self.model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
            optimizer.zero_grad()
        self.progress.step += 1
        self.progress.tokens += batch.shape[0] * (batch.shape[1] - 1)
        self._loss = float(loss.detach())

    def run(self, stop_after: int | None = None) -> bool:
        """Train until the budget is spent.

        Args:
            stop_after: Stop early after this many steps in all; for tests.

        Returns:
            Whether the budget is spent.
        """
        self.model.train()
        last = time.monotonic()
        while self._goes_on(stop_after):
            before = self.progress.tokens
            self.step()
            now = time.monotonic()
            self._note_speed((self.progress.tokens - before) / max(now - last, 1e-9))
            self.progress.seconds += now - last
            last = now
            if self.progress.step % 10 == 0:
                self._report()
            self._occasionally()
        self.save()
        return self.share() >= 1.0

    def _note_speed(self, speed: float) -> None:
        """Smooth the speed for the log."""
        self._speed = speed if self._speed == 0 else 0.9 * self._speed + 0.1 * speed

    def _report(self) -> None:
        """One progress line."""
        share, progress = self.share(), self.progress
        left = progress.seconds / 60 * (1 - share) / max(share, 1e-6)
        self.hooks.say(
            f"step {progress.step} tokens {progress.tokens} {self._speed:.0f} tok/s "
            f"loss {self._loss:.3f} lr x{learning_rate_factor(share):.3f} "
            f"used {share:.1%} elapsed {progress.seconds / 60:.1f} min ETA {left:.1f} min"
        )

    def _occasionally(self) -> None:
        """Checkpoint, evaluate and export when their time has come."""
        progress, plan = self.progress, self.plan
        if progress.seconds - progress.evaluated >= plan.evaluate_minutes * 60:
            progress.evaluated = progress.seconds
            self._evaluate()
        due = plan.export_minutes and progress.seconds >= plan.export_minutes * 60
        if due and not progress.exported:
            self.hooks.export()
            progress.exported = True
            self.hooks.say("provisional export written")
        if progress.seconds - progress.checkpoints >= plan.checkpoint_minutes * 60:
            self.save()

    def _evaluate(self) -> None:
        """A small evaluation, kept for the curve."""
        self.model.eval()
        measured = self.hooks.evaluate()
        self.model.train()
        progress = self.progress
        entry = {"minutes": progress.seconds / 60, "tokens": float(progress.tokens), **measured}
        progress.curve.append(entry)
        self.hooks.say("eval " + " ".join(f"{name} {value:.3f}" for name, value in entry.items()))
