"""LoRA on a base model: exact state, an untouched base, strict schema, stock PEFT's numbers."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch

from federation.adapter.format import AdapterSpec, Arrays, initial_arrays, write_adapter_folder
from federation.errors import FormatError, ModelError
from federation.model import adapted
from federation.model.choose import BaseChoice, identity
from federation.model.load import Loaded, load_base
from tests.tiny_model import make_tiny_gpt2, make_tiny_llama

IDS = torch.arange(5, 25).unsqueeze(0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    wide = make_tiny_llama(root / "wide", hidden=128)
    llama, gpt2 = make_tiny_llama(root / "llama"), make_tiny_gpt2(root / "gpt2")
    return {"llama": llama, "gpt2": gpt2, "wide": wide}


@pytest.fixture(params=["llama", "gpt2"])
def loaded(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Loaded:
    return load(folders[request.param])


@pytest.fixture
def llama(folders: dict[str, Path]) -> Loaded:
    return load(folders["llama"])


def load(folder: Path, **options: Any) -> Loaded:
    choice = BaseChoice(folder.name, folder, None, identity(folder))
    return load_base(choice, device="cpu", **options)


def random_arrays(spec: AdapterSpec, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in spec.shapes.items()
    }


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS, use_cache=False).logits


def state_hash(model: Any) -> str:
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if ".lora_" not in name:
            total.update(name.replace(".base_layer", "").encode())
            total.update(tensor.numpy().tobytes())
    return total.hexdigest()


def test_the_state_read_back_is_the_state_put_in_bit_for_bit(loaded: Loaded) -> None:
    spec = adapted.spec_of(loaded, rank=3, alpha=6)
    arrays = random_arrays(spec)
    model = adapted.attach(loaded, spec, arrays, trainable=True)
    found = adapted.copies(adapted.adapter_parameters(model, spec))
    assert list(found) == list(spec.shapes)
    for name, array in arrays.items():
        assert found[name].dtype == np.float32
        assert found[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_quantised_base_has_the_same_adapter_and_trains(
    quantization: str, folders: dict[str, Path]
) -> None:
    loaded = load(folders["llama"], quantization=quantization)
    spec = adapted.spec_of(loaded, rank=3, alpha=6)
    assert spec == adapted.spec_of(load(folders["llama"]), rank=3, alpha=6)
    arrays = random_arrays(spec)
    model = adapted.attach(loaded, spec, arrays, trainable=True)
    found = adapted.copies(adapted.adapter_parameters(model, spec))
    assert all(found[name].tobytes() == array.tobytes() for name, array in arrays.items())
    model(input_ids=IDS, labels=IDS).loss.backward()
    for parameter in adapted.adapter_parameters(model, spec).values():
        assert parameter.grad is not None
        assert bool(torch.isfinite(parameter.grad).all())


def test_measuring_a_4bit_base_changes_no_gradient_that_comes_later(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # as on a processor with AVX512-BF16, where bitsandbytes would pack the weights for good
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    loaded = load(folders["wide"], quantization="nf4")
    spec = adapted.spec_of(loaded, rank=3, alpha=6)
    model = adapted.attach(loaded, spec, random_arrays(spec), trainable=True)

    def gradients() -> dict[str, bytes]:
        model.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        parameters = adapted.adapter_parameters(model, spec)
        return {name: each.grad.numpy().tobytes() for name, each in parameters.items()}

    before = gradients()
    logits(model.eval())
    assert gradients() == before


def test_bitsandbytes_is_loaded_only_for_a_quantised_base(tmp_path: Path) -> None:
    """In a process of its own: importing it doubles what PEFT costs to import."""
    folder = make_tiny_llama(tmp_path / "llama")
    script = f"""
