"""What a node answers with: its model, the newest verified adapter, and what is missing."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from client.adapters import AdapterStore
from client.chat_model import NodeModel
from client.config import NodeConfig, NodeHome, load_federation
from client.doctor import Finding, all_checks
from client.knowledge import open_memory, open_responder
from federation.adapter.format import AdapterSpec
from federation.adapter.manifest import sha256_of
from federation.errors import ModelError
from federation.model import adapted
from federation.model.choose import SEMILLA, BaseChoice, identity
from federation.model.headers import parameters_of
from federation.model.load import load_base
from federation.model.speak import Sampling
from rag.answer.abstain import START
from rag.answer.events import Question
from rag.chat.memory import Turn
from tests.global_samples import Chain, joined_home
from tests.small_search import SmallSearch, passage
from tests.tiny_model import make_tiny_llama

NEWS = [passage("El tren de Toledo llegó tarde por la nieve.", title="Nieve")]
ASK = Question("¿Por qué llegó tarde el tren de Toledo?", anyway=True)
GREEDY = Sampling(max_new_tokens=12, temperature=0)
CONFIG = NodeConfig(device="cpu")


def spec_of_semilla() -> AdapterSpec:
    loaded = load_base(BaseChoice("semilla", SEMILLA, None, identity(SEMILLA)), device="cpu")
    return adapted.spec_of(loaded, rank=2, alpha=16)


def published(chain: Chain, home: NodeHome, seed: int) -> None:
    draw = np.random.default_rng(seed)
    arrays = {n: draw.normal(size=s).astype(np.float32) for n, s in chain.spec.shapes.items()}
    package = chain.publish(arrays)
    AdapterStore(home, load_federation(home)).install(package, chain.texts(-1)[:-1])


def test_the_newest_verified_adapter_answers_and_is_named(tmp_path: Path) -> None:
    chain = Chain(spec_of_semilla())
    home = joined_home(tmp_path / "node", chain)
    bare = NodeModel(home, CONFIG).writer()
    assert (bare.model.base, bare.model.adapter) == ("semilla", "")
    published(chain, home, seed=1)
    with_adapter = NodeModel(home, CONFIG).writer()
    assert with_adapter.model.adapter == "global@v0"
    assert with_adapter.model.sha256 == sha256_of(chain.manifests[0])
    prompt = [5, 6, 7]
    first, second = (
        [piece.token for piece in writer.write(prompt, GREEDY, lambda: False)]
        for writer in (bare, with_adapter)
    )
    assert first == second  # `bare` loads when it first writes, and the adapter was there by then
    published(chain, home, seed=2)
    newer = NodeModel(home, CONFIG).writer()
    assert newer.model.adapter == "global@v1"
    assert [piece.token for piece in newer.write(prompt, GREEDY, lambda: False)] != second
    assert open_responder(home, CONFIG).answer(ASK).model == newer.model


def test_a_damaged_adapter_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chain = Chain(spec_of_semilla())
    home = joined_home(tmp_path / "node", chain)
    published(chain, home, seed=1)
    tensors = home.adapters / "v0" / "adapter_model.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)
    writer = NodeModel(home, CONFIG).writer()
    with caplog.at_level(logging.WARNING):
        assert writer.model.adapter == ""
        assert list(writer.write([5, 6], GREEDY, lambda: False)) is not None
    assert "not usable" in caplog.text


def test_a_node_whose_model_is_missing_still_quotes(tmp_path: Path) -> None:
    chain = Chain(AdapterSpec.from_json({**spec_of_semilla().to_json(), "base_hash": "f" * 64}))
    home = joined_home(tmp_path / "node", chain)
    responder = open_responder(home, CONFIG, search=SmallSearch(NEWS))
    answer = responder.answer(ASK)
    assert responder.writer is None
    assert (answer.style, answer.style_reason) == (
        "extractive", "no hay modelo cargado: se citan las mejores frases")  # fmt: skip
    assert "«El tren de Toledo llegó tarde por la nieve.» [1]" in answer.answer


def test_a_damaged_fit_leaves_the_start_values(tmp_path: Path) -> None:
    home = NodeHome(tmp_path / "node")
    home.refusal.parent.mkdir(parents=True)
    home.refusal.write_text("{")
    assert open_responder(home, NodeConfig(model="semilla")).refusal == START


def test_the_doctor_loads_the_memory_and_names_a_damaged_one(tmp_path: Path) -> None:
    home = NodeHome(tmp_path / "node")
    memory = open_memory(home, CONFIG)
    session = memory.begin()
    for n in range(15):
        memory.add(session, Turn("user", f"m{n}", n), Turn("assistant", "ya", n))

    def looked() -> Finding:
        return next(finding for finding in all_checks(home) if finding.name == "memory")

    assert looked().is_good
    assert looked().detail == "20 turns of the last talk loaded; 1 talks are remembered"
    home.memory.write_bytes(b"no database" * 500)
    assert not looked().is_good
    assert "not a memory of ours" in looked().detail


def test_parameters_are_counted_without_loading(tmp_path: Path) -> None:
    folder = make_tiny_llama(tmp_path / "tiny")
    loaded = load_base(BaseChoice("tiny", folder, None, "0" * 64), device="cpu")
    assert parameters_of(folder) == sum(p.numel() for p in loaded.model.parameters())
    (folder / "model.safetensors").write_bytes(b"\xff" * 8 + b"{")
    with pytest.raises(ModelError, match="not readable"):
        parameters_of(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no safetensors"):
        parameters_of(folder)
