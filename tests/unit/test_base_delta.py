"""What FLoRA and FedEx add to the base: a second adapter that PEFT loads, as good as merged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from federation.adapter.base_delta import add_base, base_spec, rank_limit
from federation.adapter.format import AdapterSpec, read_adapter_folder, write_adapter_folder
from federation.adapter.tensors import Arrays
from strategies.merge import Merged, merge_all
from strategies.pairs import to_adapter
from strategies.rule import Ctx, Rule
from strategies.rules.fedex import FEDEX
from strategies.rules.flora import FLORA
from tests.adapter_samples import make_spec, random_arrays
from tests.update_samples import MemoryUpdate

pytestmark = pytest.mark.strategies
EDITS_BASE = pytest.mark.parametrize("rule", [FLORA, FEDEX], ids=lambda rule: rule.name)


def one_round(rule: Rule, spec: AdapterSpec, current: Arrays, number: int) -> Merged:
    deltas = [random_arrays(spec, 10 * number + i, 0.05) for i in range(3)]
    updates = [MemoryUpdate(f"{i:064x}", delta) for i, delta in enumerate(deltas)]
    ctx = Ctx(round=number, rank=spec.rank, rng=np.random.default_rng(number))
    return merge_all(updates, np.full(3, 1 / 3), current, spec, rule.reduce, ctx)


def products(arrays: Arrays, spec: AdapterSpec) -> dict[str, np.ndarray]:
    return {
        module: pair.scale * pair.B.astype(np.float64) @ pair.A
        for module, pair in to_adapter(arrays, spec).pairs.items()
    }


@EDITS_BASE
def test_base_deltas_of_rounds_add_up_in_factors(rule: Rule) -> None:
    spec = make_spec()
    current, base = random_arrays(spec, 0, 0.1), {}
    expected: dict[str, np.ndarray] = {}
    for number in (1, 2, 3):
        merged = one_round(rule, spec, current, number)
        for module, product in products(merged.base, base_spec(spec, merged.base)).items():
            expected[module] = expected.get(module, 0) + product
        base, current = add_base(base, merged.base), merged.adapter
    found = products(base, base_spec(spec, base))
    for module, product in expected.items():
        np.testing.assert_allclose(found[module], product, atol=1e-6)
    assert add_base({}, {}) == {}


@EDITS_BASE
def test_14_a_base_delta_is_a_plain_adapter_folder(rule: Rule, tmp_path: Path) -> None:
    spec = make_spec()
    merged = one_round(rule, spec, random_arrays(spec, 0, 0.1), 1)
    its_spec = base_spec(spec, merged.base)
    assert its_spec.scale == 1.0
    write_adapter_folder(tmp_path / "base", merged.base, its_spec, None)
    arrays, read, _ = read_adapter_folder(tmp_path / "base")
    assert read.rank == its_spec.rank
    for name, value in merged.base.items():
        np.testing.assert_array_equal(arrays[name], value)


def test_from_some_rank_on_a_dense_copy_is_smaller() -> None:
    assert rank_limit(make_spec(linears={"self_attn.q_proj": (64, 64)})) == 32


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@EDITS_BASE
def test_19_two_adapters_in_peft_are_the_merged_base(rule: Rule, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    spec = make_spec(linears={"self_attn.q_proj": (32, 32), "mlp.down_proj": (64, 32)})
    merged = one_round(rule, spec, random_arrays(spec, 0, 0.1), 1)
    its_spec = base_spec(spec, merged.base)
    write_adapter_folder(tmp_path / "pair", merged.adapter, spec, None)
    write_adapter_folder(tmp_path / "base", merged.base, its_spec, None)
    tokens = torch.arange(12)[None]
    added: dict[str, np.ndarray] = {}
    for arrays, of in ((merged.adapter, spec), (merged.base, its_spec)):
        for module, product in products(arrays, of).items():
            added[module] = added.get(module, 0) + product
    two = PeftModel.from_pretrained(model, str(tmp_path / "pair"))
    two.load_adapter(str(tmp_path / "base"), adapter_name="base")
    two.base_model.set_adapter(["default", "base"])
    with torch.no_grad():
        with_two = two(tokens).logits
        torch.manual_seed(0)
        plain = LlamaForCausalLM(config).eval()
        untouched = plain(tokens).logits
        for module, product in added.items():
            layer = plain.get_submodule(module.removeprefix("base_model.model."))
            layer.weight += torch.from_numpy(product.astype(np.float32))
        with_sum = plain(tokens).logits
    assert (with_sum - untouched).norm() > 1e-2 * untouched.norm()
    assert (with_two - with_sum).norm() < 1e-5 * with_sum.norm()