import sys
from pathlib import Path
from federation.adapter.format import initial_arrays
from federation.model import adapted, fused
from federation.model.choose import BaseChoice, identity
from federation.model.load import load_base
folder = Path({str(folder)!r})
choice = BaseChoice("tiny", folder, None, identity(folder))
for quantization in ("none", "nf4"):
    loaded = load_base(choice, quantization=quantization, device="cpu")
    spec = adapted.spec_of(loaded, rank=2, alpha=4.0)
    model = adapted.attach(loaded, spec, initial_arrays(spec, 1), trainable=True)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    print(quantization, type(layer).__name__, "bitsandbytes" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.split("\n")[:2] == ["none Linear False", "nf4 Linear4bit True"]


def test_attaching_training_and_detaching_leave_the_base_as_it_was(loaded: Loaded) -> None:
    before, plain = state_hash(loaded.model), logits(loaded.model)
    spec = adapted.spec_of(loaded, rank=3, alpha=6)
    model = adapted.attach(loaded, spec, random_arrays(spec), trainable=True)
    parameters = adapted.adapter_parameters(model, spec)
    assert {id(p) for p in model.parameters() if p.requires_grad} == {
        id(p) for p in parameters.values()
    }
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1)
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    assert not torch.equal(logits(model), plain)
    adapted.detach(loaded)
    assert state_hash(loaded.model) == before
    assert torch.equal(logits(loaded.model), plain)


def test_attaching_again_replaces_the_adapter_before(llama: Loaded) -> None:
    spec = adapted.spec_of(llama, rank=3, alpha=6)
    first = logits(adapted.attach(llama, spec, random_arrays(spec, 1), trainable=True))
    wide = adapted.spec_of(llama, rank=5, alpha=6)
    adapted.attach(llama, wide, random_arrays(wide, 2), trainable=False)
    again = logits(adapted.attach(llama, spec, random_arrays(spec, 1), trainable=False))
    assert torch.equal(first, again)
    assert adapted.spec_of(llama, rank=3, alpha=6) == spec


def test_replacing_changes_the_attached_adapter_in_place(llama: Loaded) -> None:
    spec = adapted.spec_of(llama, rank=3, alpha=6)
    model = adapted.attach(llama, spec, random_arrays(spec, 1), trainable=False)
    adapted.replace(model, spec, random_arrays(spec, 2))
    found, wanted = adapted.copies(adapted.adapter_parameters(model, spec)), random_arrays(spec, 2)
    assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)


def _missing(arrays: Arrays, name: str) -> None:
    del arrays[name]


def _extra(arrays: Arrays, name: str) -> None:
    arrays[name.replace("layers.0", "layers.9")] = arrays[name]


def _base_layer(arrays: Arrays, name: str) -> None:
    arrays[name.replace("lora_A", "base_layer")] = arrays[name]


def _shape(arrays: Arrays, name: str) -> None:
    arrays[name] = arrays[name][:1]


def _dtype(arrays: Arrays, name: str) -> None:
    arrays[name] = arrays[name].astype(np.float64)  # type: ignore[assignment]


def _nan(arrays: Arrays, name: str) -> None:
    arrays[name][0, 0] = np.nan


def _infinite(arrays: Arrays, name: str) -> None:
    arrays[name][0, 0], arrays[name][0, 1] = np.inf, -np.inf


@pytest.mark.security
@pytest.mark.parametrize("spoil", [_missing, _extra, _base_layer, _shape, _dtype, _nan, _infinite])
def test_h28_anything_but_the_specs_tensors_is_refused_before_peft_sees_it(
    spoil: Any, llama: Loaded
) -> None:
    spec = adapted.spec_of(llama, rank=3, alpha=6)
    arrays = random_arrays(spec)
    spoil(arrays, next(iter(arrays)))
    before = state_hash(llama.model)
    with pytest.raises(FormatError):
        adapted.attach(llama, spec, arrays, trainable=False)
    assert llama.adapted is None
    assert state_hash(llama.model) == before


