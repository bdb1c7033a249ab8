"""The semilla network, its fast training pass, its optimisers and its learning-rate schedule.

What it is: a plain ``LlamaForCausalLM`` and a second way of computing the same function that is
about half as slow to train on a small processor (fused projections, a loss that never holds all
logits), plus Muon for the hidden matrices and AdamW for the rest.

How to use it: ``make_semilla.py`` calls it. ``hidden_states`` and the Transformers forward pass
agree to rounding; a unit test checks it.

What it does not know: data, files and time. It has no dropout and no padding mask: every position
of a training batch is a real token.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

#: Rows of logits held at once: 512 x 8,192 floats are 16 MiB, which stays in a large cache.
LOSS_ROWS = 512


def new_model(
    vocabulary: int, context: int, hidden: int = 256, layers: int = 6, seed: int = 0
) -> LlamaForCausalLM:
    """Make an untrained model.

    Args:
        vocabulary: Size of the tokenizer.
        context: Largest number of positions.
        hidden: Width; heads are 64 wide (or one head if the width is smaller).
        layers: Number of layers.
        seed: Seed of the initial weights.

    Returns:
        The model, in float32, with pad, BOS and EOS ids 0, 1 and 2.
    """
    torch.manual_seed(seed)
    heads = max(1, hidden // 64)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=(hidden * 8 // 3 + 15) // 16 * 16,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        # Layers start as the identity: the first steps then train the embeddings undisturbed.
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
    model.generation_config = GenerationConfig(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    return model


def rotary_tables(config: LlamaConfig, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary position embedding, as Transformers lays them out."""
    size = config.hidden_size // config.num_attention_heads
    theta = float(config.rope_parameters["rope_theta"])
    frequencies = 1.0 / theta ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def _rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply the rotary embedding to queries or keys."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-second, first), dim=-1) * sin


def _layer(
    layer: LlamaDecoderLayer, states: Tensor, heads: int, cos: Tensor, sin: Tensor
) -> Tensor:
    """One decoder layer with its projections fused into fewer, larger products."""
    rows, length, width = states.shape
    attention, mlp = layer.self_attn, layer.mlp
    eps = layer.input_layernorm.variance_epsilon
    normed = F.rms_norm(states, (width,), layer.input_layernorm.weight, eps)
    fused = torch.cat((attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight))
    projected = F.linear(normed, fused).view(rows, length, 3 * heads, width // heads)
    query, key, value = projected.transpose(1, 2).chunk(3, dim=1)
    mixed = F.scaled_dot_product_attention(
        _rotate(query, cos, sin), _rotate(key, cos, sin), value, is_causal=True
    )
    mixed = mixed.transpose(1, 2).reshape(rows, length, width)
    states = states + F.linear(mixed, attention.o_proj.weight)
    normed = F.rms_norm(states, (width,), layer.post_attention_layernorm.weight, eps)
    fused = torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight))
    gate, up = F.linear(normed, fused).chunk(2, dim=-1)
    return states + F.linear(F.silu(gate) * up, mlp.down_proj.weight)


def hidden_states(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    """Last hidden states of full-length sequences: the fast twin of the Transformers pass."""
    inner, config = model.model, model.config
    cos, sin = rotary_tables(config, ids.shape[1])
    states = inner.embed_tokens(ids)
    for layer in inner.layers:
        states = _layer(layer, states, config.num_attention_heads, cos, sin)
    return F.rms_norm(states, (config.hidden_size,), inner.norm.weight, config.rms_norm_eps)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of tied logits, a few rows at a time.

    The gradient is computed with the loss, so the whole table of logits never exists; on a small
    processor that table costs more in memory traffic than it is worth.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch types it so
        states: Tensor,
        table: Tensor,
        targets: Tensor,
    ) -> Tensor:
        """Return the mean loss and keep both gradients."""
        count = states.shape[0]
        states_grad, table_grad = torch.empty_like(states), torch.zeros_like(table)
        total = states.new_zeros(())
        for start in range(0, count, LOSS_ROWS):
            part, wanted = states[start : start + LOSS_ROWS], targets[start : start + LOSS_ROWS]
            logits = part @ table.T
            norm = torch.logsumexp(logits, dim=-1)
            index = torch.arange(part.shape[0])
            total += (norm - logits[index, wanted]).sum()
            logits.sub_(norm[:, None]).exp_()
            logits[index, wanted] -= 1.0
            logits /= count
            states_grad[start : start + LOSS_ROWS] = logits @ table
            table_grad.addmm_(logits.T, part)
        ctx.save_for_backward(states_grad, table_grad)
        return total / count

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401 - torch types it so
        *grads: Tensor,
    ) -> tuple[Tensor, Tensor, None]:
        """Scale the kept gradients."""
        states_grad, table_grad = ctx.saved_tensors
        return states_grad * grads[0], table_grad * grads[0], None


def training_loss(model: LlamaForCausalLM, batch: Tensor) -> Tensor:
    """Mean next-token loss of a batch of sequences of ``length + 1`` tokens."""
    states = hidden_states(model, batch[:, :-1])
    flat = states.reshape(-1, states.shape[-1])
    loss: Tensor = ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        flat, model.model.embed_tokens.weight, batch[:, 1:].reshape(-1)
    )
    return loss


def orthogonalise(matrix: Tensor, steps: int) -> Tensor:
    """Approximate the nearest orthogonal matrix with Newton-Schulz iterations in float32."""
    work = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    work = work / (work.norm() + 1e-7)
    for _ in range(steps):
        gram = work @ work.T
        poly = torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        work = torch.addmm(work, poly, work, beta=3.4445)
    return work.T if matrix.shape[0] > matrix.shape[1] else work


class Float32Muon(torch.optim.Optimizer):
    """Muon with its iterations in float32.

    ``torch.optim.Muon`` iterates in bfloat16. A processor without bfloat16 arithmetic emulates it,
    and its step then takes longer than the whole rest of the training step. The update is the
    same: Nesterov momentum, orthogonalised, scaled by ``sqrt(max(1, rows / columns))``.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.05,
        ns_steps: int = 4,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "ns_steps": ns_steps,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(matrix)
                buffer = state["momentum_buffer"]
                buffer.lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonalise(
                    matrix.grad.lerp(buffer, group["momentum"]), group["ns_steps"]
                )
                scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * scale)


def make_optimizers(
    model: LlamaForCausalLM, muon_lr: float, adam_lr: float
) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for the embedding and the norms."""
    hidden: list[Tensor] = []
    other: list[Tensor] = []
    for name, parameter in model.named_parameters():
        (hidden if parameter.ndim == 2 and "embed" not in name else other).append(parameter)
    optimizers: list[torch.optim.Optimizer] = [
        Float32Muon(hidden, lr=muon_lr),
        torch.optim.AdamW(other, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def learning_rate_factor(progress: float, warmup: float = 0.03, decay_from: float = 0.35) -> float:
    """Warm-up, plateau, straight decay to zero.

    Args:
        progress: Share of the budget used, 0 to 1.
        warmup: Share spent warming up.
        decay_from: Share after which the rate falls.

    Returns:
        The factor on the peak learning rate.
    """
    if progress < warmup:
        return max(progress, 0.002) / warmup
    if progress < decay_from:
        return 1.0
    return max(0.0, (1.0 - progress) / (1.0 - decay_from))


def sequence_length(progress: float, context: int) -> int:
    """Short sequences first (they are cheaper), the full context for the last eighth."""
    if progress < 0.45:
        return context // 4
    return context // 2 if progress < 0.87 else context
