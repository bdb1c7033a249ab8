"""A running chat takes up a new adapter between two answers, or keeps the old and says why."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from client.adapters import AdapterStore
from client.chat_adapter import load_verdicts, note_verdict, verdicts_file
from client.chat_model import NodeModel, NodeWriter, require_model
from client.config import NodeConfig, NodeHome, load_federation
from federation.adapter.format import AdapterSpec
from federation.adapter.manifest import sha256_of
from federation.errors import ConfigError
from federation.model import adapted
from federation.model.choose import BaseChoice, identity
from federation.model.load import load_base
from federation.model.sampling import Sampling
from tests.global_samples import Chain, joined_home
from tests.tiny_model import make_tiny_llama

GREEDY = Sampling(max_new_tokens=12, temperature=0)
PROMPT = [5, 6, 7]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AdapterSpec]:
    folder = make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")
    loaded = load_base(BaseChoice("tiny", folder, None, identity(folder)), device="cpu")
    return folder, adapted.spec_of(loaded, rank=2, alpha=4)


class Node:
    """A node that joined, and what its operator publishes."""

    def __init__(self, folder: Path, base: tuple[Path, AdapterSpec]) -> None:
        model, spec = base
        self.chain = Chain(spec)
        self.home: NodeHome = joined_home(folder / "node", self.chain)
        self.config = NodeConfig(model=str(model), device="cpu")
        self.store = AdapterStore(self.home, load_federation(self.home))

    def deploy(self, *, scale: float = 0.5) -> str:
        """Publish and install the next version; the sha256 of its manifest."""
        draw = np.random.default_rng(len(self.chain.manifests))
        shapes = self.chain.spec.shapes
        arrays = {n: np.float32(draw.normal(size=s) * scale) for n, s in shapes.items()}
        held = self.store.held_version()
        self.store.install(self.chain.publish(arrays), self.chain.texts(held)[:-1])
        return sha256_of(self.chain.manifests[-1])

    def model(self) -> NodeModel:
        return NodeModel(self.home, self.config)


@pytest.fixture
def node(tmp_path: Path, base: tuple[Path, AdapterSpec]) -> Node:
    return Node(tmp_path, base)


def said(writer: NodeWriter) -> list[int]:
    return [piece.token for piece in writer.write(PROMPT, GREEDY, lambda: False)]


def test_an_answer_ends_with_the_adapter_it_began_with_and_the_next_one_has_the_new(
    node: Node,
) -> None:
    first = node.deploy()
    model = node.model()
    old = model.writer()
    assert not model.is_loaded
    whole, prompts = said(old), model.prompts
    writing = old.write(PROMPT, GREEDY, lambda: False)
    begun = [next(writing).token]
    second = node.deploy()
    assert model.follow()
    new = model.writer()
    assert (old.model.sha256, new.model.sha256) == (first, second)
    assert (new.model.adapter, model.refused) == ("global@v1", "")
    other = said(new)
    assert other != whole
    assert [*begun, *(piece.token for piece in writing)] == whole
    assert model.prompts is prompts  # the base was not loaded again
    assert said(model.writer()) == other
    assert model._loaded is not None
    model.sweep()
    assert [name[:2] for name in model._loaded.voices.names()] == ["v0", "v1"]
    del old, writing
    model.sweep()
    assert [name[:2] for name in model._loaded.voices.names()] == ["v1"]


def test_the_base_alone_writes_as_if_there_were_no_adapter(node: Node, tmp_path: Path) -> None:
    alone = said(NodeModel(NodeHome(tmp_path / "other"), node.config).writer())
    node.deploy()
    model = node.model()
    network, bare = model.writer(), model.writer(adapter=False)
    assert said(network) != alone
    assert said(bare) == alone
    assert (network.model.adapter, bare.model.adapter) == ("global@v0", "")
    assert bare.model.sha256 == model.choice.identity


def test_a_new_adapter_without_numbers_is_refused_once_and_the_old_one_goes_on(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    good = node.deploy()
    model = node.model()
    before = said(model.writer())
    node.deploy(scale=1e25)
    with caplog.at_level(logging.WARNING):
        assert model.follow()
        assert said(model.writer()) == before
    assert model.writer().model.sha256 == good
    assert model.refused == "global@v1 does not answer: its outputs are not finite numbers"
    assert caplog.text.count("global v1 is not spoken with") == 1
    third = node.deploy()
    assert model.follow()
    assert (model.writer().model.sha256, model.refused) == (third, "")


def test_a_model_that_is_loaded_for_a_broken_adapter_takes_the_one_before(node: Node) -> None:
    good = node.deploy()
    node.deploy(scale=1e25)
    model = node.model()
    writer = model.writer()
    assert writer.model.adapter == "global@v1"  # what it should be, until it has to speak
    assert said(writer)
    assert (writer.model.sha256, writer.model.adapter) == (good, "global@v0")
    assert "global@v1 does not answer" in model.refused


def test_an_adapter_that_is_not_what_was_signed_is_not_taken(node: Node) -> None:
    node.deploy()
    model = node.model()
    before = said(model.writer())
    node.deploy()
    tensors = node.home.adapters / "v1" / "adapter_model.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)
    assert model.follow()
    assert said(model.writer()) == before
    assert model.writer().model.adapter == "global@v0"
    assert "is not the file that was signed" in model.refused


def test_a_verdict_sends_the_chat_one_step_back_and_no_further(node: Node) -> None:
    shas = [node.deploy() for _ in range(3)]
    model = node.model()
    said(model.writer())
    for version in (2, 1):
        note_verdict(node.home, node.store.load(version), "wrong answers")
        assert model.follow()
        assert model.writer().model.sha256 == shas[1]
        assert model.refused == "global@v2 does not answer: wrong answers"
    assert node.store.held_version() == 2  # nothing older can be sent to it because of that
    note_verdict(node.home, node.store.load(2))
    assert model.follow()
    assert (model.writer().model.sha256, model.refused) == (shas[2], "")
    assert [verdict.version for verdict in load_verdicts(node.home).of.values()] == [1, 2]
    verdicts_file(node.home).write_text("{", encoding="utf-8")
    assert load_verdicts(node.home).of == {}


def test_a_version_that_was_chosen_answers_as_long_as_it_is_kept(node: Node) -> None:
    shas = [node.deploy() for _ in range(3)]
    model = node.model()
    assert model.follow(shas[0])
    assert model.writer().model.sha256 == shas[0]  # also before it is loaded
    said(model.writer())
    assert (model.writer().model.sha256, model.refused) == (shas[0], "")
    require_model(node.home, node.config, model.name, shas[0])
    newest = node.deploy()
    assert model.follow(shas[0])
    assert model.writer().model.sha256 == newest
    assert f"{shas[0][:12]} that was chosen is not kept" in model.refused
    assert model.follow()
    assert model.refused == ""


def test_settings_name_no_model_that_the_node_has_not(node: Node) -> None:
    require_model(node.home, node.config, "", "")
    with pytest.raises(ConfigError, match="'gpt' is not this node's base model"):
        require_model(node.home, node.config, "gpt", "")
    for home in (node.home, NodeHome(node.home.root / "lone")):
        with pytest.raises(ConfigError, match="No adapter ffffffffffff is kept"):
            require_model(home, node.config, "", "f" * 64)
