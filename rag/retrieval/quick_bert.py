"""A small BERT in numpy, for the one short text of a question.

Importing torch and transformers takes a new process seconds and some 300 MB; a question of a dozen
tokens takes neither. Only plain BERT encoders run here (`can_run`); passages go through
transformers, and a test holds that both make the same vectors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from federation.errors import ModelError
from federation.language import _
from rag.retrieval.embedders import TOKENIZER, WEIGHTS, EmbedderChoice, load_tokenizer

Matrix = NDArray[np.float32]
# Abramowitz & Stegun 7.1.26, |error| <= 1.5e-7.
ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
ERF_P = 0.3275911


@dataclass(frozen=True)
class QuickBert:
    """Implements `rag.retrieval.dense.Embeds` for few short texts; made by `load`."""

    choice: EmbedderChoice
    weights: dict[str, Matrix]
    tokenizer: Any
    layers: int
    heads: int
    epsilon: float

    def encode(
        self, texts: Sequence[str], kind: Literal["query", "passage"]
    ) -> NDArray[np.float32]:
        """Vectors of length 1, (n, dim), one text after the other."""
        prompt = self.choice.stamp.prompts[0 if kind == "query" else 1]
        return np.stack([self._encode(prompt + text) for text in texts])

    def pieces(self, word: str) -> int:
        """How many tokens a word is cut into."""
        return len(self.tokenizer.encode(word, add_special_tokens=False).ids)

    def _encode(self, text: str) -> Matrix:
        ids = self.tokenizer.encode(text).ids
        hidden = self._hidden(np.array(ids))
        pooling = self.choice.stamp.pooling
        pooled = {"mean": hidden.mean(axis=0), "cls": hidden[0], "last": hidden[-1]}[pooling]
        found: Matrix = pooled / max(float(np.linalg.norm(pooled)), 1e-12)
        return found

    def _hidden(self, ids: NDArray[np.int64]) -> Matrix:
        """Last hidden states, (t, d), of token ids (t,)."""
        w = self.weights
        x = w["embeddings.word_embeddings.weight"][ids]
        x = x + w["embeddings.position_embeddings.weight"][: len(ids)]
        x = x + w["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x, "embeddings.LayerNorm")
        for layer in range(self.layers):
            x = self._layer(x, f"encoder.layer.{layer}")
        return x

    def _layer(self, x: Matrix, name: str) -> Matrix:
        attended = self._linear(
            self._attention(x, f"{name}.attention.self"), f"{name}.attention.output.dense"
        )
        x = self._norm(attended + x, f"{name}.attention.output.LayerNorm")
        inner = _gelu(self._linear(x, f"{name}.intermediate.dense"))
        return self._norm(
            self._linear(inner, f"{name}.output.dense") + x, f"{name}.output.LayerNorm"
        )

    def _attention(self, x: Matrix, name: str) -> Matrix:
        count, dim = x.shape
        split = (count, self.heads, dim // self.heads)
        query, key, value = (
            self._linear(x, f"{name}.{part}").reshape(split).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / np.float32(math.sqrt(split[2]))
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares = scores / scores.sum(axis=-1, keepdims=True)
        mixed: Matrix = (shares @ value).transpose(1, 0, 2).reshape(count, dim)
        return mixed

    def _linear(self, x: Matrix, name: str) -> Matrix:
        found: Matrix = x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]
        return found

    def _norm(self, x: Matrix, name: str) -> Matrix:
        centred = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(self.epsilon))
        scaled: Matrix = centred / spread * self.weights[f"{name}.weight"]
        return scaled + self.weights[f"{name}.bias"]


def can_run(choice: EmbedderChoice) -> bool:
    """Whether a model is a plain BERT with a fast tokenizer."""
    config = _config(choice.folder)
    return (
        config.get("model_type") == "bert"
        and config.get("hidden_act") == "gelu"
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder", False)
        and (choice.folder / TOKENIZER).is_file()
    )


def load(choice: EmbedderChoice) -> QuickBert:
    """Load a model that `can_run`.

    Raises:
        ModelError: its files are not what they should be.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    config, tokenizer = _config(choice.folder), load_tokenizer(choice)
    tokenizer.no_padding()
    tokenizer.enable_truncation(choice.stamp.max_length)
    try:
        weights = load_file(choice.folder / WEIGHTS)
        made = QuickBert(
            choice,
            {name.removeprefix("bert."): value for name, value in weights.items()},
            tokenizer,
            int(config["num_hidden_layers"]),
            int(config["num_attention_heads"]),
            float(config.get("layer_norm_eps", 1e-12)),
        )
        made.encode(["a"], "query")
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, IndexError) as err:
        text = _("the embedder {name} does not load: {why}")
        raise ModelError(text.format(name=choice.stamp.embedder, why=err)) from err
    return made


def _gelu(x: Matrix) -> Matrix:
    scaled = np.abs(x) * np.float32(1 / math.sqrt(2))
    t = 1 / (1 + np.float32(ERF_P) * scaled)
    series = np.zeros_like(t)
    for factor in reversed(ERF):
        series = (series + np.float32(factor)) * t
    erf = np.copysign(1 - series * np.exp(-scaled * scaled), x)
    found: Matrix = (0.5 * x * (1 + erf)).astype(np.float32)
    return found


def _config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found
