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

pytestmark = pytest.mark.strategies


@pytest.mark.parametrize("name", ["fedit", "fedrot", "lorafair", "rbla", "zeropad"])
def test_a_server_can_run_rules_for_nodes_that_train_both_factors(name: str) -> None:
    assert check_choice(name, "uniform+rfa", "nesterov", max_staleness=3).name == name


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
        ("flora", 0, "cannot load that yet"),
        ("fedex", 0, "cannot load that yet"),
        ("ffa", 0, "one factor alone"),
        ("rolora", 0, "one factor alone"),
        ("fedsvd", 0, "one factor alone"),
        ("fedsa", 0, "one factor alone"),
        ("flexlora", 1, "older one means nothing"),
    ],
)
def test_what_a_server_cannot_run_is_refused_with_the_reason(
    strategy: str, staleness: int, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_choice(strategy, "capped", max_staleness=staleness)


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
        ({"strategy": "ffa"}, "ffa"),
    ],
)
def test_a_server_says_so_before_it_is_set_up(
    tmp_path: Path, wrong: dict[str, str], name: str
) -> None:
    home = ServerHome(tmp_path / "home")
    with pytest.raises(ConfigError, match=name):
        init(home, ServerConfig(**wrong))
    assert not home.root.exists()
