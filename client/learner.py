"""An adapter being trained, step by step, in as much memory as there is. A torch door."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import numpy.typing as npt
import torch

from client.training_plan import Start, TrainingPlan
from federation.adapter.format import Arrays
from federation.adapter.parts import only
from federation.errors import TrainingError
from federation.language import _
from federation.model import adapted
from federation.model.documents import Document
from federation.model.encoding import Encoded, by_length
from federation.model.fused import fused_layers, plain_layers
from federation.model.load import Loaded
from federation.model.loss import document_losses, mean_loss, token_losses

logger = logging.getLogger(__name__)
MOMENTS = ("exp_avg", "exp_avg_sq")
WEIGHT = "weight"
OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")


class Learner:
    """The adapter `start` on its base model, with an optimiser.

    Attributes:
        model: with the adapter on it.
        spec: of the adapter.
        batch_size: full-length sequences per forward pass; halves when memory runs out.
        halvings: how often it did.
    """

    def __init__(
        self,
        loaded: Loaded,
        start: Start,
        plan: TrainingPlan,
        *,
        before_batch: Callable[[int], None],
        tell: Callable[[str], None],
    ) -> None:
        self.spec = start.spec
        self._loaded, self._base = loaded, start.base
        self._before_batch, self._tell = before_batch, tell
        self.model = adapted.attach(
            loaded,
            start.spec,
            start.arrays,
            dropout=plan.dropout,
            trainable=True,
            base=start.base,
        )
        self._every = adapted.adapter_parameters(self.model, start.spec)
        modules = list(self.model.named_modules())
        self._dropouts = [
            module
            for name, module in modules
            if "lora_dropout" in name and isinstance(module, torch.nn.Dropout)
        ]
        self._plain = plain_layers([module for _name, module in modules])
        self._losses_of = token_losses(self.model)
        self.begin(start, plan)

    def fits(self, start: Start, plan: TrainingPlan) -> bool:
        """Whether `begin` does with these what a new learner would."""
        is_bare = not (self._base or start.base)
        return is_bare and start.spec == self.spec and plan.dropout == self._plan.dropout

    def begin(self, start: Start, plan: TrainingPlan) -> None:
        """Learn anew from other weights, with an optimiser that knows nothing.

        On a small model, putting an adapter on it takes longer than a few steps of training.

        Args:
            start: one that `fits`.
            plan: likewise.
        """
        self.batch_size, self.halvings, self._plan = plan.batch_size, 0, plan
        self.put(start.arrays)
        self._parameters = only(self._every, start.instructions.trains)
        for name, parameter in self._every.items():
            parameter.requires_grad_(name in self._parameters)
            parameter.grad = None
        self._origin = {n: p.detach().clone() for n, p in self._parameters.items()}
        self._optimizer = torch.optim.AdamW(
            list(self._parameters.values()), weight_decay=plan.weight_decay, fused=True
        )

    @property
    def accumulation(self) -> int:
        """Forward passes per step for full-length sequences."""
        return -(-self._plan.gradient_accumulation * self._plan.batch_size // self.batch_size)

    def arrays(self) -> Arrays:
        """Copies of the adapter's weights."""
        return adapted.copies(self._every)

    def put(self, arrays: Arrays) -> None:
        """Overwrite the adapter's weights; the optimiser stays.

        Raises:
            FormatError: they are not those of the spec.
        """
        adapted.write(self._every, self.spec, arrays)

    def measure(self, documents: Sequence[Document]) -> float:
        """Mean loss over `documents`, in nats per token."""
        losses = document_losses(
            self.model,
            self._loaded.tokenizer,
            documents,
            max_tokens=self._plan.max_seq_len,
            batch_tokens=self.batch_size * self._plan.max_seq_len,
        )
        return mean_loss(losses)

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Dropout on the adapter inside the block; the process's random state is put back after."""
        device = torch.device(self._loaded.device)
        devices = [device] if device.type == "cuda" else []
        self._set_dropout(active=True)
        try:
            with torch.random.fork_rng(devices=devices), fused_layers(self._plain):
                yield
        finally:
            self._set_dropout(active=False)

    def step(self, pieces: Sequence[Encoded], number: int, rate: float) -> float:
        """One optimiser step; done again with half the batch if memory runs out.

        Dropout depends on the seed and on `number` alone, so a step can be repeated.

        Args:
            pieces: sequences of the effective batch.
            number: of this step, from 1.
            rate: learning rate.

        Returns:
            Mean loss in nats per learnt token.

        Raises:
            TrainingError: the loss is not finite, or not even one sequence fits in memory.
        """
        while True:
            try:
                loss = self._gradients(pieces, number)
                break
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as err:
                if not _is_memory_fault(err):
                    raise
                self._halve(err)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._plan.max_grad_norm)
        if not (np.isfinite(loss) and bool(torch.isfinite(norm))):
            text = _("the loss is no longer a finite number at step {step}")
            raise TrainingError(text.format(step=number), hint=_("Lower `learning_rate`."))
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        return loss

    def tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """Weights and optimiser moments, f32 copies, for a checkpoint."""
        found = {f"{WEIGHT}.{name}": array for name, array in self.arrays().items()}
        for name, parameter in self._parameters.items():
            for moment in MOMENTS:
                value = self._optimizer.state[parameter][moment]
                found[f"{moment}.{name}"] = value.to("cpu", torch.float32).numpy().copy()
        return found

    def restore(self, tensors: dict[str, npt.NDArray[np.float32]], step: int) -> None:
        """Continue from what `tensors` gave after `step` steps."""
        weights = {name: tensors[f"{WEIGHT}.{name}"] for name in self.spec.shapes}
        self.put(weights)
        for name, parameter in self._parameters.items():
            state = {
                moment: torch.from_numpy(tensors[f"{moment}.{name}"].copy()).to(parameter.device)
                for moment in MOMENTS
            }
            done = torch.tensor(float(step), device=parameter.device)
            self._optimizer.state[parameter] = {"step": done, **state}

    def _gradients(self, pieces: Sequence[Encoded], number: int) -> float:
        """Sum gradients over the batches of one step, each token weighing the same."""
        self._optimizer.zero_grad(set_to_none=True)
        torch.manual_seed((self._plan.seed * 1_000_003 + number) % 2**63)
        learnt = sum(piece.targets for piece in pieces)
        total = 0.0
        budget = self.batch_size * self._plan.max_seq_len
        for batch in by_length([len(piece.ids) - 1 for piece in pieces], budget):
            chosen = [pieces[index] for index in batch]
            self._before_batch(len(chosen) * (len(chosen[0].ids) - 1))
            with self._autocast():
                losses = self._losses_of(chosen)
            loss = losses.sum() / learnt
            loss.backward()
            total += loss.item()
        self._pull_back()
        return total

    def _pull_back(self) -> None:
        """Add the gradient of mu / 2 times the squared distance from the start."""
        if self._plan.proximal_mu == 0:
            return
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                if parameter.grad is not None:
                    away = parameter - self._origin[name]
                    parameter.grad.add_(away, alpha=self._plan.proximal_mu)

    def _halve(self, err: BaseException) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        if self.batch_size == 1:
            raise TrainingError(
                _("one sequence of {tokens} tokens does not fit in memory").format(
                    tokens=self._plan.max_seq_len
                ),
                hint=_("Lower `max_seq_len`."),
            ) from err
        self.batch_size //= 2
        self.halvings += 1
        if self._loaded.device.startswith("cuda"):
            torch.cuda.empty_cache()
        self._tell(
            _("out of memory: batch size now {batch}, accumulation {accumulation}").format(
                batch=self.batch_size, accumulation=self.accumulation
            )
        )

    def _autocast(self) -> AbstractContextManager[object]:
        if self._plan.autocast and self._loaded.device.startswith("cuda"):
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()

    def _set_dropout(self, *, active: bool) -> None:
        for module in self._dropouts:  # all else is in eval mode, always
            module.train(active)


def _is_memory_fault(err: BaseException) -> bool:
    if isinstance(err, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(words in str(err).lower() for words in OUT_OF_MEMORY)
