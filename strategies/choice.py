"""Which strategy, weigher and server optimiser go together; what does not, and why."""

from __future__ import annotations

from federation.errors import ConfigError
from strategies.catalogue import find
from strategies.optimiser import OPTIMISERS, find_optimiser
from strategies.rule import Rule
from strategies.weigh import find_weighers

__all__ = ["OPTIMISERS", "check_choice", "check_optimiser"]


def check_choice(
    strategy: str,
    weigher: str,
    optimiser: str = "none",
    *,
    max_staleness: int = 0,
    private: bool = False,
) -> Rule:
    """Return the rule, if a server can run these together.

    Raises:
        ConfigError: an unknown name, or a combination that makes no sense.
    """
    rule = find(strategy)
    weighers = find_weighers(weigher)[1]
    traits = rule.traits
    if traits.keeps and weighers:
        raise ConfigError(
            f"'{weighers[0].name}' compares changes of dW, and with '{strategy}' a part of them "
            "never leaves the nodes",
            hint="Weigh by 'capped' or 'uniform'.",
        )
    if traits.sends(1) != traits.sends(2) and max_staleness > 0:
        raise ConfigError(
            f"'{strategy}' asks for another factor in each round, so an update that was trained "
            "from an older version holds the wrong one",
            hint='Set "max_staleness" to 0.',
        )
    if traits.refactorises and max_staleness > 0:
        raise ConfigError(
            f"'{strategy}' gives factors new coordinates in each version, so an update that was "
            "trained from an older one means nothing",
            hint='Set "max_staleness" to 0.',
        )
    check_optimiser(rule, optimiser)
    if private:
        _check_private(rule, weigher)
    return rule


def _check_private(rule: Rule, weigher: str) -> None:
    traits = rule.traits
    if weigher != "uniform":
        raise ConfigError(
            f"'{weigher}' lets what nodes say or send decide how much each counts, and noise hides "
            "only changes of a known size",
            hint='With noise, set "weigher" to "uniform".',
        )
    is_a_mean = traits.linear or traits.trains(1) == frozenset("B")
    if traits.hetero_ranks or not is_a_mean:
        raise ConfigError(
            f"'{rule.name}' is no plain mean of what nodes send, so one node's share has no bound",
            hint="With noise, choose 'ffa', 'fedsvd', 'rolora', 'fedsa' or 'fedit'.",
        )


def check_optimiser(rule: Rule, optimiser: str) -> None:
    """Refuse moments of factors that have no meaning from one round to the next.

    Raises:
        ConfigError: an unknown optimiser, or one with a memory after such a rule.
    """
    found = find_optimiser(optimiser)
    if found is None:
        return
    if found.name != "lr" and rule.traits.sends(1) != rule.traits.sends(2):
        raise ConfigError(
            f"the server optimiser '{optimiser}' goes on moving a factor after its round, and "
            f"'{rule.name}' is exact only while one factor moves",
            hint="Choose 'lr' or 'none'.",
        )
    if rule.traits.edits_base:
        raise ConfigError(
            f"the server optimiser '{optimiser}' steps in factors, and '{rule.name}' puts its "
            "change into the base: a part of the step would be lost"
        )
    if rule.traits.refactorises:
        raise ConfigError(
            f"the server optimiser '{optimiser}' steps in factors, and '{rule.name}' gives them "
            "new coordinates each round"
        )
