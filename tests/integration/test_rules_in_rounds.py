"""Rules that train or send one factor, nodes of unequal rank: trained, sent, merged for real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from client import own
from federation.adapter.format import AdapterSpec, Arrays
from federation.adapter.parts import leading, only
from federation.model import adapted
from federation.model.choose import BaseChoice, identity
from federation.model.load import Loaded, load_base
from tests.real_rounds import RealRounds
from tests.round_bench import equal
from tests.tiny_model import make_tiny_llama

pytestmark = pytest.mark.strategies


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")
    return load_base(BaseChoice("tiny", folder, None, identity(folder)), device="cpu")


@pytest.fixture(scope="module")
def spec(loaded: Loaded) -> AdapterSpec:
    return adapted.spec_of(loaded, rank=4, alpha=8, targets=["q_proj", "down_proj"])


def two_rounds(tmp_path: Path, loaded: Loaded, spec: AdapterSpec, strategy: str) -> list[Arrays]:
    """Weights of versions 0, 1 and 2."""
    town = RealRounds(tmp_path, loaded, spec, strategy)
    town.add(), town.add()
    for number in (1, 2):
        outcome = town.round()
        assert outcome.version == number, outcome
        assert len(outcome.merged) == 2
    return [town.registry.arrays(version) for version in range(3)]


def moved(one: Arrays, other: Arrays) -> str:
    """The factors that differ."""
    return "".join(f for f in "AB" if not equal(only(one, f), only(other, f)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("strategy", "first", "second"),
    [("ffa", "B", "B"), ("fedsvd", "AB", "AB")],
)
def test_a_round_moves_the_factors_that_its_rule_is_for(
    tmp_path: Path, loaded: Loaded, spec: AdapterSpec, strategy: str, first: str, second: str
) -> None:
    zero, one, two = two_rounds(tmp_path, loaded, spec, strategy)
    assert (moved(zero, one), moved(one, two)) == (first, second)


def test_nodes_hear_in_the_signed_manifest_which_factor_comes_next(
    tmp_path: Path, loaded: Loaded, spec: AdapterSpec
) -> None:
    town = RealRounds(tmp_path, loaded, spec, "rolora")
    node = town.add()
    for factor, version in (("B", 1), ("A", 2), ("B", 3)):
        start = town.start()
        assert start.instructions.trains == factor
        assert town.round().version == version
        assert moved(start.arrays, node.trained) == factor


def test_fedsa_shares_a_and_each_node_goes_on_with_its_own_b(
    tmp_path: Path, loaded: Loaded, spec: AdapterSpec
) -> None:
    town = RealRounds(tmp_path, loaded, spec, "fedsa")
    ada, bea = town.add(), town.add()
    outcome = town.round()
    assert outcome.version == 1
    assert "model of its own" in outcome.reason
    first = [only(node.trained, "B") for node in (ada, bea)]
    zero, one = (town.registry.arrays(version) for version in (0, 1))
    assert moved(zero, one) == "A"
    assert not equal(first[0], first[1])
    start = town.start()
    for node, before in zip((ada, bea), first, strict=True):
        mine = own.with_own(node.home, start.arrays, spec, start.instructions)
        assert equal(only(mine, "B"), before)
        assert equal(only(mine, "A"), only(one, "A"))
    assert town.round().version == 2


@pytest.mark.parametrize("strategy", ["flexlora", "rbla"])
def test_nodes_of_unequal_rank_merge_into_one_adapter(
    tmp_path: Path, loaded: Loaded, strategy: str
) -> None:
    spec = adapted.spec_of(loaded, rank=64, alpha=64, targets=["q_proj", "down_proj"])
    town = RealRounds(tmp_path, loaded, spec, strategy)
    small, large = town.add(2), town.add(64)
    for version in (1, 2):
        outcome = town.round()
        assert outcome.version == version, outcome
        assert len(outcome.merged) == 2
    assert {array.shape for array in only(small.trained, "A").values()} == {(2, 32), (2, 64)}
    assert {array.shape for array in only(large.trained, "A").values()} == {(64, 32), (64, 64)}
    assert town.sizes[0] < town.sizes[1] / 6


def test_after_flexlora_leading_rows_are_the_best_that_a_rank_can_hold(
    tmp_path: Path, loaded: Loaded
) -> None:
    spec = adapted.spec_of(loaded, rank=8, alpha=8, targets=["q_proj"])
    town = RealRounds(tmp_path, loaded, spec, "flexlora")
    town.add(2), town.add(8)
    town.round()
    arrays = town.registry.arrays(1)
    for module in spec.modules():
        a, b = (arrays[f"{module}.lora_{factor}.weight"].astype(float) for factor in "AB")
        u, sizes, v = np.linalg.svd(b @ a)
        best = (u[:, :2] * sizes[:2]) @ v[:2]
        cut = leading(arrays, adapted.spec_of(loaded, rank=2, alpha=2, targets=["q_proj"]))
        mine = cut[f"{module}.lora_B.weight"] @ cut[f"{module}.lora_A.weight"]
        assert np.linalg.norm(mine - best) < 1e-5 * np.linalg.norm(best)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("strategy", ["flora", "fedex"])
def test_19_after_two_rounds_stock_peft_sees_the_model_that_nodes_train_from(
    tmp_path: Path, loaded: Loaded, spec: AdapterSpec, strategy: str
) -> None:
    town = RealRounds(tmp_path, loaded, spec, strategy)
    town.add(), town.add()
    ranks = []
    for version in (1, 2):
        before = town.start()
        outcome = town.round()
        assert outcome.version == version, outcome
        ranks.append(town.registry.manifest(version).base.rank)  # type: ignore[union-attr]
        for node in town.nodes:  # the base delta never trains
            assert set(node.trained) == set(before.arrays)
    assert ranks == ([8, 16] if strategy == "flora" else [4, 8])
    start = town.start()
    ours = logits(adapted.attach(loaded, spec, start.arrays, trainable=False, base=start.base))
    alone = logits(adapted.attach(loaded, spec, start.arrays, trainable=False))
    adapted.detach(loaded)
    folder = town.registry.path(2)
    stock = AutoModelForCausalLM.from_pretrained(loaded.choice.path)
    two = PeftModel.from_pretrained(stock, str(folder))
    two.load_adapter(str(folder / "base"), adapter_name="base")
    two.base_model.set_adapter(["default", "base"])
    theirs = logits(two.eval())
    assert (theirs - ours).norm() < 1e-5 * ours.norm()
    assert (alone - ours).norm() > 1e-3 * ours.norm()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(5, 17)[None]).logits
    return found
