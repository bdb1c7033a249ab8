"""A training process killed with SIGKILL is continued with the same batches and numbers.

It alone is a process of its own: loading torch costs seconds, and all that goes on from it to the
run that continues it lies on disk.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.dataset import load_dataset
from client.training import Session, Start, TrainingPlan, train
from client.training_plan import Progress
from federation.adapter.format import initial_arrays
from federation.model import adapted
from federation.model.choose import BaseChoice, identity
from federation.model.load import load_base
from tests.tiny_model import make_tiny_llama, qa_rows, text_rows, write_rows

ROOT = Path(__file__).resolve().parents[2]
VICTIM = """
import sys
from pathlib import Path
from tests.integration.test_training_resume import report_slowly, train_in
train_in(*map(Path, sys.argv[1:]), report=report_slowly)
"""


def report_slowly(progress: Progress) -> None:
    print(progress.step, flush=True)  # noqa: T201 - the test reads it
    time.sleep(0.05)


def train_in(
    model: Path,
    data: Path,
    work: Path,
    *,
    resume: bool = False,
    report: Any = lambda _progress: None,
) -> dict[str, Any]:
    """Train with all that is random; returns the run's record."""
    work.mkdir(exist_ok=True)
    loaded = load_base(BaseChoice("tiny", model, None, identity(model)), device="cpu")
    spec = adapted.spec_of(loaded, rank=4, alpha=8)
    plan = TrainingPlan(
        learning_rate=1e-2,
        epochs=4,
        batch_size=4,
        max_seq_len=32,
        dropout=0.1,
        seed=5,
        checkpoint_steps=4,
    )
    session = Session(work, resume=resume, report=report)
    dataset = load_dataset([data], day="2026-01-01")
    _arrays, record = train(loaded, Start(spec, initial_arrays(spec, 0)), dataset, plan, session)
    return record.to_json()


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_kill_9_in_the_middle_changes_nothing_but_the_time(tmp_path: Path) -> None:
    model = make_tiny_llama(tmp_path / "tiny")
    data = write_rows(tmp_path / "data.jsonl", qa_rows(30) + text_rows(20))
    work = tmp_path / "killed"
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(model), str(data), str(work)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert victim.stdout is not None
    for line in victim.stdout:
        if int(line) == 10:
            time.sleep(0.02)  # somewhere inside a step or a write
            victim.kill()
            break
    assert victim.wait(timeout=60) == -signal.SIGKILL
    victim.stdout.close()
    resumed = train_in(model, data, work, resume=True)
    whole = train_in(model, data, tmp_path / "whole")
    assert resumed["resumed_at"] >= 8
    assert resumed["steps"] == whole["steps"] > 12
    assert np.allclose(resumed["curve"], whole["curve"], atol=1e-5)
    assert resumed["loss_after"] == pytest.approx(whole["loss_after"], abs=1e-5)
