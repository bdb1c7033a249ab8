"""A chat that is killed with -9 while it writes: every answered turn is there, and whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rag.chat.memory import Memory

WRITER = """
import sys
from pathlib import Path
from rag.chat.memory import Memory, Turn
memory = Memory(Path(sys.argv[1]))
session = memory.begin()
print(session, flush=True)
for n in range(100_000):
    memory.add(session, Turn("user", f"pregunta {n}", n), Turn("assistant", f"respuesta {n}", n))
    print(n, flush=True)
"""
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("after", [1, 3, 8, 20])
def test_a_killed_chat_loses_at_most_the_turn_that_was_running(tmp_path: Path, after: int) -> None:
    path = tmp_path / "memory" / "chat.sqlite"
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    session = child.stdout.readline().strip()
    said = [child.stdout.readline().strip() for _ in range(after)]
    os.kill(child.pid, signal.SIGKILL)
    said += child.stdout.read().split()
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    memory = Memory(path)
    kept = [turn.content for turn in memory.turns(session)]
    written = int(said[-1]) + 1
    assert len(kept) in (min(100, 2 * written), min(100, 2 * written + 2))
    assert kept[-2:][0].startswith("pregunta")
    assert f"respuesta {written - 1}" in kept
    assert memory.search("pregunta")[0].session == session
    assert memory.begin() != session
