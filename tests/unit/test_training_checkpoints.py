"""Checkpoints: two kept, damaged ones passed over; a resumed run equals an uninterrupted one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client import checkpoints
from client.checkpoints import Checkpoint
from client.dataset import Dataset
from client.training import Progress, Session, Start, TrainingPlan, TrainingRecord, train
from federation.adapter.format import Arrays, initial_arrays
from federation.model import adapted
from federation.model.choose import BaseChoice, identity
from federation.model.documents import Document
from federation.model.load import Loaded, load_base
from tests.tiny_model import make_tiny_llama, qa_rows, text_rows

PLAN = TrainingPlan(
    learning_rate=1e-2,
    epochs=2,
    batch_size=4,
    max_seq_len=32,
    dropout=0.2,
    checkpoint_steps=3,
    checkpoint_seconds=1e9,
)
DOCUMENTS = tuple(Document(**row) for row in qa_rows(24) + text_rows(12))  # type: ignore[arg-type]
DATA = Dataset("mixed", DOCUMENTS[4:], DOCUMENTS[:4])


class KilledError(Exception):
    """The process ends here."""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")
    return load_base(BaseChoice("tiny", folder, None, identity(folder)), device="cpu")


@pytest.fixture(scope="module")
def start(loaded: Loaded) -> Start:
    spec = adapted.spec_of(loaded, rank=4, alpha=8)
    return Start(spec, initial_arrays(spec, 0))


@pytest.fixture(scope="module")
def uninterrupted(
    loaded: Loaded, start: Start, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Arrays, TrainingRecord]:
    return train(loaded, start, DATA, PLAN, Session(tmp_path_factory.mktemp("whole")))


def killed_after(step: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.step == step:
            raise KilledError

    return report


def a_checkpoint(step: int) -> Checkpoint:
    return Checkpoint(step, {"some": "fact"}, {"a": np.full((2, 3), step, np.float32)})


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for step in (5, 10, 15, 20):
        checkpoints.save(folder, a_checkpoint(step))
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000015", "step-00000020"]
    found = checkpoints.latest(folder)
    assert found is not None
    assert (found.step, found.facts) == (20, {"some": "fact"})
    assert found.tensors["a"].tolist() == [[20.0] * 3] * 2


@pytest.mark.parametrize("name", [checkpoints.STATE, checkpoints.FACTS])
@pytest.mark.parametrize("fault", ["cut", "flip", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    name: str, fault: str, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    checkpoints.save(folder, a_checkpoint(5))
    target = checkpoints.save(folder, a_checkpoint(10)) / name
    content = bytearray(target.read_bytes())
    if fault == "gone":
        target.unlink()
    elif fault == "cut":
        target.write_bytes(content[: len(content) // 2])
    else:
        content[-10] ^= 0xFF
        target.write_bytes(content)
    found = checkpoints.latest(folder)
    assert found is not None
    assert found.step == 5


def test_what_a_killed_write_left_is_never_read_and_is_swept(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    (folder / ".step.x.tmp").mkdir(parents=True)
    assert checkpoints.latest(folder) is None
    checkpoints.save(folder, a_checkpoint(5))
    assert [path.name for path in folder.iterdir()] == ["step-00000005"]
    checkpoints.clear(folder)
    assert list(folder.iterdir()) == []


@pytest.mark.security
def test_h10_checkpoints_hold_no_pickle(loaded: Loaded, start: Start, tmp_path: Path) -> None:
    train(loaded, start, DATA, PLAN, Session(tmp_path))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {checkpoints.STATE, checkpoints.FACTS}
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


@pytest.mark.parametrize("step", [3, 4, 8])
def test_a_resumed_run_equals_an_uninterrupted_one(
    step: int,
    loaded: Loaded,
    start: Start,
    uninterrupted: tuple[Arrays, TrainingRecord],
    tmp_path: Path,
) -> None:
    with pytest.raises(KilledError):
        train(loaded, start, DATA, PLAN, Session(tmp_path, report=killed_after(step)))
    arrays, record = train(loaded, start, DATA, PLAN, Session(tmp_path, resume=True))
    wanted_arrays, wanted = uninterrupted
    assert record.resumed_at == 3 * ((step - 1) // 3)
    assert len(record.curve) == len(wanted.curve) == record.steps
    assert np.allclose(record.curve, wanted.curve, atol=1e-5)
    assert all(np.allclose(arrays[n], wanted_arrays[n], atol=1e-6) for n in arrays)
    assert record.loss_before == wanted.loss_before
    assert record.tokens == wanted.tokens


def test_resuming_a_finished_run_trains_no_further(
    loaded: Loaded, start: Start, tmp_path: Path
) -> None:
    arrays, record = train(loaded, start, DATA, PLAN, Session(tmp_path))
    again, second = train(
        loaded, start, DATA, PLAN, Session(tmp_path, resume=True, report=killed_after(record.steps))
    )
    assert all(arrays[name].tobytes() == again[name].tobytes() for name in arrays)
    assert second.loss_after == pytest.approx(record.loss_after)
    assert second.resumed_at == second.steps == record.steps


def test_a_run_stopped_by_time_can_be_given_more(
    loaded: Loaded, start: Start, uninterrupted: tuple[Arrays, TrainingRecord], tmp_path: Path
) -> None:
    def after_steps(count: int) -> Session:
        now = [0.0]

        def report(progress: Progress) -> None:
            now[0] += 60.0 / count if progress.steps else 0.0

        return Session(tmp_path, resume=True, report=report, clock=lambda: now[0])

    plan = replace(PLAN, max_minutes=1)
    _arrays, first = train(loaded, start, DATA, plan, after_steps(4))
    assert (first.stopped, first.steps) == ("max_minutes", 5)
    _arrays, second = train(loaded, start, DATA, plan, after_steps(1000))
    assert (second.stopped, second.resumed_at) == ("done", 5)
    assert np.allclose(second.curve, uninterrupted[1].curve, atol=1e-5)


@pytest.mark.parametrize("what", ["plan", "data", "adapter"])
def test_a_checkpoint_of_another_run_is_not_continued_and_it_says_why(
    what: str, loaded: Loaded, start: Start, tmp_path: Path
) -> None:
    with pytest.raises(KilledError):
        train(loaded, start, DATA, PLAN, Session(tmp_path, report=killed_after(5)))
    plan = replace(PLAN, learning_rate=2e-2) if what == "plan" else PLAN
    data = replace(DATA, train=DATA.train[1:]) if what == "data" else DATA
    other = Start(start.spec, initial_arrays(start.spec, 1)) if what == "adapter" else start
    _arrays, record = train(loaded, other, data, plan, Session(tmp_path, resume=True))
    assert record.resumed_at == 0
    assert record.steps == len(record.curve)
    assert any(f"another {what}" in note for note in record.notes)


def test_without_resume_a_run_begins_anew(loaded: Loaded, start: Start, tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        train(loaded, start, DATA, PLAN, Session(tmp_path, report=killed_after(5)))
    _arrays, record = train(loaded, start, DATA, PLAN, Session(tmp_path))
    assert record.resumed_at == 0


def test_more_time_or_other_checkpoints_do_not_make_it_another_run(
    loaded: Loaded, start: Start, tmp_path: Path
) -> None:
    with pytest.raises(KilledError):
        train(loaded, start, DATA, PLAN, Session(tmp_path, report=killed_after(5)))
    plan = replace(PLAN, max_minutes=90, checkpoint_steps=1)
    _arrays, record = train(loaded, start, DATA, plan, Session(tmp_path, resume=True))
    assert record.resumed_at == 3


def test_checkpoints_are_also_made_by_the_clock(
    loaded: Loaded, start: Start, tmp_path: Path
) -> None:
    now = [0.0]

    def report(progress: Progress) -> None:
        now[0] += 40.0 if progress.steps else 0.0
        if progress.step == 5:
            raise KilledError

    plan = replace(PLAN, checkpoint_steps=1000, checkpoint_seconds=60)
    with pytest.raises(KilledError):
        train(loaded, start, DATA, plan, Session(tmp_path, report=report, clock=lambda: now[0]))
    found = checkpoints.latest(tmp_path / "checkpoints")
    assert found is not None
    assert found.step == 3
