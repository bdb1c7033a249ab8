"""LoRA training on one node: from the current global adapter to a better one.

Data order and dropout are pure functions of the plan and the step's number, so a run that was
killed continues with the same batches and the same numbers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from client import checkpoints
from client.batches import epoch_steps, prepare, steps_per_epoch
from client.checkpoints import Checkpoint
from client.dataset import Dataset
from client.learner import Learner
from client.training_plan import (
    Progress,
    Session,
    Start,
    TrainingPlan,
    TrainingRecord,
    differing,
    fit_to_machine,
    learning_rate_at,
    run_key,
)
from federation.adapter.format import Arrays
from federation.errors import NoDataError
from federation.language import _
from federation.model import adapted
from federation.model.encoding import Encoded
from federation.model.load import Loaded

__all__ = ["Progress", "Session", "Start", "TrainingPlan", "TrainingRecord", "train"]

logger = logging.getLogger(__name__)
RUNNING, DONE, OUT_OF_TIME = "running", "done", "max_minutes"


def train(
    loaded: Loaded, start: Start, data: Dataset, plan: TrainingPlan, session: Session
) -> tuple[Arrays, TrainingRecord]:
    """Train the adapter `start` on `data`.

    An adapter attached to `loaded` is taken off; afterwards it carries none.

    Returns:
        The trained adapter (f32, same names and shapes as `start.arrays`) and the record.

    Raises:
        NoDataError: no training document.
        TrainingError: the loss is no longer finite, or one sequence does not fit in memory.
    """
    if not data.train:
        raise NoDataError(_("there is nothing to train on"), hint=_("Add texts to the dataset."))
    try:
        return _Run(loaded, start, data, plan, session).complete()
    finally:
        adapted.detach(loaded)


@dataclass
class _State:
    """What a checkpoint keeps beside weights and moments.

    Attributes:
        seconds: spent on training steps, over all sessions.
        free_seconds: of them, those that no longer count towards `max_minutes`.
    """

    tokens: int = 0
    seconds: float = 0.0
    free_seconds: float = 0.0
    loss_before: float = math.nan
    batch_size: int = 0
    halvings: int = 0
    stopped: str = RUNNING
    curve: list[tuple[int, float]] = field(default_factory=list)


class _Run:
    """One training run, from the first measurement to the record."""

    def __init__(
        self, loaded: Loaded, start: Start, data: Dataset, plan: TrainingPlan, session: Session
    ) -> None:
        self.notes: list[str] = []
        self.session, self.start, self.data, self.device = session, start, data, loaded.device
        limit = getattr(loaded.model.config, "max_position_embeddings", None)
        self.plan, notes = fit_to_machine(plan, loaded.device, limit)
        for note in notes:
            self.tell(note)
        self.key = run_key(start, data, plan, loaded.quantization)
        self.learner = Learner(
            loaded, start, self.plan, before_batch=session.before_batch, tell=self.tell
        )
        self.corpus = prepare(loaded.tokenizer, data.train, self.plan.max_seq_len)
        self.per_step = self.plan.batch_size * self.plan.gradient_accumulation
        self.per_epoch = steps_per_epoch(self.corpus, self.per_step)
        self.steps = self.plan.epochs * self.per_epoch
        self.measured = (data.heldout or data.train)[: plan.max_heldout]
        self.folder = session.work / "checkpoints"
        self.step = self.resumed_at = 0
        self.state = _State()

    def tell(self, note: str) -> None:
        """Log a sentence, keep it for the record, show it to the owner."""
        logger.info("training: %s", note)
        self.notes.append(note)
        self.session.report(Progress(note=note))

    def complete(self) -> tuple[Arrays, TrainingRecord]:
        """Resume or begin, learn, measure."""
        found = checkpoints.latest(self.folder) if self.session.resume else None
        if found is None or not self._continue_from(found):
            checkpoints.clear(self.folder)
            self.state.loss_before = self.learner.measure(self.measured)
        if self.step < self.steps:
            with self.learner.learning():
                self._learn()
        return self.learner.arrays(), self._record(self.learner.measure(self.measured))

    def _continue_from(self, found: Checkpoint) -> bool:
        others = differing(found.facts["key"], self.key)
        if others:
            self.tell(
                _("the checkpoint at step {step} has another {what}: training begins anew").format(
                    step=found.step, what=", ".join(others)
                )
            )
            return False
        state = _State(**found.facts["state"])
        if state.stopped == OUT_OF_TIME:  # whoever resumes after the time was up wants more of it
            state.free_seconds = state.seconds
        state.curve = [(int(step), float(loss)) for step, loss in state.curve]
        self.learner.restore(found.tensors, found.step)
        self.learner.batch_size, self.learner.halvings = state.batch_size, state.halvings
        self.state, self.step, self.resumed_at = state, found.step, found.step
        self.tell(
            _("continuing after step {step} of {steps}").format(step=found.step, steps=self.steps)
        )
        return True

    def _learn(self) -> None:
        state, clock = self.state, self.session.clock
        began = saved_at = clock()
        earlier, tokens_before, saved_step = state.seconds, state.tokens, self.step
        limit_s = self.plan.max_minutes * 60.0 or math.inf
        state.stopped = RUNNING
        for pieces in self._remaining():
            self._one_step(pieces)
            now = clock()
            state.seconds = earlier + now - began
            speed = (state.tokens - tokens_before) / max(now - began, 1e-9)
            left_s = limit_s - (state.seconds - state.free_seconds)
            self._report(speed, left_s, (now - began) / (self.step - self.resumed_at))
            if left_s <= 0 and self.step < self.steps:
                state.stopped = OUT_OF_TIME
                break
            due = self.step - saved_step >= self.plan.checkpoint_steps
            if due or now - saved_at >= self.plan.checkpoint_seconds:
                self._save()
                saved_at, saved_step = now, self.step
        self._stop()

    def _one_step(self, pieces: list[Encoded]) -> None:
        number = self.step + 1
        loss = self.learner.step(pieces, number, learning_rate_at(self.plan, number, self.steps))
        self.step = number
        self.state.tokens += sum(len(piece.ids) - 1 for piece in pieces)
        self.state.curve.append((number, loss))

    def _stop(self) -> None:
        if self.state.stopped == OUT_OF_TIME:
            self.tell(
                _("stopped after {minutes:g} minutes, at step {step} of {steps}").format(
                    minutes=self.plan.max_minutes, step=self.step, steps=self.steps
                )
            )
        else:
            self.state.stopped = DONE
        self._save()

    def _remaining(self) -> Iterator[list[Encoded]]:
        for epoch in range(self.step // self.per_epoch, self.plan.epochs):
            steps = epoch_steps(self.corpus, self.per_step, seed=self.plan.seed, epoch=epoch)
            yield from steps[max(0, self.step - epoch * self.per_epoch) :]

    def _report(self, speed: float, left_s: float, step_s: float) -> None:
        self.session.report(
            Progress(
                step=self.step,
                steps=self.steps,
                loss=self.state.curve[-1][1],
                tokens_per_s=speed,
                eta_s=max(0.0, min(left_s, step_s * (self.steps - self.step))),
                tokens=self.state.tokens,
            )
        )

    def _save(self) -> None:
        self.state.batch_size = self.learner.batch_size
        self.state.halvings = self.learner.halvings
        facts: dict[str, Any] = {"key": self.key, "state": asdict(self.state)}
        checkpoints.save(self.folder, Checkpoint(self.step, facts, self.learner.tensors()))

    def _record(self, loss_after: float) -> TrainingRecord:
        state, seen = self.state, min(1.0, self.step / self.per_epoch)
        return TrainingRecord(
            task=self.data.task,
            examples=max(1, round(len(self.data.train) * seen)),
            heldout=len(self.data.heldout),
            tokens=state.tokens,
            steps=self.step,
            steps_planned=self.steps,
            loss_before=state.loss_before,
            loss_after=loss_after,
            measured_on="heldout" if self.data.heldout else "train",
            seconds=state.seconds,
            tokens_per_s=state.tokens / max(state.seconds, 1e-9),
            device=self.device,
            batch_size=self.learner.batch_size,
            gradient_accumulation=self.learner.accumulation,
            halvings=self.learner.halvings,
            stopped=state.stopped,
            resumed_at=self.resumed_at,
            start_version=self.start.version,
            start_sha256=self.start.sha256,
            settings=asdict(self.plan),
            curve=tuple(state.curve),
            notes=tuple(self.notes),
        )
