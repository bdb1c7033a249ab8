"""LoRA layers computed in one go: the same numbers as PEFT's, in fewer passes. A torch door.

PEFT makes the low-rank product, scales it and adds it, each a pass over a full-width tensor,
forward and backward. Here the product is added while it is made, and the gradient of B is taken
the way round that a CPU is quick at: about a tenth of a training step on a small model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

from federation.model.load import without_bitsandbytes

with without_bitsandbytes():
    from peft.tuners.lora.layer import Linear

ADAPTER = "default"
Forward = Callable[..., torch.Tensor]


def plain_layers(modules: Iterable[Any]) -> list[Any]:
    """Return those of a PeftModel's modules that `fused_layers` can compute.

    Layers with dropout, on a quantised or half-precision base, or of another kind than
    `torch.nn.Linear` stay PEFT's.
    """
    return [module for module in modules if _can_be_fused(module)]


@contextmanager
def fused_layers(layers: Sequence[Any]) -> Iterator[None]:
    """Compute plain layers in one go inside the block."""
    for layer in layers:
        layer.forward = _forward_of(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the class's own shows again


def _can_be_fused(module: Any) -> bool:  # noqa: ANN401
    if type(module) is not Linear or module.active_adapters != [ADAPTER]:
        return False
    base = module.get_base_layer()
    plain = type(base) is torch.nn.Linear and base.weight.dtype == torch.float32
    idle = isinstance(module.lora_dropout[ADAPTER], torch.nn.Identity)
    switched_off = module.merged or module.disable_adapters or module.lora_variant
    return plain and idle and not switched_off and module.lora_B[ADAPTER].bias is None


def _forward_of(layer: Any) -> Forward:  # noqa: ANN401
    base, scale = layer.get_base_layer(), layer.scaling[ADAPTER]
    down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight

    def forward(inputs: torch.Tensor, *_positional: object, **_options: object) -> torch.Tensor:
        result: torch.Tensor = _LoraLinear.apply(  # type: ignore[no-untyped-call]
            inputs, base.weight, base.bias, down, up, scale
        )
        return result

    return forward


class _LoraLinear(torch.autograd.Function):
    """x W' + b + scale (x A') B', with W and b frozen."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's context object
        inputs: torch.Tensor,
        *frozen_and_trained: Any,  # noqa: ANN401 - see below
    ) -> torch.Tensor:
        weight, bias, down, up, scale = frozen_and_trained
        rows = inputs.reshape(-1, inputs.shape[-1])
        low = rows @ down.t()
        result = functional.linear(rows, weight, bias).addmm_(low, up.t(), alpha=scale)
        ctx.save_for_backward(rows, low, weight, down, up)
        ctx.scale = scale
        return result.view(*inputs.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        rows, low, weight, down, up = ctx.saved_tensors
        slope = upstream[0].reshape(-1, weight.shape[0])
        low_slope = slope @ up
        of_inputs = None
        if ctx.needs_input_grad[0]:
            of_inputs = (slope @ weight).addmm_(low_slope, down, alpha=ctx.scale)
            of_inputs = of_inputs.view(*upstream[0].shape[:-1], -1)
        of_down = of_up = None
        if ctx.needs_input_grad[3]:
            of_down = (low_slope.t() @ rows).mul_(ctx.scale)
        if ctx.needs_input_grad[4]:
            of_up = (low.t() @ slope).mul_(ctx.scale).t()
        return of_inputs, None, None, of_down, of_up, None
