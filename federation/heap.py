"""Memory that was freed goes back to the system: glibc keeps what lay below anything still used."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """Return freed memory of this process to the system, where the C library can (glibc)."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # musl has none, and does not hold on to much
            trim(0)
