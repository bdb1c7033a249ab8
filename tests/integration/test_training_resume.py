"""A training process killed with SIGKILL is continued with the same batches and numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny_model import make_tiny_llama, qa_rows, text_rows, write_rows

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, sys, time
from pathlib import Path
from client.dataset import load_dataset
from client.training import Session, Start, TrainingPlan, train
from federation.adapter.format import initial_arrays
from federation.model import adapted
from federation.model.choose import BaseChoice, identity
from federation.model.load import load_base

folder, data, work, resume = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
loaded = load_base(BaseChoice("tiny", folder, None, identity(folder)), device="cpu")
spec = adapted.spec_of(loaded, rank=4, alpha=8)
plan = TrainingPlan(learning_rate=1e-2, epochs=4, batch_size=4, max_seq_len=32, dropout=0.1,
                    seed=5, checkpoint_steps=4)

def report(progress):
    print(progress.step, flush=True)
    if resume == "slow":
        time.sleep(0.05)

session = Session(work, resume=resume == "resume", report=report)
dataset = load_dataset([data], day="2026-01-01")
_arrays, record = train(loaded, Start(spec, initial_arrays(spec, 0)), dataset, plan, session)
(work / "record.json").write_text(json.dumps(record.to_json()))
"""


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    model = make_tiny_llama(tmp_path / "tiny")
    data = write_rows(tmp_path / "data.jsonl", qa_rows(30) + text_rows(20))
    return [str(model), str(data)]


def spawn(inputs: list[str], work: Path, how: str) -> subprocess.Popen[str]:
    work.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *inputs, str(work), how],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def record_of(process: subprocess.Popen[str], work: Path) -> dict[str, Any]:
    process.communicate(timeout=240)
    assert process.returncode == 0
    record: dict[str, Any] = json.loads((work / "record.json").read_text())
    return record


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_kill_9_in_the_middle_changes_nothing_but_the_time(
    inputs: list[str], tmp_path: Path
) -> None:
    whole = record_of(spawn(inputs, tmp_path / "whole", "plain"), tmp_path / "whole")
    work = tmp_path / "killed"
    victim = spawn(inputs, work, "slow")
    assert victim.stdout is not None
    for line in victim.stdout:
        if int(line) == 10:
            time.sleep(0.02)  # somewhere inside a step or a write
            os.kill(victim.pid, signal.SIGKILL)
            break
    victim.wait(timeout=60)
    victim.stdout.close()
    assert not (work / "record.json").exists()
    resumed = record_of(spawn(inputs, work, "resume"), work)
    assert resumed["resumed_at"] >= 8
    assert resumed["steps"] == whole["steps"] > 12
    assert np.allclose(resumed["curve"], whole["curve"], atol=1e-5)
    assert resumed["loss_after"] == pytest.approx(whole["loss_after"], abs=1e-5)
