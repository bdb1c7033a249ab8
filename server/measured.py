"""Gate losses measured before: an adapter that was judged once is not run again.

A round compares the candidate with the current version, which was the candidate of an earlier
round. The file's name says what was measured and how, so a stale one is never read.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from federation import durable
from federation.adapter.format import Arrays
from federation.model.documents import Document

KEPT = 16


def fingerprint(arrays: Arrays, documents: Sequence[Document], *settings: object) -> str:
    """sha256 (hex) over everything that the losses depend on."""
    digest = hashlib.sha256(repr(settings).encode())
    for document in documents:
        digest.update(repr(astuple(document)).encode())
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


class MeasuredLosses:
    """The newest measurements, one file each in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, key: str, documents: int) -> NDArray[np.float64] | None:
        """The (documents, 2) losses kept under `key`; None if there are none that can be read."""
        try:
            found = np.load(self._path(key), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        fits = found.shape == (documents, 2) and found.dtype == np.float64
        return found if fits else None

    def put(self, key: str, losses: NDArray[np.float64]) -> None:
        """Keep `losses`; the oldest files beyond 16 go."""
        content = io.BytesIO()
        np.save(content, losses, allow_pickle=False)
        durable.write_bytes(self._path(key), content.getvalue())
        files = sorted(self._folder.glob("*.npy"), key=lambda path: path.stat().st_mtime)
        for path in files[:-KEPT]:
            path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.npy"
