"""Which base model is taken, why, and what its identity depends on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from federation.errors import BaseMismatchError, ModelError
from federation.model.choose import (
    SEMILLA,
    BaseChoice,
    Candidate,
    candidates,
    choose_base,
    identity,
    locate,
    public_name,
    require_identity,
)


def a_model(folder: Path, *, weights: bytes = b"weights") -> Path:
    """A folder with the files of a model; contents are not loadable."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def accept(_candidate: Candidate) -> None:
    """Every candidate loads."""


def refuse_all_but(*refs: str) -> Callable[[Candidate], None]:
    def try_load(candidate: Candidate) -> None:
        if candidate.ref not in refs:
            raise ModelError(f"{candidate.ref} is broken")

    return try_load


def test_identity_ignores_folder_name_readme_and_generation_config(tmp_path: Path) -> None:
    first = a_model(tmp_path / "one")
    second = a_model(tmp_path / "two")
    (second / "README.md").write_text("hello")
    (second / "generation_config.json").write_text("{}")
    (second / "merges.txt").write_text("unused beside tokenizer.json")
    (second / "pytorch_model.bin").write_bytes(b"unused beside safetensors")
    assert identity(first) == identity(second)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
)
def test_identity_changes_with_one_byte_of(name: str, tmp_path: Path) -> None:
    folder = a_model(tmp_path / "model")
    before = identity(folder)
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    assert identity(folder) != before


def test_identity_changes_when_a_chat_template_is_added(tmp_path: Path) -> None:
    folder = a_model(tmp_path / "model")
    before = identity(folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert identity(folder) != before


def test_identity_covers_every_shard_of_an_index(tmp_path: Path) -> None:
    folder = a_model(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    shutil.copy(folder / "a.safetensors", folder / "b.safetensors")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    before = identity(folder)
    (folder / "b.safetensors").write_bytes(b"other")
    assert identity(folder) != before
    (folder / "b.safetensors").unlink()
    with pytest.raises(ModelError, match=r"b\.safetensors"):
        identity(folder)


def test_an_index_may_not_name_files_outside_its_folder(tmp_path: Path) -> None:
    folder = a_model(tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = {"weight_map": {"x": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="outside"):
        identity(folder)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = a_model(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled") as caught:
        identity(folder)
    assert "safetensors" in caught.value.hint


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_without_an_essential_file_is_no_model(name: str, tmp_path: Path) -> None:
    folder = a_model(tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(ModelError):
        identity(folder)


def test_the_order_is_config_then_fine_tunes_then_hub_then_semilla(tmp_path: Path) -> None:
    order = [candidate.ref for candidate in candidates("org/own", tmp_path, revision="abc")]
    assert order == [
        "org/own",
        "finetune_es_pdf_lm_full",
        "finetune_es_pdf_lm",
        "distilgpt2",
        "semilla",
    ]
    assert candidates("org/own", tmp_path, revision="abc")[0].revision == "abc"


def test_semilla_named_in_the_config_comes_first_and_once(tmp_path: Path) -> None:
    order = candidates("semilla", tmp_path)
    assert order[0].path == SEMILLA
    assert [candidate.ref for candidate in order].count("semilla") == 1


def test_a_configured_folder_is_found_below_the_search_folder(tmp_path: Path) -> None:
    a_model(tmp_path / "mine")
    assert candidates("mine", tmp_path)[0].path == tmp_path / "mine"


def test_a_model_that_exists_but_does_not_load_is_passed_over_with_the_reason(
    tmp_path: Path,
) -> None:
    a_model(tmp_path / "mine")
    good = a_model(tmp_path / "finetune_es_pdf_lm", weights=b"good")
    choice = choose_base(
        "mine", search=tmp_path, try_load=refuse_all_but("finetune_es_pdf_lm", "semilla")
    )
    assert choice.path == good
    assert choice.identity == identity(good)
    assert choice.reasons[0] == "mine: mine is broken"
    assert "finetune_es_pdf_lm_full" in choice.reasons[1]
    assert choice.reasons[-1].startswith("finetune_es_pdf_lm: chosen")


def test_a_hub_model_outside_the_cache_is_not_fetched_unless_allowed(tmp_path: Path) -> None:
    a_model(tmp_path / "finetune_es_pdf_lm_full")
    choice = choose_base("no-such-org/no-such-model", search=tmp_path, try_load=accept)
    assert choice.ref == "finetune_es_pdf_lm_full"
    assert "not in the local cache" in choice.reasons[0]


@pytest.mark.parametrize("name", ["no-such-org/no-such-model", "./no-such-folder"])
def test_a_model_that_is_not_here_is_named_with_what_would_do(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no-such-") as caught:
        locate(candidates(name, tmp_path)[0])
    assert "`semilla`, or the folder" in caught.value.hint


def test_a_hub_model_in_the_cache_is_used_with_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "cache" / "models--org--own"
    a_model(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    choice = choose_base("org/own", search=tmp_path, try_load=accept)
    assert (choice.ref, choice.revision) == ("org/own", commit)
    assert choice.path == repository / "snapshots" / commit


def test_when_nothing_loads_every_reason_is_given(tmp_path: Path) -> None:
    a_model(tmp_path / "mine")
    with pytest.raises(ModelError) as caught:
        choose_base("mine", search=tmp_path, try_load=refuse_all_but())
    for name in ("mine", "finetune_es_pdf_lm_full", "distilgpt2", "semilla"):
        assert name in caught.value.message


def test_another_base_than_the_federations_is_refused(tmp_path: Path) -> None:
    choice = BaseChoice("mine", tmp_path, None, "a" * 64)
    require_identity(choice, "a" * 64)
    with pytest.raises(BaseMismatchError, match="mine"):
        require_identity(choice, "b" * 64)


@pytest.mark.privacy
def test_the_public_name_of_a_model_is_never_a_path(tmp_path: Path) -> None:
    folder = tmp_path / "María's models" / "my model"
    folder.mkdir(parents=True)
    assert public_name(BaseChoice(str(folder), folder, None, "")) == "my-model"
    assert public_name(BaseChoice("org/own", folder, "abc", "")) == "org/own"
