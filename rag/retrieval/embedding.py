"""Texts to vectors by an encoder of plain transformers. The torch, transformers door of `rag`.

Both are imported inside functions: whoever only asks whether vectors exist loads neither.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from federation.errors import ModelError
from federation.language import _
from rag.retrieval.embedders import EmbedderChoice, Stamp

if TYPE_CHECKING:
    import torch

BATCH = 32
Vectors = NDArray[np.float32]


class Encoder:
    """A loaded encoder; made by `load`.

    Args:
        stamp: of the vectors it makes.
        model: of transformers, in eval mode on the CPU.
        tokenizer: of transformers.
        threads: bound on torch's threads while it computes; other users of torch get theirs back.
    """

    def __init__(self, stamp: Stamp, model: Any, tokenizer: Any, threads: int) -> None:  # noqa: ANN401
        self.stamp = stamp
        self._model = model
        self._tokenizer = tokenizer
        self._threads = threads

    def encode(self, texts: Sequence[str], kind: Literal["query", "passage"]) -> Vectors:
        """Vectors of length 1, (n, dim), in the order of `texts`."""
        prompt = self.stamp.prompts[0 if kind == "query" else 1]
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = np.zeros((len(texts), self.stamp.dim), np.float32)
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            found[batch] = self._encode([prompt + texts[i] for i in batch])
        return found

    def pieces(self, word: str) -> int:
        """How many tokens a word is cut into."""
        return len(self._tokenizer.tokenize(word))

    def _encode(self, texts: list[str]) -> Vectors:
        import torch

        inputs = self._tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self.stamp.max_length,
            return_tensors="pt",
        )
        with torch.inference_mode(), _bounded(self._threads):
            hidden = self._model(**inputs).last_hidden_state
            pooled = _pool(hidden, inputs["attention_mask"], self.stamp.pooling)
            vectors: Vectors = torch.nn.functional.normalize(pooled.float(), dim=1).numpy()
        return vectors


def load(choice: EmbedderChoice, *, threads: int = 0) -> Encoder:
    """Load the chosen encoder, touching no network and running no code of its folder.

    Args:
        choice: see `rag.retrieval.embedders.choose`, which has checked the weights' hash.
        threads: 0 takes half of the machine's processors, at most 4.

    Raises:
        ModelError: it does not load.
    """
    from federation.model.load import LOAD_FAULTS, quiet_transformers, without_bitsandbytes

    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        with without_bitsandbytes(), quiet_transformers():
            from transformers import AutoModel, AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(choice.folder, **options)
            model, info = AutoModel.from_pretrained(
                choice.folder,
                use_safetensors=True,
                dtype="float32",
                output_loading_info=True,
                **options,
            )
    except LOAD_FAULTS as err:
        why = str(err).strip().partition("\n")[0] or type(err).__name__
        text = _("the embedder {name} does not load: {why}")
        raise ModelError(text.format(name=choice.stamp.embedder, why=why)) from err
    missing = [key for key in info.get("missing_keys", ()) if "pooler" not in key]
    if missing:
        text = _("weights are missing: {files}")
        raise ModelError(text.format(files=", ".join(sorted(missing)[:3])))
    model.eval()
    model.requires_grad_(requires_grad=False)
    return Encoder(choice.stamp, model, tokenizer, threads or default_threads())


def default_threads() -> int:
    """Half of the processors, at least 1 and at most 4: a node shares its machine."""
    return max(1, min(4, (os.cpu_count() or 2) // 2))


def _pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """One vector a text.

    Args:
        hidden: (n, t, d).
        mask: (n, t), 1 for tokens of the text.
        pooling: "mean", "cls" or "last".
    """
    import torch

    if pooling == "cls":
        first: torch.Tensor = hidden[:, 0]
        return first
    if pooling == "last":
        places = torch.arange(mask.shape[1]) * mask
        last: torch.Tensor = hidden[torch.arange(len(hidden)), places.argmax(dim=1)]
        return last
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)


@contextmanager
def _bounded(threads: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    if before == threads:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
