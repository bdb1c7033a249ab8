"""Training on a CUDA device: bfloat16, and a base in 8 and in 4 bits (QLoRA)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from demo_data import starter

from client.dataset import Dataset, load_dataset
from client.packaging import PackageFacts, make_package
from client.training import Session, Start, TrainingPlan, train
from federation.adapter.checks import check_update
from federation.adapter.format import initial_arrays
from federation.adapter.package import open_package
from federation.adapter.signing import SigningKey, pseudonym
from federation.model import adapted
from federation.model.load import Loaded, open_base
from federation.model.loss import document_losses
from tests.tiny_model import write_rows

pytestmark = pytest.mark.gpu
PLAN = TrainingPlan(
    learning_rate=3e-3, epochs=2, batch_size=8, max_seq_len=256, seed=1, autocast=True
)
KINDS = ("none", "int8", "nf4")


@pytest.fixture(scope="module", params=KINDS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """The small base on the device, whole or quantised."""
    search = tmp_path_factory.mktemp("models")
    return open_base("semilla", search=search, quantization=request.param)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """The same on the CPU in float32."""
    return open_base("semilla", search=tmp_path_factory.mktemp("models"), device="cpu")


def test_the_base_is_on_the_device_and_as_good_as_on_the_cpu(
    loaded: Loaded, exact: Loaded, tmp_path: Path
) -> None:
    assert loaded.device.startswith("cuda")
    data = load_dataset([rows(tmp_path)], day="2026-01-01")
    ours, theirs = (loss_of(each, data) for each in (loaded, exact))
    assert ours == pytest.approx(theirs, rel=0.03)


def test_an_adapter_is_trained_and_passes_the_servers_checks(
    loaded: Loaded, tmp_path: Path
) -> None:
    spec = adapted.spec_of(loaded, rank=8, alpha=16)
    current = initial_arrays(spec, 0)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    data = load_dataset([rows(tmp_path)], day="2026-01-01")
    arrays, record = train(loaded, Start(spec, current), data, PLAN, Session(tmp_path / "run"))
    assert record.stopped == "done"
    assert record.loss_after < record.loss_before - 0.1
    assert all(np.isfinite(array).all() for array in arrays.values())
    after = loaded.model.state_dict()
    assert all(bool((after[name] == tensor).all()) for name, tensor in before.items())
    key = SigningKey.generate()
    facts = PackageFacts(0, "0" * 64, record.examples, record.tokens, record.steps, 2.0, 1.9)
    package, _feedback = make_package(arrays, current, spec, facts, key)
    opened = open_package(package, max_bytes=10**8)
    node = pseudonym(key.public_hex)
    assert check_update(opened, spec, node=node, public_key=key.public_hex) is None


def loss_of(loaded: Loaded, data: Dataset) -> float:
    """Nats per token of what is held out."""
    nats, tokens = document_losses(loaded.model, loaded.tokenizer, data.heldout).sum(axis=0)
    return float(nats / tokens)


def rows(folder: Path) -> Path:
    return write_rows(folder / "rows.jsonl", [dict(row) for row in starter().train["luna"]][:64])
