"""What the page answers with is always the newest: adapter and fit, without a restart."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from client.adapters import AdapterStore
from client.chat_answers import NodeAnswers, NodeState
from client.config import NodeConfig, NodeHome, load_federation
from client.library import open_library
from federation.adapter.format import AdapterSpec
from federation.model import adapted
from federation.model.choose import SEMILLA, BaseChoice, identity
from federation.model.load import load_base
from tests.global_samples import Chain, joined_home

CONFIG = NodeConfig(device="cpu", embedder="none")


def spec_of_semilla() -> AdapterSpec:
    loaded = load_base(BaseChoice("semilla", SEMILLA, None, identity(SEMILLA)), device="cpu")
    return adapted.spec_of(loaded, rank=2, alpha=16)


def publish(chain: Chain, home: NodeHome) -> None:
    shapes = chain.spec.shapes
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    AdapterStore(home, load_federation(home)).install(chain.publish(arrays), chain.texts(-1)[:-1])


def test_a_new_adapter_answers_next_and_a_new_fit_keeps_the_model(tmp_path: Path) -> None:
    chain = Chain(spec_of_semilla())
    home = joined_home(tmp_path / "node", chain)
    state = NodeState(home)
    with open_library(home, CONFIG) as library:
        answers = NodeAnswers(home, CONFIG, library)
        first = answers.responder()
        assert first.model.adapter == ""
        assert answers.responder() is first
        assert (state.now()["joined"], state.now()["adapter"]) == (True, "")
        publish(chain, home)
        second = answers.responder()
        assert second.model.adapter == "global@v0"
        assert state.now()["adapter"] == "v0"
        assert state.now()["last_round"]
        home.refusal.parent.mkdir(parents=True, exist_ok=True)
        home.refusal.write_text("{")
        third = answers.responder()
        assert third is not second
        assert third.writer is second.writer
