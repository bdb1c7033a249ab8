"""Cross entropy at a frozen output head, a chunk of logits at a time. A torch door."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

CHUNK_NUMBERS = 2**21  # logits held at once: 8 MiB in f32, near the size of a cache


def head_losses(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> torch.Tensor:
    """Cross entropy of `hidden @ weight.T + bias`, never holding more than a chunk of logits.

    Args:
        hidden: (n, d).
        weight: (vocabulary, d), frozen: gets no gradient.
        bias: (vocabulary,) or None, frozen.
        targets: (n,) token ids.

    Returns:
        Loss in nats, f32 (n,).
    """
    result: torch.Tensor = _HeadLosses.apply(hidden, weight, bias, targets)  # type: ignore[no-untyped-call]
    return result


class _HeadLosses(torch.autograd.Function):
    """Softmax cross entropy whose gradient is made beside the loss, while the logits are there."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's context object
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
    ) -> torch.Tensor:
        count = len(targets)
        losses = torch.empty(count, dtype=torch.float32, device=hidden.device)
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wanted else None
        step = max(1, CHUNK_NUMBERS // weight.shape[0])
        for begin in range(0, count, step):
            part = slice(begin, begin + step)
            logits = functional.linear(hidden[part].to(weight.dtype), weight, bias).float()
            index = targets[part].unsqueeze(1)
            chosen = logits.gather(1, index)
            highest = logits.amax(dim=1, keepdim=True)
            powers = logits.sub_(highest).exp_()
            total = powers.sum(dim=1, keepdim=True)
            losses[part] = (total.log() + highest - chosen).squeeze(1)
            if gradient is not None:
                slope = powers.div_(total)
                slope.scatter_add_(1, index, slope.new_full((1, 1), -1.0).expand_as(index))
                gradient[part] = (slope.to(weight.dtype) @ weight).to(hidden.dtype)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype).unsqueeze(1), None, None, None
