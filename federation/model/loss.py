"""How surprised a model is: loss to learn from, held-out loss per document. The torch door."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from federation.model.documents import Document
from federation.model.encoding import (
    IGNORED,
    Encoded,
    by_length,
    collate,
    encode,
    positions,
    windows,
)
from federation.model.head import head_losses
from federation.model.segments import hidden_states

PROBE_LENGTHS = (5, 3)
TokenLosses = Callable[[Sequence[Encoded]], torch.Tensor]


def document_losses(
    model: Any,  # noqa: ANN401 - a transformers model or a PeftModel
    tokenizer: Any,  # noqa: ANN401 - a transformers tokenizer
    documents: Sequence[Document],
    *,
    max_tokens: int = 512,
    batch_tokens: int = 4096,
) -> npt.NDArray[np.float64]:
    """Measure every document; of a question with its answer, the answer and its EOS count.

    Long documents are cut into windows of `max_tokens`, all of which count. The result does not
    depend on which documents share a batch.

    Args:
        model: put into eval mode, otherwise not modified.
        tokenizer: the model's own.
        documents: any number.
        max_tokens: longest input.
        batch_tokens: padded tokens per forward pass.

    Returns:
        Float64 (n, 2): nats, and tokens they are summed over.
    """
    pieces: list[Encoded] = []
    owners: list[int] = []
    for owner, document in enumerate(documents):
        cut = windows(encode(tokenizer, document), max_tokens)
        pieces += cut
        owners += [owner] * len(cut)
    model.eval()
    losses_of = token_losses(model)
    result = np.zeros((len(documents), 2), dtype=np.float64)
    for batch in by_length([len(piece.ids) - 1 for piece in pieces], batch_tokens):
        with torch.inference_mode():
            losses = losses_of([pieces[index] for index in batch])
        nats = losses.to("cpu", torch.float64).numpy()
        ends = np.cumsum([0, *(pieces[index].targets for index in batch)])
        for index, (begin, end) in zip(batch, pairwise(ends), strict=True):
            result[owners[index]] += (nats[begin:end].sum(), end - begin)
    return result


def mean_loss(losses: npt.NDArray[np.float64]) -> float:
    """Nats per token over all documents together; 0 if there are none."""
    nats, tokens = losses.sum(axis=0)
    return float(nats / tokens) if tokens else 0.0


def token_losses(model: Any) -> TokenLosses:  # noqa: ANN401
    """Prepare the cheapest exact way to get a model's loss at each target.

    Where the model's logits are its last hidden states times a frozen matrix, only positions
    that have a target get logits. On a CPU, documents are laid side by side without padding.
    Whether a model allows either is tried on a few tokens, not guessed from its name.

    Returns:
        A function of encoded pieces giving the loss in nats, f32, for each target in their order.
        Documents packed into one piece do not see each other, on any model that takes positions.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder, head = base.base_model, base.get_output_embeddings()
    device = next(base.parameters()).device
    takes_positions = "position_ids" in inspect.signature(decoder.forward).parameters
    long_way = _long_way(base, device, takes_positions=takes_positions)
    if decoder is base or type(head) is not torch.nn.Linear or head.weight.requires_grad:
        return long_way
    padded = _padded_way(decoder, head, device, takes_positions=takes_positions)
    ways = [padded]
    if device.type == "cpu" and getattr(base.config, "sliding_window", None) is None:
        ways = [_side_by_side(decoder, head), padded]
    was_training = base.training
    base.eval()
    chosen = next((way for way in ways if _agree(way, long_way)), long_way)
    base.train(was_training)
    return chosen


def _side_by_side(decoder: Any, head: torch.nn.Linear) -> TokenLosses:  # noqa: ANN401
    def losses(pieces: Sequence[Encoded]) -> torch.Tensor:
        ids = torch.from_numpy(np.concatenate([piece.ids[:-1] for piece in pieces]))
        targets = torch.from_numpy(np.concatenate([piece.ids[piece.start :] for piece in pieces]))
        lengths = [length for piece in pieces for length in piece.segments()]
        hidden = hidden_states(decoder, ids, lengths)
        learnt = np.concatenate(
            [np.arange(len(piece.ids) - 1) >= piece.start - 1 for piece in pieces]
        )
        chosen = hidden if learnt.all() else hidden[torch.from_numpy(learnt)]
        return head_losses(chosen, head.weight, head.bias, targets)

    return losses


def _padded_way(
    decoder: Any,  # noqa: ANN401
    head: torch.nn.Linear,
    device: torch.device,
    *,
    takes_positions: bool,
) -> TokenLosses:
    def losses(pieces: Sequence[Encoded]) -> torch.Tensor:
        options, targets = _inputs(pieces, device, takes_positions=takes_positions)
        hidden = decoder(**options).last_hidden_state
        learnt = targets != IGNORED
        return head_losses(hidden[learnt], head.weight, head.bias, targets[learnt])

    return losses


def _long_way(base: Any, device: torch.device, *, takes_positions: bool) -> TokenLosses:  # noqa: ANN401
    def losses(pieces: Sequence[Encoded]) -> torch.Tensor:
        options, targets = _inputs(pieces, device, takes_positions=takes_positions)
        learnt = targets != IGNORED
        logits = base(**options).logits[learnt]
        return functional.cross_entropy(logits.float(), targets[learnt], reduction="none")

    return losses


def _inputs(
    pieces: Sequence[Encoded], device: torch.device, *, takes_positions: bool
) -> tuple[dict[str, Any], torch.Tensor]:
    """A model's arguments, and targets; positions only where documents share a row."""
    inputs, targets = collate(pieces, pad=0)
    options: dict[str, Any] = {
        "input_ids": torch.from_numpy(inputs).to(device),
        "use_cache": False,
    }
    if takes_positions and any(piece.breaks for piece in pieces):
        options["position_ids"] = torch.from_numpy(positions(pieces)).to(device)
    return options, torch.from_numpy(targets).to(device)


def _agree(way: TokenLosses, reference: TokenLosses) -> bool:
    """Whether two ways give the same losses for two documents, together and alone."""
    pieces = [Encoded(np.arange(length + 1, dtype=np.int64), 1) for length in PROBE_LENGTHS]
    with torch.inference_mode():
        try:
            found = way(pieces)
        except (TypeError, ValueError, RuntimeError, KeyError, AttributeError, IndexError):
            return False  # this model takes no such arguments
        wanted = torch.cat([reference([piece]) for piece in pieces])
    return torch.allclose(found, wanted, rtol=1e-2, atol=1e-2)
