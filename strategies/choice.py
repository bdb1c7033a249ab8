"""Which strategy, weigher and server optimiser go together; what does not, and why."""

from __future__ import annotations

from federation.errors import ConfigError
from strategies.catalogue import find
from strategies.optimiser import OPTIMISERS, find_optimiser
from strategies.rule import BOTH_FACTORS, Rule
from strategies.weigh import find_weighers

__all__ = ["OPTIMISERS", "check_choice", "check_optimiser"]


def check_choice(
    strategy: str, weigher: str, optimiser: str = "none", *, max_staleness: int = 0
) -> Rule:
    """Return the rule, if a server whose nodes train both factors can run these together.

    Raises:
        ConfigError: an unknown name, or a combination that makes no sense.
    """
    rule = find(strategy)
    find_weighers(weigher)
    traits = rule.traits
    if traits.edits_base:
        raise ConfigError(
            f"'{strategy}' adds to the base model each round, and nodes cannot load that yet",
            hint="On a server, 'flexlora' is the exact rule that leaves the base alone.",
        )
    if any(traits.sends(number) != BOTH_FACTORS for number in (1, 2)):
        raise ConfigError(
            f"'{strategy}' needs nodes that train or send one factor alone; ours send both",
            hint="Choose 'fedit', 'flexlora', 'fedrot' or 'lorafair'.",
        )
    if traits.refactorises and max_staleness > 0:
        raise ConfigError(
            f"'{strategy}' gives factors new coordinates in each version, so an update that was "
            "trained from an older one means nothing",
            hint='Set "max_staleness" to 0.',
        )
    check_optimiser(rule, optimiser)
    return rule


def check_optimiser(rule: Rule, optimiser: str) -> None:
    """Refuse moments of factors that have no meaning from one round to the next.

    Raises:
        ConfigError: an unknown optimiser, or one with a memory after such a rule.
    """
    found = find_optimiser(optimiser)
    if found is None:
        return
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
