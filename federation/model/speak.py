"""A model writes: token by token, with sampling that acts, until it ends or is stopped. torch door.

Each answer has a generator of its own, so that a seed gives the same text whatever else is being
written at the same time. Nothing is computed until the next piece is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from federation.errors import ModelError
from federation.language import _
from federation.model.load import Loaded
from federation.model.sampling import Sampling as Sampling

_UNFINISHED = "\ufffd"  # what a tokenizer shows for half a character
LONGEST_WAIT = 8  # tokens that may wait for the rest of a character
Turn = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Piece:
    """Some more text.

    Attributes:
        text: whole characters; may be empty.
        token: its last token.
        logprob: of that token under the model, before sampling was bent, in nats.
        entropy: of the model's distribution there, in nats.
    """

    text: str
    token: int
    logprob: float
    entropy: float


def window_of(loaded: Loaded) -> int:
    """Tokens that the model can read and write together."""
    config = loaded.model.config.get_text_config()
    stated = [
        getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None),
        loaded.tokenizer.model_max_length,
    ]
    known = [int(value) for value in stated if value and value < 10**9]
    return min(known, default=1024)


def size_of(loaded: Loaded) -> int:
    """Parameters of the base model."""
    return int(loaded.model.num_parameters())


def speak(
    loaded: Loaded,
    ids: Sequence[int],
    sampling: Sampling,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
    turn: Turn = nullcontext,
) -> Iterator[Piece]:
    """Go on after `ids`, with the adapter if one is attached.

    Args:
        loaded: not modified.
        ids: the prompt; it and one token more must fit into the window.
        sampling: see there; writing ends earlier where the window does.
        is_stopped: asked before each token.
        turn: entered for each computation of the model.

    Raises:
        ModelError: the prompt does not fit, or the model's outputs are no numbers.
    """
    room = window_of(loaded) - len(ids)
    if room < 1 or not ids:
        raise ModelError(_("the prompt does not fit into the model's window"))
    generator = torch.Generator(device=loaded.device).manual_seed(sampling.seed)
    shown = _Shown(loaded.tokenizer)
    seen = torch.zeros(loaded.model.config.get_text_config().vocab_size, dtype=torch.bool)
    seen = seen.to(loaded.device)
    seen[torch.tensor(list(ids), device=loaded.device)] = True
    inputs, cache = torch.tensor([list(ids)], device=loaded.device), None
    for _count in range(min(sampling.max_new_tokens, room)):
        if is_stopped():
            return
        with turn():
            logits, cache = _step(loaded, inputs, cache)
        token = _draw(logits, seen, sampling, generator)
        chances = torch.log_softmax(logits, dim=-1)
        if not bool(torch.isfinite(chances[token])):  # one NaN takes all chances with it
            raise ModelError(_("its outputs are not finite numbers"))
        if token in shown.ends:
            return
        entropy = -float((chances.exp() * chances).nansum())
        yield Piece(shown.add(token), token, float(chances[token]), entropy)
        seen[token] = True
        inputs = torch.tensor([[token]], device=loaded.device)


@torch.inference_mode()
def _step(loaded: Loaded, inputs: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:  # noqa: ANN401
    model = loaded.model if loaded.adapted is None else loaded.adapted
    output = model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return output.logits[0, -1].float(), output.past_key_values


@torch.inference_mode()
def _draw(
    logits: torch.Tensor, seen: torch.Tensor, sampling: Sampling, generator: torch.Generator
) -> int:
    penalty = sampling.repetition_penalty
    seen = seen[: len(logits)]
    bent = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    if sampling.temperature == 0:
        return int(bent.argmax())
    values, order = torch.sort(bent / sampling.temperature, descending=True)
    chances = torch.softmax(values, dim=-1)
    before = torch.cumsum(chances, dim=-1) - chances
    chances[before >= sampling.top_p] = 0.0
    if sampling.top_k:
        chances[sampling.top_k :] = 0.0
    return int(order[torch.multinomial(chances, 1, generator=generator)])


class _Shown:
    """Tokens as text, a piece at a time: never half a character, never a mark of the template."""

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401
        self._tokenizer = tokenizer
        self.ends = {int(id) for id in tokenizer.all_special_ids}
        self._before: list[int] = []  # given out; the next pieces' spaces depend on it
        self._waiting: list[int] = []

    def add(self, token: int) -> str:
        self._waiting.append(token)
        before = self._decode(self._before)
        text = self._decode([*self._before, *self._waiting])
        if text.endswith(_UNFINISHED) and len(self._waiting) < LONGEST_WAIT:
            return ""
        self._before, self._waiting = self._waiting, []
        return text[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text
