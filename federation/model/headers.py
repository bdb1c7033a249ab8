"""What a model folder tells before it is loaded. No torch."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

from federation.errors import ModelError
from federation.language import _

MAX_HEADER_BYTES = 100_000_000  # as safetensors itself


def parameters_of(folder: Path) -> int:
    """How many numbers the safetensors files of a folder hold.

    Raises:
        ModelError: there are none, or one is damaged.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(_("{path} holds no safetensors weights").format(path=folder))
    return sum(_numbers_in(path) for path in files)


def _numbers_in(path: Path) -> int:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            entries = json.loads(file.read(min(length, MAX_HEADER_BYTES)))
        tensors = (entry for name, entry in entries.items() if name != "__metadata__")
        return sum(math.prod(entry["shape"]) for entry in tensors)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as err:
        raise ModelError(_("{path} is not readable").format(path=path)) from err
