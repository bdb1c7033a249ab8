"""Checkpoints of a training run: numbered folders of safetensors and JSON, written whole or not.

Never a pickle. They hold optimiser state, so they stay at home: nothing packages them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from federation import durable

FORMAT = 1
KEPT = 2
LEFTOVERS = ".step.*.tmp"  # what a killed write leaves; one process writes here at a time
STATE, FACTS = "state.safetensors", "checkpoint.json"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """State after `step` optimiser steps.

    Attributes:
        facts: JSON values.
        tensors: name -> f32 array.
    """

    step: int
    facts: dict[str, Any]
    tensors: dict[str, npt.NDArray[np.float32]]


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint aside, rename it into place, and keep the newest two.

    Returns:
        The checkpoint's own folder.
    """
    durable.make_folder(folder)
    state = safetensors_numpy.save(checkpoint.tensors)
    facts = {
        "format": FORMAT,
        "step": checkpoint.step,
        "sha256": hashlib.sha256(state).hexdigest(),
        "facts": checkpoint.facts,
    }
    target = folder / f"step-{checkpoint.step:08d}"
    aside = Path(tempfile.mkdtemp(prefix=".step.", suffix=".tmp", dir=folder))
    try:
        durable.write_bytes(aside / STATE, state)
        durable.write_text(aside / FACTS, json.dumps(facts))
        if target.exists():
            shutil.rmtree(target)
        aside.rename(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    durable.sync_folder(folder)
    older = [path for path in _numbered(folder) if path != target][KEPT - 1 :]
    for path in [*older, *folder.glob(LEFTOVERS)]:
        shutil.rmtree(path)
    return target


def latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that reads back whole; damaged ones are passed over and logged."""
    for path in _numbered(folder):
        try:
            return _read(path)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as err:
            logger.warning("checkpoint %s is damaged and passed over: %s", path.name, err)
    return None


def clear(folder: Path) -> None:
    """Remove every checkpoint, and what an interrupted write left behind."""
    for path in [*_numbered(folder), *folder.glob(LEFTOVERS)]:
        shutil.rmtree(path)


def _numbered(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-" + "[0-9]" * 8), reverse=True)


def _read(path: Path) -> Checkpoint:
    content = json.loads((path / FACTS).read_bytes())
    if content["format"] > FORMAT:
        raise ValueError(f"made by a newer version (format {content['format']})")
    state = (path / STATE).read_bytes()
    if hashlib.sha256(state).hexdigest() != content["sha256"]:
        raise ValueError(f"{STATE} is not the file that was written")
    return Checkpoint(int(content["step"]), dict(content["facts"]), safetensors_numpy.load(state))
