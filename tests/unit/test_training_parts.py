"""Training one factor alone, and near the global adapter (FedProx)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client.batches import epoch_steps, prepare
from client.dataset import Dataset, load_dataset
from client.learner import Learner
from client.training import Progress, Session, Start, TrainingPlan, train
from federation.adapter.format import initial_arrays
from federation.adapter.instructions import Instructions
from federation.model import adapted
from federation.model.choose import BaseChoice, identity
from federation.model.load import Loaded, load_base
from tests.tiny_model import make_tiny_llama, qa_rows, text_rows, write_rows

PLAN = TrainingPlan(learning_rate=1e-2, epochs=1, batch_size=4, max_seq_len=48, seed=3)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")
    return load_base(BaseChoice("tiny", folder, None, identity(folder)), device="cpu")


@pytest.fixture(scope="module")
def start(loaded: Loaded) -> Start:
    spec = adapted.spec_of(loaded, rank=4, alpha=8)
    return Start(spec, initial_arrays(spec, 0))


@pytest.fixture
def mixed(tmp_path: Path) -> Dataset:
    path = write_rows(tmp_path / "mixed.jsonl", qa_rows(24) + text_rows(16))
    return load_dataset([path], day="2026-01-01")


@pytest.mark.parametrize("factor", ["A", "B"])
def test_a_factor_that_is_not_asked_for_stays_bit_for_bit(
    factor: str, loaded: Loaded, start: Start, mixed: Dataset, tmp_path: Path
) -> None:
    first, _ = train(loaded, start, mixed, PLAN, Session(tmp_path / "a"))  # B is no longer zero
    asked = Instructions(trains=factor)  # type: ignore[arg-type]
    begun = replace(start, arrays=first, instructions=asked)
    second, record = train(loaded, begun, mixed, PLAN, Session(tmp_path / "b"))
    for name, value in second.items():
        assert np.array_equal(value, first[name]) is not name.endswith(f"lora_{factor}.weight")
    assert record.loss_after < record.loss_before


def test_a_run_of_one_factor_resumes_where_it_was_killed(
    loaded: Loaded, start: Start, mixed: Dataset, tmp_path: Path
) -> None:
    begun = replace(start, instructions=Instructions(trains="B"))
    plan = replace(PLAN, checkpoint_steps=2)
    whole, _ = train(loaded, begun, mixed, plan, Session(tmp_path / "whole"))
    seen = []

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if progress.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(loaded, begun, mixed, plan, Session(tmp_path / "cut", report=stop))
    session = Session(tmp_path / "cut", resume=True)
    resumed, record = train(loaded, begun, mixed, plan, session)
    assert record.resumed_at == 2
    assert max(float(np.abs(whole[n] - resumed[n]).max()) for n in whole) < 1e-6


def test_the_pull_toward_the_start_keeps_training_near_it(
    loaded: Loaded, start: Start, mixed: Dataset, tmp_path: Path
) -> None:
    def strayed(mu: float) -> float:
        plan = replace(PLAN, epochs=2, proximal_mu=mu)
        trained, _ = train(loaded, start, mixed, plan, Session(tmp_path / f"{mu}"))
        return sum(float(((trained[n] - start.arrays[n]) ** 2).sum()) for n in trained)

    free, held, tight = strayed(0.0), strayed(1.0), strayed(100.0)
    assert free > held > tight
    assert tight < 0.5 * free


def test_the_pull_is_the_gradient_of_half_the_squared_distance(
    loaded: Loaded, start: Start, mixed: Dataset
) -> None:
    pieces = epoch_steps(prepare(loaded.tokenizer, mixed.train, 48), 4, seed=0, epoch=0)[0]
    gradients = []
    for mu in (0.0, 0.5):
        learner = Learner(
            loaded,
            start,
            replace(PLAN, proximal_mu=mu),
            before_batch=lambda _tokens: None,
            tell=lambda _text: None,
        )
        moved = {name: value + np.float32(0.1) for name, value in start.arrays.items()}
        adapted.replace(loaded.adapted, start.spec, moved)
        learner._gradients(pieces, 1)
        found = adapted.adapter_parameters(loaded.adapted, start.spec)
        gradients.append({name: p.grad.clone() for name, p in found.items()})
    adapted.detach(loaded)
    for name, plain in gradients[0].items():
        pull = gradients[1][name] - plain
        torch.testing.assert_close(pull, torch.full_like(pull, 0.05), atol=1e-5, rtol=1e-3)
