"""What rounds remember apart from versions: the server optimiser's moments, the noise spent.

Moments belong to the weights that they were made with, and are found by the hash of those: after a
way back those of then are used, and a version that nobody has moments for begins without.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from federation import accountant, durable
from federation.adapter.format import Arrays
from federation.adapter.tensors import TensorFile, save_tensors
from federation.errors import FormatError
from server.registry import Registry
from strategies.central_noise import Privacy
from strategies.optimiser import State

KEPT = 4


class RoundMemory:
    """Files below one folder.

    Args:
        folder: made when needed.
        registry: knows the hash of each version's weights.
    """

    def __init__(self, folder: Path, registry: Registry) -> None:
        self._folder = folder
        self._registry = registry
        self._ledger = folder / "privacy.jsonl"

    def moments(self, version: int, optimiser: str) -> dict[str, State]:
        """What `optimiser` remembered as `version` was made, by tensor; empty if nothing."""
        path = self._path(self._registry.manifest(version).tensors_sha256, optimiser)
        if not path.is_file():
            return {}
        file = TensorFile.open(path)
        found: dict[str, State] = {}
        for key in file.names():
            moment, _, name = key.partition(".")
            found.setdefault(name, {})[moment] = np.array(file.array(key), np.float32)
        return found

    def keep_moments(
        self, arrays: Arrays, optimiser: str, state: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Keep moments for the version whose weights `arrays` are; of older ones a few stay."""
        flat = {f"{moment}.{name}": v for name, each in state.items() for moment, v in each.items()}
        if not flat:
            return
        sha256 = hashlib.sha256(save_tensors(arrays)).hexdigest()
        durable.write_bytes(self._path(sha256, optimiser), save_tensors(flat))
        files = sorted(self._folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        for path in files[:-KEPT]:
            path.unlink(missing_ok=True)

    def spend(self, privacy: Privacy) -> dict[str, Any]:
        """Write down one round's noise, before anything of it is looked at.

        Returns:
            What all rounds so far have spent together, as JSON; refused candidates count too.
        """
        line = {"noise_multiplier": privacy.noise_multiplier, "clip_norm": privacy.clip_norm}
        durable.append_line(self._ledger, json.dumps(line))
        return line | self.spent(privacy.delta)

    def spent(self, delta: float) -> dict[str, Any]:
        """What all rounds have spent together: rounds, epsilon, delta; empty if none did.

        Raises:
            FormatError: the record is damaged.
        """
        if not self._ledger.is_file():
            return {}
        multipliers = []
        lines = self._ledger.read_text(encoding="utf-8").splitlines()
        for number, text in enumerate(lines, start=1):
            try:
                multipliers.append(float(json.loads(text)["noise_multiplier"]))
            except (ValueError, KeyError, TypeError) as err:
                raise FormatError(f"{self._ledger}, line {number} is damaged: {err}") from err
        epsilon = accountant.epsilon(accountant.total(multipliers), delta)
        return {"rounds": len(multipliers), "epsilon": epsilon, "delta": delta}

    def _path(self, sha256: str, optimiser: str) -> Path:
        return self._folder / f"{sha256[:32]}-{optimiser}.safetensors"
