"""Bits per byte of semilla and of two baselines on the same held-out text.

What it is: the measuring part. Three predictors of text, one unit: bits per UTF-8 byte, every byte
predicted, the first included.

* semilla: overlapping windows; every token is scored once, with at least half a window behind it
  except at the very start, where the BOS token is all there is.
* a byte-level 5-gram model with Witten-Bell interpolation, trained on the same training text.
* ``xz -9`` (LZMA, preset 9), which compresses and thereby predicts.

How to use it: ``make_semilla.py`` calls it.

What it does not know: whether text is good. A low number says that text is predictable, no more.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from numpy.typing import NDArray
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

#: Predicted bytes plus context bytes of the n-gram baseline.
NGRAM_ORDER = 5
#: Texts are joined and cut by blank lines, as paragraphs are.
SEPARATOR = "\n\n"


def token_nll_bits(
    model: LlamaForCausalLM, ids: Sequence[int], window: int, stride: int, rows: int = 8
) -> float:
    """Total bits that the model needs for ``ids[1:]`` given ``ids[0]``.

    Args:
        model: Causal language model; called with ``input_ids``, returns ``logits``.
        ids: Token ids; the first one is given, all others are predicted once.
        window: Positions in one forward pass.
        stride: New tokens scored in each window after the first.
        rows: Windows in one forward pass.

    Returns:
        The summed negative log2 likelihood.
    """
    tokens = torch.tensor(list(ids), dtype=torch.long)
    last = len(tokens) - 1
    spans: list[tuple[int, int, int]] = []  # input from, input to, first scored target
    scored = 1
    while scored <= last:
        end = min(scored + (window if not spans else stride), last + 1)
        spans.append((max(0, end - 1 - window), end - 1, scored))
        scored = end
    total = 0.0
    for first in range(0, len(spans), rows):
        group = spans[first : first + rows]
        for same in _equal_lengths(group):
            total += _score_group(model, tokens, same)
    return total


def _equal_lengths(group: list[tuple[int, int, int]]) -> list[list[tuple[int, int, int]]]:
    """Split spans so that each part can be one rectangular batch."""
    parts: dict[int, list[tuple[int, int, int]]] = {}
    for span in group:
        parts.setdefault(span[1] - span[0], []).append(span)
    return list(parts.values())


def _score_group(
    model: LlamaForCausalLM, tokens: torch.Tensor, spans: list[tuple[int, int, int]]
) -> float:
    """Bits of the scored targets of equally long spans."""
    batch = torch.stack([tokens[start:end] for start, end, _ in spans])
    with torch.inference_mode():
        logits = model(input_ids=batch).logits
    total = 0.0
    for row, (start, end, scored) in zip(logits, spans, strict=True):
        wanted = tokens[scored : end + 1]
        part = row[scored - 1 - start :].float()
        total += float(F.cross_entropy(part, wanted, reduction="sum").double())
    return total / math.log(2)


def bits_per_byte(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    window: int = 1024,
    stride: int | None = None,
) -> float:
    """Bits per UTF-8 byte of texts, each read from its own BOS token.

    Args:
        model: Causal language model.
        tokenizer: Its tokenizer.
        texts: Texts to predict.
        window: Positions in one forward pass.
        stride: New tokens per window; half a window if not given.

    Returns:
        Total bits over total bytes.
    """
    bits, size = 0.0, 0
    for text in texts:
        ids = [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]
        bits += token_nll_bits(model, ids, window, stride or window // 2)
        size += len(text.encode("utf-8"))
    return bits / size


class WittenBell:
    """Byte-level n-gram model with Witten-Bell interpolation down to the uniform distribution.

    ``P(c | h) = (count(h c) + kinds(h) * P(c | shorter h)) / (count(h) + kinds(h))``, where
    ``kinds(h)`` is how many different bytes followed ``h`` in training.
    """

    def __init__(self, text: bytes, order: int = NGRAM_ORDER) -> None:
        """Count all n-grams up to ``order`` in ``text``."""
        self.order = order
        self._tables: list[tuple[NDArray[np.int64], ...]] = []
        data = np.frombuffer(text, dtype=np.uint8).astype(np.int64)
        for length in range(1, order + 1):
            grams, counts = np.unique(_keys(data, length), return_counts=True)
            contexts, first = np.unique(grams >> 8, return_index=True)
            totals = np.add.reduceat(counts, first)
            kinds = np.diff(np.append(first, len(grams)))
            self._tables.append((grams, counts, contexts, totals, kinds))

    def bits(self, text: bytes) -> float:
        """Total bits of a text; the first bytes use the context there is."""
        data = np.frombuffer(text, dtype=np.uint8).astype(np.int64)
        probability = np.full(len(data), 1.0 / 256)
        for length, (grams, counts, contexts, totals, kinds) in enumerate(self._tables, start=1):
            keys = _keys(data, length)
            seen = _look_up(keys, grams, counts)
            history = keys >> 8
            total, kind = _look_up(history, contexts, totals), _look_up(history, contexts, kinds)
            shorter = probability[length - 1 :]
            mixed = (seen + kind * shorter) / np.maximum(total + kind, 1)
            probability[length - 1 :] = np.where(total > 0, mixed, shorter)
        return float(-np.log2(probability).sum())


def _keys(data: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Every run of ``length`` bytes as one integer, the last byte lowest."""
    count = max(0, len(data) - length + 1)
    keys = np.zeros(count, dtype=np.int64)
    for offset in range(length):
        keys = (keys << 8) | data[offset : offset + count]
    return keys


