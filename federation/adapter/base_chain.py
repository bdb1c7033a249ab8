"""How base deltas follow each other: what a version records, what a node lacks and then has."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from federation.adapter.base_delta import (
    FOLDER,
    add_base,
    base_spec,
    begins_with,
    check_base,
    files_of,
    parse_base,
    rows_from,
)
from federation.adapter.format import TENSORS, AdapterSpec, Arrays
from federation.adapter.manifest import BaseRecord, GlobalManifest
from federation.adapter.tensors import save_tensors
from federation.errors import FormatError

F32 = npt.NDArray[np.float32]


def next_base(
    base: Mapping[str, F32], spec: AdapterSpec, parent: GlobalManifest | None, earlier: Arrays
) -> tuple[BaseRecord | None, dict[str, bytes]]:
    """Return record and files of the version after `parent`, whose own base delta is `earlier`."""
    if not base:
        return None, {}
    files = files_of(base, spec)
    begun = parent.version + 1 if parent else 0
    if parent is not None and parent.base is not None and begins_with(base, earlier, spec):
        begun = parent.base.begun
    sha256 = hashlib.sha256(files[f"{FOLDER}/{TENSORS}"]).hexdigest()
    return BaseRecord(rank=base_spec(spec, base).rank, sha256=sha256, begun=begun), files


def lacking(base: Arrays, record: BaseRecord | None, held: GlobalManifest | None) -> bytes:
    """Return the rows that a node lacks of the base delta of `record`, empty if none.

    Args:
        base: whole.
        record: of it.
        held: manifest of the version that the node has; None: it has none.
    """
    if record is None or (held is not None and _is_same(held.base, record)):
        return b""
    if held is not None and held.base is not None and held.version >= record.begun:
        base = rows_from(base, held.base.rank)
    return save_tensors(base)


def completed(
    received: bytes,
    record: BaseRecord | None,
    held: GlobalManifest | None,
    base: Arrays,
    spec: AdapterSpec,
) -> bytes:
    """Return the base delta of `record`, whole, from what was held and `received`.

    Args:
        received: what `lacking` gave.
        record: of the version that arrives; None is nothing.
        held: manifest of the version before, if there was one.
        base: its base delta.
        spec: of the adapters.

    Raises:
        SignatureError: the result is not what the operator signed.
        FormatError: rows are missing or malformed.
    """
    if record is None:
        return b""
    whole = received
    if held is not None and _is_same(held.base, record):
        whole = save_tensors(base)
    elif not received:
        raise FormatError("the server sent no base delta with this version")
    elif held is not None and held.base is not None and held.version >= record.begun:
        whole = save_tensors(add_base(base, parse_base(received, spec)))
    check_base(whole, record, spec)
    return whole


def _is_same(one: BaseRecord | None, other: BaseRecord) -> bool:
    return one is not None and one.sha256 == other.sha256
