"""`flower-client chat` killed with -9 between two answers: what was told is recalled after it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CHAT = [sys.executable, "-m", "client", "chat", "--json"]


LOADED = """
import sys
from client.cli import run
code = run(["chat", "--once", "Mi perro se llama Luna.", "--home", sys.argv[1]])
heavy = {"torch", "transformers", "peft", "faiss", "flwr"} & set(sys.modules)
print("LOADED", sorted(heavy))
sys.exit(code)
"""


def test_an_answer_that_quotes_loads_no_model(tmp_path: Path) -> None:
    asked = subprocess.run(
        [sys.executable, "-c", LOADED, str(tmp_path / "node")],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert asked.stdout.splitlines()[-1] == "LOADED []"


def test_a_fact_told_before_the_kill_is_recalled_after_it(tmp_path: Path) -> None:
    home = ["--home", str(tmp_path / "node")]
    child = subprocess.Popen(
        [*CHAT, *home], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("Mi perro se llama Luna.\n")
    child.stdin.flush()
    told: dict[str, Any] = json.loads(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    child.stdin.close()
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    asked = subprocess.run(
        [*CHAT, *home, "--once", "¿Cómo se llama mi perro?"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    answer = json.loads(asked.stdout)
    assert "«Mi perro se llama Luna.» [1]" in answer["answer"]
    assert answer["session_id"] != told["session_id"]
