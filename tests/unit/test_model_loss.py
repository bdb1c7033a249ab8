"""Held-out loss per document and the loss that is learnt from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import GraniteConfig, GraniteForCausalLM

from federation.model import adapted
from federation.model.choose import BaseChoice, identity
from federation.model.documents import Document
from federation.model.encoding import Encoded, context_ids, encode, pack, text_ids, windows
from federation.model.head import CHUNK_NUMBERS, head_losses
from federation.model.load import Loaded, load_base
from federation.model.loss import document_losses, mean_loss, token_losses
from tests.tiny_model import make_tiny_gpt2, make_tiny_llama, qa_rows, text_rows

DOCUMENTS = [Document(**row) for row in (text_rows(9) + qa_rows(8))]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {"llama": make_tiny_llama(root / "llama"), "gpt2": make_tiny_gpt2(root / "gpt2")}


@pytest.fixture(params=["llama", "gpt2"])
def loaded(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Loaded:
    folder = folders[request.param]
    return load_base(BaseChoice(folder.name, folder, None, identity(folder)), device="cpu")


@pytest.fixture
def llama(folders: dict[str, Path]) -> Loaded:
    folder = folders["llama"]
    return load_base(BaseChoice("llama", folder, None, identity(folder)), device="cpu")


def reference(loaded: Loaded, document: Document) -> tuple[float, int]:
    """Nats and tokens by the plainest means: all logits of one document."""
    encoded = encode(loaded.tokenizer, document)
    ids = torch.from_numpy(encoded.ids).unsqueeze(0)
    with torch.inference_mode():
        logits = loaded.model(input_ids=ids, use_cache=False).logits[0]
    nats = functional.cross_entropy(logits[:-1].double(), ids[0, 1:], reduction="none")
    return nats[encoded.start - 1 :].sum().item(), len(encoded.ids) - encoded.start


def test_losses_are_those_of_each_document_alone(loaded: Loaded) -> None:
    found = document_losses(loaded.model, loaded.tokenizer, DOCUMENTS, max_tokens=120)
    wanted = np.array([reference(loaded, document) for document in DOCUMENTS])
    assert found.dtype == np.float64
    assert np.array_equal(found[:, 1], wanted[:, 1])
    assert np.allclose(found[:, 0] / found[:, 1], wanted[:, 0] / wanted[:, 1], atol=1e-5)


def test_a_batch_of_one_gives_the_same_as_a_batch_of_many(llama: Loaded) -> None:
    alone = document_losses(llama.model, llama.tokenizer, DOCUMENTS, batch_tokens=1)
    together = document_losses(llama.model, llama.tokenizer, DOCUMENTS, batch_tokens=10_000)
    assert np.allclose(alone[:, 0] / alone[:, 1], together[:, 0] / together[:, 1], atol=1e-5)


def test_a_long_document_is_cut_and_every_window_counts(llama: Loaded) -> None:
    long = Document(text="La luna gira. " * 60)
    whole = document_losses(llama.model, llama.tokenizer, [long], max_tokens=1000)
    cut = document_losses(llama.model, llama.tokenizer, [long], max_tokens=16)
    assert cut[0, 1] == whole[0, 1] == encode(llama.tokenizer, long).targets
    assert cut[0, 0] != pytest.approx(whole[0, 0])


def test_only_the_answer_and_its_eos_count(llama: Loaded) -> None:
    pair = Document(question="Why is the sky blue?", answer="It is.")
    found = document_losses(llama.model, llama.tokenizer, [pair])
    answer = llama.tokenizer("It is.", add_special_tokens=False)["input_ids"]
    assert found[0, 1] == len(answer) + 1


def test_no_documents_give_no_losses(llama: Loaded) -> None:
    found = document_losses(llama.model, llama.tokenizer, [])
    assert found.shape == (0, 2)
    assert mean_loss(found) == 0.0


def test_an_adapter_counts_in_the_loss(llama: Loaded) -> None:
    plain = document_losses(llama.model, llama.tokenizer, DOCUMENTS)
    spec = adapted.spec_of(llama, rank=2, alpha=4)
    arrays = {n: np.full(s, 0.1, np.float32) for n, s in spec.shapes.items()}
    model = adapted.attach(llama, spec, arrays, trainable=False)
    assert not np.allclose(document_losses(model, llama.tokenizer, DOCUMENTS), plain, atol=1e-2)


@pytest.mark.parametrize("with_bias", [False, True])
def test_loss_and_gradient_in_chunks_are_those_of_plain_cross_entropy(with_bias: bool) -> None:
    vocabulary, width = 70_000, 8
    count = 2 * (CHUNK_NUMBERS // vocabulary) + 3
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(count, width, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=generator)
    bias = torch.randn(vocabulary, generator=generator) if with_bias else None
    targets = torch.randint(vocabulary, (count,), generator=generator)
    upstream = torch.randn(count, generator=generator)
    ours = head_losses(hidden, weight, bias, targets)
    (mine,) = torch.autograd.grad((ours * upstream).sum(), hidden)
    plain = functional.cross_entropy(
        functional.linear(hidden, weight, bias), targets, reduction="none"
    )
    (theirs,) = torch.autograd.grad((plain * upstream).sum(), hidden)
    assert torch.allclose(ours, plain, atol=1e-4)
    assert torch.allclose(mine, theirs, atol=1e-4)


def test_a_model_that_scales_its_logits_goes_the_long_way() -> None:
    config = GraniteConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        logits_scaling=4.0,
        initializer_range=0.5,
    )
    model: Any = GraniteForCausalLM(config).eval()
    pieces = [Encoded(np.arange(length, dtype=np.int64), 1) for length in (9, 4)]
    with torch.inference_mode():
        found = token_losses(model)(pieces)
    wanted = torch.cat([plain_losses(model, piece.ids) for piece in pieces])
    assert torch.allclose(found, wanted, atol=1e-5)


def plain_losses(model: Any, ids: np.ndarray[Any, Any]) -> torch.Tensor:
    """Loss at each token but the first, by all logits of one document."""
    tokens = torch.from_numpy(ids).unsqueeze(0)
    with torch.inference_mode():
        logits = model(input_ids=tokens, use_cache=False).logits[0]
    return functional.cross_entropy(logits[:-1], tokens[0, 1:], reduction="none")


@pytest.mark.parametrize("way", ["side by side", "padded", "whole logits"])
def test_packed_documents_do_not_see_each_other(
    way: str, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = loaded.tokenizer
    texts = [text_ids(tokenizer, document.text) for document in DOCUMENTS[:5]]
    streams = [np.asarray(text, dtype=np.int64) for text in texts]
    before = context_ids(tokenizer)
    pieces = pack(streams, before=before, max_tokens=100)
    assert any(piece.breaks for piece in pieces)
    if way != "side by side":
        monkeypatch.setattr(loaded.model.config, "sliding_window", 4096, raising=False)
    if way == "whole logits":
        loaded.model.get_output_embeddings().weight.requires_grad_(True)
    with torch.inference_mode():
        found = token_losses(loaded.model)(pieces)
    wanted = []
    for piece in pieces:
        for length, at in zip(piece.segments(), (0, *piece.breaks), strict=True):
            wanted.append(plain_losses(loaded.model, piece.ids[at : at + length + 1]))
    assert torch.allclose(found, torch.cat(wanted), atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_gradients_side_by_side_are_those_of_padded_batches(
    name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders[name]
    loaded = load_base(BaseChoice(name, folder, None, identity(folder)), device="cpu")
    spec = adapted.spec_of(loaded, rank=2, alpha=4)
    rng = np.random.default_rng(0)
    arrays = {n: rng.normal(0, 0.1, s).astype(np.float32) for n, s in spec.shapes.items()}
    model = adapted.attach(loaded, spec, arrays, trainable=True)
    pieces = [p for d in DOCUMENTS for p in windows(encode(loaded.tokenizer, d), 40)]
    parameters = list(adapted.adapter_parameters(model, spec).values())
    fast = torch.autograd.grad(token_losses(model)(pieces).sum(), parameters)
    monkeypatch.setattr(loaded.model.config, "sliding_window", 4096, raising=False)
    slow = torch.autograd.grad(token_losses(model)(pieces).sum(), parameters)
    for mine, theirs in zip(fast, slow, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-3 * float(theirs.abs().max()))


def test_the_models_own_attention_is_in_force_again_afterwards(llama: Loaded) -> None:
    before = llama.model.config._attn_implementation
    document_losses(llama.model, llama.tokenizer, DOCUMENTS)
    assert llama.model.config._attn_implementation == before != "conscience_segments"
