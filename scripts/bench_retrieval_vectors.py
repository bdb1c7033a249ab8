"""An encoder that keeps its vectors in a folder: a benchmark need not make them twice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rag.retrieval import embedders, embedding
from rag.retrieval.embedders import EmbedderChoice


class CachedEncoder:
    """Implements `rag.retrieval.dense.Embeds`.

    Args:
        named: see `rag.retrieval.embedders.choose`.
        folder: where vectors are kept; None for nowhere.
    """

    def __init__(self, named: str, folder: Path | None) -> None:
        self.choice = embedders.choose(named)
        self.stamp = self.choice.stamp.to_json() if self.choice else ""
        self._encoder: embedding.Encoder | None = None
        name = hashlib.sha256(self.stamp.encode()).hexdigest()[:16]
        self._file = folder / f"{name}.npz" if folder else None
        self._held: dict[str, NDArray[np.float32]] = {}
        if self._file is not None and self._file.exists():
            with np.load(self._file) as found:
                self._held = dict(zip(found["keys"].tolist(), found["vectors"], strict=True))
        self._new = 0

    def __enter__(self) -> CachedEncoder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None and self._new:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            vectors = np.stack(list(self._held.values()))
            np.savez(self._file, keys=np.array(list(self._held)), vectors=vectors)

    def encode(
        self, texts: Sequence[str], kind: Literal["query", "passage"]
    ) -> NDArray[np.float32]:
        """Vectors of length 1, those known from the file."""
        keys = [hashlib.sha256(f"{kind}\0{text}".encode()).hexdigest() for text in texts]
        unknown = [at for at, key in enumerate(keys) if key not in self._held]
        if unknown:
            made = self._load().encode([texts[at] for at in unknown], kind)
            self._held |= {keys[at]: row for at, row in zip(unknown, made, strict=True)}
            self._new += len(unknown)
        return np.stack([self._held[key] for key in keys])

    def pieces(self, word: str) -> int:
        """How many tokens a word is cut into."""
        return self._load().pieces(word)

    def require(self) -> EmbedderChoice:
        """The embedder; ends the program without one."""
        if self.choice is None:
            raise SystemExit("no embedder is installed: see docs/retrieval.md")
        return self.choice

    def _load(self) -> embedding.Encoder:
        if self._encoder is None:
            self._encoder = embedding.load(self.require())
        return self._encoder
