"""LoRA layers in one go: PEFT's numbers and gradients, and PEFT's layers again afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from federation.model import adapted
from federation.model.choose import BaseChoice, identity
from federation.model.fused import fused_layers, plain_layers
from federation.model.load import Loaded, load_base
from tests.tiny_model import make_tiny_gpt2, make_tiny_llama

IDS = torch.arange(5, 25).reshape(2, 10)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {"llama": make_tiny_llama(root / "llama"), "gpt2": make_tiny_gpt2(root / "gpt2")}


def adapt(folder: Path, *, dropout: float = 0.0, **options: Any) -> tuple[Loaded, Any, Any]:
    choice = BaseChoice(folder.name, folder, None, identity(folder))
    loaded = load_base(choice, device="cpu", **options)
    spec = adapted.spec_of(loaded, rank=3, alpha=5)
    rng = np.random.default_rng(0)
    arrays = {n: rng.normal(0, 0.2, s).astype(np.float32) for n, s in spec.shapes.items()}
    model = adapted.attach(loaded, spec, arrays, dropout=dropout, trainable=True)
    return loaded, model, adapted.adapter_parameters(model, spec)


def loss_and_gradients(model: Any, parameters: dict[str, Any]) -> list[torch.Tensor]:
    loss = model(input_ids=IDS, labels=IDS).loss
    return [loss.detach(), *torch.autograd.grad(loss, list(parameters.values()))]


def test_loss_and_every_gradient_are_pefts(folders: dict[str, Path]) -> None:
    _loaded, model, parameters = adapt(folders["llama"])
    wanted = loss_and_gradients(model, parameters)
    layers = plain_layers(model.modules())
    count = len(layers)
    with fused_layers(layers):
        found = loss_and_gradients(model, parameters)
    assert count == 14
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.shape == theirs.shape
        assert torch.allclose(mine, theirs, atol=1e-5 * float(theirs.abs().max()), rtol=1e-4)


def test_biases_of_the_base_count(folders: dict[str, Path]) -> None:
    _loaded, model, parameters = adapt(folders["llama"])
    layer = next(m for n, m in model.named_modules() if n.endswith("q_proj"))
    layer.base_layer.bias = torch.nn.Parameter(torch.ones(32), requires_grad=False)
    wanted = loss_and_gradients(model, parameters)
    with fused_layers(plain_layers(model.modules())):
        found = loss_and_gradients(model, parameters)
    assert torch.allclose(found[0], wanted[0], atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found, wanted, strict=True))


def test_pefts_layers_are_in_force_again_afterwards(folders: dict[str, Path]) -> None:
    _loaded, model, parameters = adapt(folders["llama"])
    wanted = loss_and_gradients(model, parameters)
    with pytest.raises(RuntimeError, match="inside"), fused_layers(plain_layers(model.modules())):
        raise RuntimeError("inside")
    assert not any("forward" in vars(module) for module in model.modules())
    again = loss_and_gradients(model, parameters)
    assert all(torch.equal(a, b) for a, b in zip(again, wanted, strict=True))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gpt2", {}),
        ("llama", {"dropout": 0.1}),
        ("llama", {"quantization": "int8"}),
        ("llama", {"quantization": "nf4"}),
        ("llama", {"dtype": "bfloat16"}),
    ],
)
def test_other_layers_stay_pefts(
    name: str, options: dict[str, Any], folders: dict[str, Path]
) -> None:
    _loaded, model, _parameters = adapt(folders[name], **options)
    layers = plain_layers(model.modules())
    count = len(layers)
    with fused_layers(layers):
        assert count == 0
