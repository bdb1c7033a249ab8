"""Loading a base model: what is refused, what a broken one falls back to, quantisation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from federation.errors import ModelError
from federation.model.choose import BaseChoice, identity
from federation.model.load import load_base, open_base, pick_device
from tests.tiny_model import make_tiny_llama


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def choice_of(folder: Path) -> BaseChoice:
    return BaseChoice(folder.name, folder, None, identity(folder))


def test_a_loaded_base_is_frozen_in_float32_on_the_cpu(tiny: Path) -> None:
    loaded = load_base(choice_of(tiny), device="cpu")
    parameters = list(loaded.model.parameters())
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in parameters)
    assert not loaded.model.training
    assert loaded.device == "cpu"


def test_loading_says_nothing_on_the_terminal(tiny: Path, capfd: pytest.CaptureFixture) -> None:
    load_base(choice_of(tiny), device="cpu")
    assert capfd.readouterr() == ("", "")


def test_truncated_weights_do_not_load(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="does not load"):
        load_base(choice_of(copy), device="cpu")


def test_a_missing_tensor_is_refused_rather_than_made_up(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="up_proj"):
        load_base(choice_of(copy), device="cpu")


def test_weights_that_are_not_numbers_are_refused(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"].fill_(float("nan"))
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="not finite"):
        load_base(choice_of(copy), device="cpu")


def test_a_tokenizer_of_another_model_is_refused(copy: Path) -> None:
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    extra = {"id": 5000, "content": "<|x|>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    last = len(tokenizer["model"]["vocab"])
    tokenizer["added_tokens"] += [
        extra | flags | {"id": last + n, "content": f"<{n}>"} for n in range(100)
    ]
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match="tokens"):
        load_base(choice_of(copy), device="cpu")


def test_a_tokenizer_without_eos_is_refused(copy: Path) -> None:
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    del settings["eos_token"]
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="end-of-text"):
        load_base(choice_of(copy), device="cpu")


@pytest.mark.security
def test_h10_code_shipped_with_a_model_is_never_run(copy: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (copy / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    config = json.loads((copy / "config.json").read_text())
    config["model_type"] = "evil"
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError):
        load_base(choice_of(copy), device="cpu")
    assert not mark.exists()


def test_a_corrupt_first_choice_falls_back_to_the_next_that_loads(
    tiny: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(tiny, tmp_path / "mine"))
    (broken / "model.safetensors").write_bytes(b"\0" * 64)
    pickled = Path(shutil.copytree(tiny, tmp_path / "finetune_es_pdf_lm_full"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    good = Path(shutil.copytree(tiny, tmp_path / "finetune_es_pdf_lm"))
    loaded = open_base("mine", search=tmp_path, device="cpu")
    assert loaded.choice.path == good
    assert loaded.choice.identity == identity(tiny)
    assert [reason.split(":")[0] for reason in loaded.choice.reasons] == [
        "mine",
        "finetune_es_pdf_lm_full",
        "finetune_es_pdf_lm",
    ]
    assert "pickled" in loaded.choice.reasons[1]


@pytest.mark.parametrize(("quantization", "likeness"), [("int8", 0.97), ("nf4", 0.6)])
def test_a_quantised_base_is_smaller_and_close_to_the_full_one(
    quantization: str, likeness: float, tmp_path: Path
) -> None:
    folder = make_tiny_llama(tmp_path / "wide", hidden=128)
    full = load_base(choice_of(folder), device="cpu")
    small = load_base(choice_of(folder), quantization=quantization, device="cpu")  # type: ignore[arg-type]
    assert small.model.get_memory_footprint() < 0.75 * full.model.get_memory_footprint()
    ids = torch.arange(5, 25).unsqueeze(0)
    with torch.inference_mode():
        wanted = full.model(input_ids=ids).logits
        found = small.model(input_ids=ids).logits
    assert torch.nn.functional.cosine_similarity(wanted, found, dim=-1).mean() > likeness
    assert not torch.equal(wanted, found)


def test_bitsandbytes_is_kept_from_fetching_code_and_says_nothing(
    tiny: Path, tmp_path: Path
) -> None:
    """In a process of its own: on some processors it asks `kernels` for code as it is imported."""
    (tmp_path / "kernels.py").write_text("def get_kernel(*_, **__):\n    print('fetched')\n")
    script = f"""
import sys
from pathlib import Path
from federation.model.choose import BaseChoice, identity
from federation.model.load import load_base

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "bitsandbytes.backends.cpu.ops":
            print("kernels:", sys.modules.get("kernels", "to be found"))

sys.meta_path.insert(0, Watch())
folder = Path({str(tiny)!r})
load_base(BaseChoice("tiny", folder, None, identity(folder)), quantization="nf4", device="cpu")
print("afterwards:", sys.modules.get("kernels", "to be found") is not None)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env=environment,
    )
    assert done.stdout.splitlines() == ["kernels: None", "afterwards: True"]
    assert done.stderr == ""


def test_asking_for_a_gpu_where_there_is_none_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ModelError, match="CUDA"):
        pick_device("cuda:0")


def test_an_unknown_dtype_is_named(tiny: Path) -> None:
    with pytest.raises(ModelError, match="float33"):
        load_base(choice_of(tiny), device="cpu", dtype="float33")
