"""Documents side by side in one row, none seeing another, without padding. A torch door.

transformers lets a model's attention be named and given from outside: here each document of the
row attends to itself alone. On a CPU this is where packed training gains most: attention costs
the square of a document's length rather than of the row's, and no mask is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from transformers.modeling_utils import AttentionInterface

ATTENTION = "conscience_segments"


def hidden_states(decoder: Any, ids: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:  # noqa: ANN401
    """Last hidden states of documents that lie one after the other.

    Args:
        decoder: a causal transformers model without its head.
        ids: (n,).
        lengths: of the documents, adding up to n.

    Returns:
        (n, d).
    """
    positions = torch.cat([torch.arange(length) for length in lengths]).to(ids.device)
    with _attention_of(decoder.config):
        found = decoder(
            input_ids=ids.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            use_cache=False,
            segments=list(lengths),
        )
    hidden: torch.Tensor = found.last_hidden_state[0]
    return hidden


def attend_in_segments(
    _module: Any,  # noqa: ANN401 - a transformers attention layer
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *_mask: torch.Tensor | None,
    **options: Any,  # noqa: ANN401 - whatever the layer passes
) -> tuple[torch.Tensor, None]:
    """Causal attention within each segment of a row; called by transformers' attention layers.

    Args:
        query: (1, heads, n, d).
        key: (1, key heads, n, d).
        value: (1, key heads, n, d).
        options: `segments`, lengths adding up to n; `scaling` of the scores, 1 / sqrt(d) if None.

    Returns:
        (1, n, heads, d), and no weights.
    """
    segments, scaling = options["segments"], options.get("scaling")
    parts = zip(*(part.split(segments, dim=2) for part in (query, key, value)), strict=True)
    shared = query.shape[1] != key.shape[1]
    found = [
        functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, enable_gqa=shared
        )
        for q, k, v in parts
    ]
    return torch.cat(found, dim=2).transpose(1, 2).contiguous(), None


@contextmanager
def _attention_of(config: Any) -> Iterator[None]:  # noqa: ANN401
    AttentionInterface.register(ATTENTION, attend_in_segments)
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before
