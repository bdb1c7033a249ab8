"""Strategies, weighers, optimisers by name; senseless combinations are refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.errors import ConfigError
from server.config import ServerConfig, ServerHome
from server.starting import init
from strategies.catalogue import RULES, find
from strategies.choice import check_choice, check_optimiser
from strategies.optimiser import OPTIMISERS
from strategies.rule import Rule

pytestmark = pytest.mark.strategies


@pytest.mark.parametrize("name", ["fedit", "fedrot", "lorafair", "rbla", "zeropad", "ffa"])
def test_a_server_can_run_rules_with_memory_and_updates_of_older_versions(name: str) -> None:
    assert check_choice(name, "uniform+rfa", "nesterov", max_staleness=3).name == name


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_server_can_run_every_rule_on_updates_of_the_current_version(rule: Rule) -> None:
    assert check_choice(rule.name, "capped") is rule


def test_every_rule_is_found_by_its_name() -> None:
    assert [find(rule.name) for rule in RULES] == list(RULES)
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize(
    ("wrong", "near"), [("fedti", "fedit"), ("flexlra", "flexlora"), ("lora-fair", "lorafair")]
)
def test_an_unknown_strategy_is_named_with_the_nearest_known(wrong: str, near: str) -> None:
    with pytest.raises(ConfigError, match=wrong) as caught:
        check_choice(wrong, "capped")
    assert near in str(caught.value.hint)


@pytest.mark.parametrize(
    ("strategy", "staleness", "reason"),
    [
        ("rolora", 1, "holds the wrong one"),
        ("fedsvd", 1, "older one means nothing"),
        ("flora", 1, "older one means nothing"),
        ("flexlora", 1, "older one means nothing"),
    ],
)
def test_what_a_server_cannot_run_is_refused_with_the_reason(
    strategy: str, staleness: int, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_choice(strategy, "capped", max_staleness=staleness)


def test_what_never_leaves_the_nodes_is_not_compared() -> None:
    with pytest.raises(ConfigError, match="never leaves the nodes"):
        check_choice("fedsa", "uniform+rfa")


@pytest.mark.parametrize(
    ("strategy", "weigher", "reason"),
    [
        ("fedit", "capped", "what nodes say"),
        ("ffa", "uniform+rfa", "what nodes say"),
        ("flexlora", "uniform", "no plain mean"),
        ("fedrot", "uniform", "no plain mean"),
        ("rbla", "uniform", "no plain mean"),
        ("flora", "uniform", "no plain mean"),
    ],
)
def test_noise_goes_with_plain_means_of_uniform_weight_alone(
    strategy: str, weigher: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_choice(strategy, weigher, private=True)


@pytest.mark.parametrize("strategy", ["fedit", "ffa", "rolora", "fedsvd", "fedsa"])
def test_rules_that_are_means_may_be_blurred(strategy: str) -> None:
    assert check_choice(strategy, "uniform", private=True).name == strategy


def test_flexlora_runs_where_no_update_is_older_than_the_round() -> None:
    assert check_choice("flexlora", "rfa").traits.refactorises


@pytest.mark.parametrize("optimiser", [found.name for found in OPTIMISERS])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_server_optimisers_step_only_where_factors_keep_their_meaning(
    rule: object, optimiser: str
) -> None:
    found = find(rule.name)  # type: ignore[attr-defined]
    if found.traits.refactorises or found.traits.edits_base:
        with pytest.raises(ConfigError, match="steps in factors"):
            check_optimiser(found, optimiser)
    elif found.name == "rolora" and optimiser != "lr":
        with pytest.raises(ConfigError, match="while one factor moves"):
            check_optimiser(found, optimiser)
    else:
        check_optimiser(found, optimiser)
    check_optimiser(found, "none")


def test_an_unknown_optimiser_is_named_with_the_nearest_known() -> None:
    with pytest.raises(ConfigError, match="nestrov") as caught:
        check_choice("fedit", "capped", "nestrov")
    assert "nesterov" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"strategy": "fedti"}, "fedti"),
        ({"weigher": "uniform+rfq"}, "rfq"),
        ({"strategy": "rolora"}, "rolora"),
    ],
)
def test_a_server_says_so_before_it_is_set_up(
    tmp_path: Path, wrong: dict[str, str], name: str
) -> None:
    home = ServerHome(tmp_path / "home")
    with pytest.raises(ConfigError, match=name):
        init(home, ServerConfig(**wrong))
    assert not home.root.exists()