def test_an_adapter_of_another_model_does_not_fit(llama: Loaded, tmp_path: Path) -> None:
    wide = load(make_tiny_llama(tmp_path / "wide", hidden=64))
    spec = adapted.spec_of(wide, rank=3, alpha=6)
    with pytest.raises(ModelError, match="does not fit"):
        adapted.attach(llama, spec, random_arrays(spec), trainable=False)


def test_all_linear_is_what_peft_means_by_it(loaded: Loaded) -> None:
    spec = adapted.spec_of(loaded, rank=3, alpha=6)
    assert not any("lm_head" in name for name in spec.shapes)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=3,
        target_modules="all-linear",
        fan_in_fan_out=loaded.model.config.model_type == "gpt2",
    )
    theirs = peft.get_peft_model_state_dict(
        _get_peft_model(loaded.model, config), save_embedding_layers=False
    )
    assert {name: tuple(tensor.shape) for name, tensor in theirs.items()} == dict(spec.shapes)


@pytest.mark.parametrize("rslora", [False, True])
def test_stock_peft_computes_the_same_logits(rslora: bool, loaded: Loaded, tmp_path: Path) -> None:
    spec = adapted.spec_of(loaded, rank=4, alpha=6, rslora=rslora)
    arrays = random_arrays(spec)
    ours = logits(adapted.attach(loaded, spec, arrays, trainable=False))
    write_adapter_folder(tmp_path / "v1", arrays, spec, None)
    stock = load(loaded.choice.path)
    theirs = logits(_from_pretrained(stock.model, tmp_path / "v1"))
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, logits(load(loaded.choice.path).model), atol=1e-2)


def test_rslora_scales_by_the_root_of_the_rank(llama: Loaded) -> None:
    arrays = random_arrays(adapted.spec_of(llama, rank=4, alpha=6))
    rooted = adapted.spec_of(llama, rank=4, alpha=6, rslora=True)
    doubled = adapted.spec_of(llama, rank=4, alpha=12)
    first = logits(adapted.attach(llama, rooted, arrays, trainable=False))
    second = logits(adapted.attach(llama, doubled, arrays, trainable=False))
    assert torch.allclose(first, second, atol=1e-6)


def test_chosen_targets_only(llama: Loaded) -> None:
    spec = adapted.spec_of(llama, rank=3, alpha=6, targets=["v_proj", "q_proj"])
    assert spec.targets == ("q_proj", "v_proj")
    assert len(spec.shapes) == 2 * 2 * 2
    model = adapted.attach(llama, spec, random_arrays(spec), trainable=True)
    assert len(adapted.copies(adapted.adapter_parameters(model, spec))) == 8


def test_an_unknown_target_is_named_with_the_known_ones(llama: Loaded) -> None:
    with pytest.raises(ModelError, match="c_attn") as caught:
        adapted.spec_of(llama, rank=3, alpha=6, targets=["c_attn"])
    assert "q_proj" in caught.value.hint


def test_an_initial_adapter_changes_nothing(loaded: Loaded) -> None:
    plain = logits(loaded.model)
    spec = adapted.spec_of(loaded, rank=3, alpha=6)
    model = adapted.attach(loaded, spec, initial_arrays(spec, 7), trainable=False)
    assert torch.equal(logits(model), plain)


@pytest.mark.privacy
def test_the_spec_names_a_local_model_without_its_path(llama: Loaded, tmp_path: Path) -> None:
    llama.choice = replace(llama.choice, ref=str(llama.choice.path))
    assert adapted.spec_of(llama, rank=3, alpha=6).base_ref == "llama"


OLD_NAME = "ignore:`is_gradient_checkpointing`:FutureWarning"


def _get_peft_model(model: Any, config: Any) -> Any:
    return peft.get_peft_model(model, config)


def _from_pretrained(model: Any, folder: Path) -> Any:
    return peft.PeftModel.from_pretrained(model, folder)


pytestmark = [
    pytest.mark.filterwarnings(OLD_NAME),  # peft 0.21 with transformers 5.23
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),
]
