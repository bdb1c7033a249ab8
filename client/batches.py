"""Which sequences make up which optimiser step: a pure function of data, seed and epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from federation.model.documents import Document
from federation.model.encoding import (
    Encoded,
    Ids,
    Tokenizer,
    context_ids,
    encode,
    fit,
    pack,
    text_ids,
)

POOL_STEPS = 16  # steps whose sequences are sorted by length together: little padding, still random


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokenised training documents.

    Attributes:
        pairs: question–answer pairs, each within `max_seq_len`.
        texts: ids of each plain text, ended by EOS, any length.
        before: put before the first text of a stream.
    """

    pairs: tuple[Encoded, ...]
    texts: tuple[Ids, ...]
    before: tuple[int, ...]
    max_seq_len: int

    @property
    def sequences(self) -> int:
        """Sequences in an epoch; the same for every epoch."""
        inputs = max(0, len(self.before) + sum(len(text) for text in self.texts) - 1)
        return len(self.pairs) + -(-inputs // self.max_seq_len)


def prepare(tokenizer: Tokenizer, documents: Sequence[Document], max_seq_len: int) -> Corpus:
    """Tokenise documents once for all epochs."""
    pairs = [fit(encode(tokenizer, each), max_seq_len) for each in documents if each.is_qa]
    texts = [
        np.asarray(text_ids(tokenizer, each.text), dtype=np.int64)
        for each in documents
        if not each.is_qa
    ]
    return Corpus(tuple(pairs), tuple(texts), tuple(context_ids(tokenizer)), max_seq_len)


def epoch_steps(corpus: Corpus, per_step: int, *, seed: int, epoch: int) -> list[list[Encoded]]:
    """Every sequence of one epoch once, in steps of `per_step` (the last one may have fewer).

    Texts are joined in a new order each epoch. Sequences of similar length share a step, so that
    padding is small; the order of the steps is random.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(corpus.texts))
    pieces = list(corpus.pairs)
    if corpus.texts:
        streams = [corpus.texts[index] for index in order]
        pieces += pack(streams, before=corpus.before, max_tokens=corpus.max_seq_len)
    shuffled = [pieces[index] for index in rng.permutation(len(pieces))]
    steps: list[list[Encoded]] = []
    for begin in range(0, len(shuffled), POOL_STEPS * per_step):
        pool = sorted(shuffled[begin : begin + POOL_STEPS * per_step], key=lambda e: len(e.ids))
        steps += [pool[i : i + per_step] for i in range(0, len(pool), per_step)]
    return [steps[index] for index in rng.permutation(len(steps))]


def steps_per_epoch(corpus: Corpus, per_step: int) -> int:
    """How many steps `epoch_steps` gives."""
    return -(-corpus.sequences // per_step)
