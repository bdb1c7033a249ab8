"""Freed memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import os, psutil
from federation.heap import give_back
# Small pieces, so that they come from the heap; the last one keeps its end in use.
pieces = [os.urandom(50_000) for _ in range(2_000)]
last = pieces[-1]
del pieces
before = psutil.Process().memory_info().rss
give_back()
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone holds on to freed memory")
def test_what_was_freed_below_a_piece_in_use_goes_back() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 50_000_000
