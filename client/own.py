"""The factor that stays at home: what this node trained and never sends, kept for its next run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from client.config import NodeHome
from federation import durable
from federation.adapter.format import AdapterSpec, Arrays
from federation.adapter.instructions import Instructions
from federation.adapter.parts import only
from federation.adapter.tensors import TensorFile, save_tensors
from federation.errors import FormatError

logger = logging.getLogger(__name__)
T = TypeVar("T")


def keep(home: NodeHome, trained: Arrays, asked: Instructions) -> None:
    """Keep what was trained and is not sent; nothing where all of it is."""
    kept = _kept(trained, asked)
    if kept:
        durable.write_bytes(home.own_factor, save_tensors(kept))


def with_own(home: NodeHome, arrays: Arrays, spec: AdapterSpec, asked: Instructions) -> Arrays:
    """Return the global adapter with this node's own factor in its place, if it has one.

    A file that is damaged or of another spec is passed over: the node begins with the global one.
    """
    wanted = _kept(spec.shapes, asked)
    if not wanted or not home.own_factor.is_file():
        return arrays
    try:
        file = TensorFile.open(home.own_factor)
        own = {name: np.array(file.array(name), np.float32) for name in file.names()}
    except FormatError as err:
        logger.warning("this node's own factor is not usable: %s", err)
        return arrays
    fits = {name: value.shape for name, value in own.items()} == wanted
    if not fits or not all(np.isfinite(value).all() for value in own.values()):
        logger.warning("this node's own factor is of another adapter")
        return arrays
    return {name: own.get(name, value) for name, value in arrays.items()}


def _kept(tensors: Mapping[str, T], asked: Instructions) -> dict[str, T]:
    sent = only(tensors, asked.sends)
    return {name: value for name, value in only(tensors, asked.trains).items() if name not in sent}
