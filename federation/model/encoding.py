"""Documents as token ids: chat template, EOS, windows, padded batches. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from federation.model.documents import Document

IGNORED = -100  # target of a position that is not learnt
Ids = npt.NDArray[np.int64]


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    bos_token_id: int | None
    eos_token_id: int
    chat_template: Any

    def __call__(self, text: str, **options: Any) -> Any:  # noqa: ANN401 - a library's BatchEncoding
        """Tokenise."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:  # noqa: ANN401
        """Render a conversation."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """Token ids of which those from position `start` on (≥ 1) are to be predicted.

    Attributes:
        breaks: positions, ascending and ≥ 1, where another document begins.
    """

    ids: Ids
    start: int
    breaks: tuple[int, ...] = ()

    @property
    def targets(self) -> int:
        """How many tokens are predicted."""
        return max(0, len(self.ids) - self.start)

    def segments(self) -> list[int]:
        """How many inputs belong to each document; they add up to all inputs."""
        borders = [0, *self.breaks, len(self.ids) - 1]
        return [end - begin for begin, end in pairwise(borders)]


def encode(tokenizer: Tokenizer, document: Document) -> Encoded:
    """Token ids of a whole document, ended by EOS.

    A text is predicted from its first token on; a question with its answer from the first token
    of the answer on. Prompt and answer are tokenised apart, so that training sees exactly the
    prompt ids that generation will.
    """
    eos = tokenizer.eos_token_id
    if document.is_qa:
        prompt = prompt_ids(tokenizer, document.question)
        answer = _tokens(tokenizer, document.answer, special=False)
        return Encoded(np.asarray([*prompt, *answer, eos], dtype=np.int64), len(prompt))
    ids = [*context_ids(tokenizer), *text_ids(tokenizer, document.text)]
    return Encoded(np.asarray(ids, dtype=np.int64), 1)


def prompt_ids(tokenizer: Tokenizer, question: str) -> list[int]:
    """Ids of everything before the answer: chat template, or a plain form where there is none."""
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return _tokens(tokenizer, text, special=False)
    return _tokens(tokenizer, f"Question: {question}\nAnswer: ", special=True)


def text_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a plain text ended by EOS, begun by BOS if the tokenizer has one of its own."""
    bos = tokenizer.bos_token_id
    begin = [] if bos is None or context_ids(tokenizer) else [bos]
    return [*begin, *_tokens(tokenizer, text, special=False), tokenizer.eos_token_id]


def context_ids(tokenizer: Tokenizer) -> list[int]:
    """What stands before a text's own ids for its first token to be predicted from."""
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    return [eos] if bos is None or bos == eos else []


def windows(encoded: Encoded, max_tokens: int) -> list[Encoded]:
    """Cut into pieces of at most `max_tokens` inputs; every target is in exactly one piece.

    Neighbours share one token, so that the first target of a piece has a context.
    """
    pieces = []
    for begin in range(0, len(encoded.ids) - 1, max_tokens):
        ids = encoded.ids[begin : begin + max_tokens + 1]
        start = max(1, encoded.start - begin)
        inside = (at - begin for at in encoded.breaks if begin < at < begin + len(ids) - 1)
        if start < len(ids):
            pieces.append(Encoded(ids, start, tuple(inside)))
    return pieces


def fit(encoded: Encoded, max_tokens: int) -> Encoded:
    """Shorten to one window: the oldest part of the prompt goes first, then the answer's end.

    At least half of the window is left to the prompt, if it is that long.
    """
    limit = max_tokens + 1
    if len(encoded.ids) <= limit:
        return encoded
    kept = min(encoded.start, max(limit - encoded.targets, limit // 2))
    ids = encoded.ids[encoded.start - kept :][:limit]
    return Encoded(ids, kept)


def pack(streams: Sequence[Ids], *, before: Sequence[int], max_tokens: int) -> list[Encoded]:
    """Join token streams and cut them into full windows; only the last one may be short.

    Args:
        streams: ids of one document each, ended by EOS.
        before: what `context_ids` gives: each document is predicted from its own BOS, or from
            the EOS before it.
        max_tokens: inputs per window.
    """
    joined = np.concatenate([np.asarray(before, dtype=np.int64), *streams])
    breaks = np.cumsum([len(stream) for stream in streams[:-1]], dtype=np.int64)
    return windows(Encoded(joined, 1, tuple(breaks.tolist())), max_tokens)


def collate(pieces: Sequence[Encoded], *, pad: int) -> tuple[Ids, Ids]:
    """Pad on the right to the longest piece.

    A causal model never looks to the right, so no attention mask is needed.

    Args:
        pieces: at least one.
        pad: filler id; its value has no effect.

    Returns:
        Inputs and targets, both (n, longest - 1); targets are `IGNORED` where nothing is learnt.
    """
    longest = max(len(piece.ids) for piece in pieces) - 1
    inputs = np.full((len(pieces), longest), pad, dtype=np.int64)
    targets = np.full((len(pieces), longest), IGNORED, dtype=np.int64)
    for row, piece in enumerate(pieces):
        inputs[row, : len(piece.ids) - 1] = piece.ids[:-1]
        targets[row, piece.start - 1 : len(piece.ids) - 1] = piece.ids[piece.start :]
    return inputs, targets


def positions(pieces: Sequence[Encoded]) -> Ids:
    """Position of each input in its document, (n, longest - 1); padding counts on."""
    longest = max(len(piece.ids) for piece in pieces) - 1
    found = np.tile(np.arange(longest, dtype=np.int64), (len(pieces), 1))
    for row, piece in enumerate(pieces):
        for at in piece.breaks:
            found[row, at:] = np.arange(longest - at)
    return found


def by_length(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group indices into batches of similar length, at most `budget` padded tokens each.

    A piece longer than the budget gets a batch of its own. Longest batches first: if memory
    runs out, it does so at once.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    for index in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _tokens(tokenizer: Tokenizer, text: str, *, special: bool) -> list[int]:
    encoding = tokenizer(text, add_special_tokens=special, verbose=False)
    return [int(token) for token in encoding["input_ids"]]