def _look_up(
    keys: NDArray[np.int64], known: NDArray[np.int64], values: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Value of each key, 0 for a key not known."""
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[place] == keys, values[place], 0)


def size_of(texts: Sequence[str]) -> int:
    """UTF-8 bytes of texts."""
    return sum(len(text.encode("utf-8")) for text in texts)


def ngram_bits_per_byte(
    training: Sequence[str], sets: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Bits per byte of one 5-gram model on several held-out sets.

    Args:
        training: Training texts.
        sets: Held-out texts by the name of their set.

    Returns:
        Bits per byte by the name of the set.
    """
    model = WittenBell(SEPARATOR.join(training).encode("utf-8"))
    return {
        name: sum(model.bits(text.encode("utf-8")) for text in texts) / size_of(texts)
        for name, texts in sets.items()
    }


def xz_bits_per_byte(training: Sequence[str], held_out: Sequence[str]) -> dict[str, float]:
    """Bits per byte of ``xz -9`` in two ways.

    Args:
        training: Training text of the same language.
        held_out: Text to compress.

    Returns:
        ``xz_alone``: the compressed size of the held-out text by itself. ``xz_primed``: what the
        compressed training text grows by when the held-out text follows it, inside the 64 MiB
        dictionary of preset 9. Both over the bytes of the held-out text.
    """
    held = SEPARATOR.join(held_out).encode("utf-8")
    before = (SEPARATOR.join(training) + SEPARATOR).encode("utf-8")
    alone = len(lzma.compress(held, preset=9))
    primed = len(lzma.compress(before + held, preset=9)) - len(lzma.compress(before, preset=9))
    return {"xz_alone": alone * 8 / len(held), "xz_primed": primed * 8 / len(held)}


def baselines(
    same_language: Sequence[str], other: Sequence[str], sets: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Measure both baselines on the held-out sets of one language, each in its kinder form.

    Args:
        same_language: Training texts of that language.
        other: Training texts of the other language.
        sets: Held-out texts by the name of their set.

    Returns:
        By set: the two forms of each baseline, and the smaller of each as ``ngram`` and ``xz``.
    """
    own = ngram_bits_per_byte(same_language, sets)
    both = ngram_bits_per_byte([*same_language, *other], sets)
    results: dict[str, dict[str, float]] = {}
    for name, texts in sets.items():
        row = {"ngram_one_language": own[name], "ngram_both_languages": both[name]}
        row |= xz_bits_per_byte(same_language, texts)
        row["ngram"] = min(own[name], both[name])
        row["xz"] = min(row["xz_alone"], row["xz_primed"])
        results[name] = row
    return results
