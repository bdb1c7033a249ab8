"""Training on a node: it learns, stops in time, survives a lack of memory, heeds every setting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.batches import epoch_steps, prepare, steps_per_epoch
from client.dataset import Dataset, load_dataset
from client.training import Progress, Session, Start, TrainingPlan, train
from client.training_plan import fit_to_machine, learning_rate_at
from federation.adapter.format import initial_arrays
from federation.errors import NoDataError, TrainingError
from federation.model import adapted
from federation.model.choose import BaseChoice, identity
from federation.model.documents import Document
from federation.model.encoding import prompt_ids
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
    return Start(spec, initial_arrays(spec, 0), version=7, sha256="ab" * 32)


@pytest.fixture
def mixed(tmp_path: Path) -> Dataset:
    path = write_rows(tmp_path / "mixed.jsonl", qa_rows(24) + text_rows(16))
    return load_dataset([path], day="2026-01-01")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def distance(first: dict[str, Any], second: dict[str, Any]) -> float:
    return max(float(np.abs(first[name] - second[name]).max()) for name in first)


def test_training_lowers_the_held_out_loss_and_records_both(
    loaded: Loaded, start: Start, mixed: Dataset, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    plan = replace(PLAN, epochs=4)
    arrays, record = train(loaded, start, mixed, plan, Session(tmp_path, report=seen.append))
    assert record.loss_after < record.loss_before - 0.3
    assert record.measured_on == "heldout"
    assert record.heldout == len(mixed.heldout) > 0
    assert record.examples == len(mixed.train)
    assert (record.start_version, record.start_sha256) == (7, "ab" * 32)
    assert record.steps == record.steps_planned == len(record.curve)
    assert record.stopped == "done"
    assert record.task == "mixed"
    assert record.settings["learning_rate"] == 1e-2
    assert list(arrays) == list(start.spec.shapes)
    steps = [progress for progress in seen if progress.steps]
    assert [progress.step for progress in steps] == list(range(1, record.steps + 1))
    assert steps[-1].tokens == record.tokens > 0
    assert steps[-1].eta_s == 0
    assert any("no GPU" in progress.note for progress in seen)


def test_training_starts_at_the_given_adapter_and_leaves_it_and_the_base_alone(
    loaded: Loaded, start: Start, mixed: Dataset, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    first, record = train(loaded, start, mixed, PLAN, Session(tmp_path / "a"))
    kept = {name: array.copy() for name, array in first.items()}
    later = Start(start.spec, first)
    _second, again = train(loaded, later, mixed, PLAN, Session(tmp_path / "b"))
    assert again.loss_before == pytest.approx(record.loss_after, abs=1e-6)
    assert distance(first, kept) == 0
    assert loaded.adapted is None
    after = loaded.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_trained_answer_ends_by_eos(loaded: Loaded, start: Start, tmp_path: Path) -> None:
    pairs = tuple(Document(question=f"What is number {n}?", answer=f"It is {n}.") for n in range(6))
    data = Dataset("qa", pairs, ())
    plan = replace(PLAN, epochs=60, batch_size=6)
    arrays, record = train(loaded, start, data, plan, Session(tmp_path))
    assert record.measured_on == "train"
    model = adapted.attach(loaded, start.spec, arrays, trainable=False)
    for pair in pairs:
        prompt = torch.tensor([prompt_ids(loaded.tokenizer, pair.question)])
        with torch.inference_mode():
            ids = model.generate(input_ids=prompt, max_new_tokens=30, do_sample=False)[0]
        answer = ids[prompt.shape[1] :].tolist()
        assert answer[-1] == loaded.tokenizer.eos_token_id
        assert loaded.tokenizer.decode(answer[:-1]).startswith("It is")
    adapted.detach(loaded)


def test_the_same_seed_gives_the_same_adapter(
    loaded: Loaded, start: Start, mixed: Dataset, tmp_path: Path
) -> None:
    plan = replace(PLAN, dropout=0.2)
    first, _ = train(loaded, start, mixed, plan, Session(tmp_path / "a"))
    torch.manual_seed(999)
    second, _ = train(loaded, start, mixed, plan, Session(tmp_path / "b"))
    assert distance(first, second) == 0


def test_training_leaves_the_processes_randomness_alone(
    loaded: Loaded, start: Start, mixed: Dataset, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    train(loaded, start, mixed, replace(PLAN, dropout=0.2), Session(tmp_path))
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 2e-3},
        {"epochs": 2},
        {"batch_size": 2},
        {"max_seq_len": 16},
        {"max_minutes": 0.01},
        {"seed": 4},
        {"gradient_accumulation": 2},
        {"dropout": 0.3},
        {"weight_decay": 0.5},
        {"warmup_fraction": 0.9},
        {"max_grad_norm": 1e-3},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_changes_what_is_learnt(
    change: dict[str, Any], loaded: Loaded, start: Start, mixed: Dataset, tmp_path: Path
) -> None:
    def arrays(plan: TrainingPlan, name: str) -> dict[str, Any]:
        clock = Clock()

        def tick(_progress: Progress) -> None:
            clock.now += 0.3

        session = Session(tmp_path / name, clock=clock, report=tick)
        return train(loaded, start, mixed, plan, session)[0]

    assert distance(arrays(PLAN, "as it was"), arrays(replace(PLAN, **change), "new")) > 1e-6


def test_the_subset_size_changes_what_is_learnt(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "qa.jsonl", qa_rows(30))
    whole = load_dataset([path], day="2026-01-01")
    some = load_dataset([path], day="2026-01-01", qa_subset_size=5)
    assert (len(some.train), some.heldout) == (5, whole.heldout)


def test_max_minutes_stops_after_a_whole_step_and_says_so(
    loaded: Loaded, start: Start, mixed: Dataset, tmp_path: Path
) -> None:
    clock, notes = Clock(), []

    def report(progress: Progress) -> None:
        clock.now += 30 if progress.steps else 0
        notes.append(progress.note)

    plan = replace(PLAN, max_minutes=1, epochs=3)
    _arrays, record = train(
        loaded, start, mixed, plan, Session(tmp_path, report=report, clock=clock)
    )
    assert record.stopped == "max_minutes"
    assert record.steps == len(record.curve) == 3
    assert record.steps_planned > 3
    assert record.examples < len(mixed.train)
    assert any("stopped after 1 minutes, at step 3" in note for note in notes)
    assert any("stopped after" in note for note in record.notes)


def _not_enough() -> Exception:
    return RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. not enough memory: you tried"
    )


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError, MemoryError, _not_enough])
def test_out_of_memory_halves_the_batch_and_gives_the_same_adapter(
    fault: Any, loaded: Loaded, start: Start, mixed: Dataset, tmp_path: Path
) -> None:
    room = 2 * PLAN.max_seq_len

    def memory(tokens: int) -> None:
        if tokens > room:
            raise fault()

    whole, plain = train(loaded, start, mixed, PLAN, Session(tmp_path / "a"))
    tight, record = train(loaded, start, mixed, PLAN, Session(tmp_path / "b", before_batch=memory))
    assert (plain.batch_size, plain.gradient_accumulation, plain.halvings) == (4, 1, 0)
    assert (record.batch_size, record.gradient_accumulation, record.halvings) == (2, 2, 1)
    assert record.steps == plain.steps
    assert distance(whole, tight) < 1e-4
    assert any("out of memory" in note for note in record.notes)


def test_one_sequence_too_large_for_memory_is_an_error_with_a_hint(
    loaded: Loaded, start: Start, mixed: Dataset, tmp_path: Path
) -> None:
    def no_memory(_tokens: int) -> None:
        raise MemoryError

    with pytest.raises(TrainingError, match="does not fit in memory") as caught:
        train(loaded, start, mixed, PLAN, Session(tmp_path, before_batch=no_memory))
    assert "max_seq_len" in caught.value.hint
    assert loaded.adapted is None


def test_other_runtime_errors_are_not_taken_for_a_lack_of_memory(
    loaded: Loaded, start: Start, mixed: Dataset, tmp_path: Path
) -> None:
    def broken(_tokens: int) -> None:
        raise RuntimeError("sizes of tensors must match")

    with pytest.raises(RuntimeError, match="sizes"):
        train(loaded, start, mixed, PLAN, Session(tmp_path, before_batch=broken))


def test_a_loss_that_is_not_finite_stops_training(
    loaded: Loaded, start: Start, mixed: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="finite") as caught:
        train(loaded, start, mixed, replace(PLAN, learning_rate=1e20), Session(tmp_path))
    assert "learning_rate" in caught.value.hint


def test_nothing_to_train_on_is_said(loaded: Loaded, start: Start, tmp_path: Path) -> None:
    with pytest.raises(NoDataError):
        train(loaded, start, Dataset("qa", (), ()), PLAN, Session(tmp_path))


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_quantised_base_trains_too(
    quantization: str, loaded: Loaded, start: Start, mixed: Dataset, tmp_path: Path
) -> None:
    small = load_base(loaded.choice, quantization=quantization, device="cpu")  # type: ignore[arg-type]
    _arrays, record = train(small, start, mixed, replace(PLAN, epochs=3), Session(tmp_path))
    assert record.loss_after < record.loss_before - 0.1


def test_gradients_do_not_depend_on_how_a_step_is_cut(
    loaded: Loaded, start: Start, mixed: Dataset, tmp_path: Path
) -> None:
    wide = replace(PLAN, batch_size=4, gradient_accumulation=1)
    narrow = replace(PLAN, batch_size=1, gradient_accumulation=4)
    first, one = train(loaded, start, mixed, wide, Session(tmp_path / "a"))
    second, two = train(loaded, start, mixed, narrow, Session(tmp_path / "b"))
    assert one.steps == two.steps
    assert distance(first, second) < 1e-4


def documents(count: int) -> Iterator[Document]:
    for row in [*qa_rows(count), *text_rows(count)]:
        yield Document(**row)  # type: ignore[arg-type]


def test_an_epoch_holds_every_sequence_once_in_another_order_each_time(loaded: Loaded) -> None:
    corpus = prepare(loaded.tokenizer, list(documents(30)), 32)
    first, second = (epoch_steps(corpus, 4, seed=1, epoch=epoch) for epoch in (0, 1))
    assert len(first) == len(second) == steps_per_epoch(corpus, 4)
    pairs = sorted(tuple(pair.ids.tolist()) for pair in corpus.pairs)
    for steps in (first, second):
        found = [tuple(piece.ids.tolist()) for step in steps for piece in step]
        assert len(found) == corpus.sequences
        assert [ids for ids in sorted(found) if ids in pairs] == pairs
    assert [len(step[0].ids) for step in first] != [len(step[0].ids) for step in second]


def test_steps_of_pairs_hold_similar_lengths(loaded: Loaded) -> None:
    corpus = prepare(loaded.tokenizer, [d for d in documents(60) if d.is_qa], 48)
    steps = epoch_steps(corpus, 4, seed=1, epoch=0)
    real = sum(len(piece.ids) for step in steps for piece in step)
    padded = sum(len(step) * max(len(piece.ids) for piece in step) for step in steps)
    assert padded < 1.1 * real


def test_texts_are_packed_into_full_sequences(loaded: Loaded) -> None:
    corpus = prepare(loaded.tokenizer, [d for d in documents(40) if not d.is_qa], 32)
    lengths = sorted(
        len(piece.ids) - 1 for step in epoch_steps(corpus, 4, seed=1, epoch=0) for piece in step
    )
    assert set(lengths[1:]) == {32}


def test_the_rate_warms_up_and_falls_to_a_tenth() -> None:
    plan = replace(PLAN, learning_rate=1.0, warmup_fraction=0.1)
    rates = [learning_rate_at(plan, step, 100) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([n / 10 for n in range(1, 11)])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)
    assert learning_rate_at(plan, 1, 1) == 1.0


def test_on_a_cpu_the_batch_shrinks_and_the_step_stays_the_same() -> None:
    plan = TrainingPlan(batch_size=24, gradient_accumulation=2, max_seq_len=512)
    fitted, notes = fit_to_machine(plan, "cpu", None)
    assert fitted.batch_size * fitted.gradient_accumulation == 48
    assert fitted.batch_size < 24
    assert "no GPU" in notes[0]
    assert fit_to_machine(plan, "cuda:0", None) == (plan, [])


def test_sequences_never_exceed_what_the_model_takes() -> None:
    plan, notes = fit_to_machine(TrainingPlan(max_seq_len=2048), "cuda:0", 1024)
    assert plan.max_seq_len == 1024
    assert "1024" in notes[0]
