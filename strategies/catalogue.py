"""The one list of strategies: ours, and those that installed distributions bring.

A stranger's rule is an entry point of the group `conscienceai.strategies` that leads to a `Rule`
of the entry point's name. It is loaded when asked for; ours cannot be replaced.
"""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points

from federation.errors import ConfigError
from strategies.rule import Rule
from strategies.rules.fedex import FEDEX
from strategies.rules.fedit import FEDIT
from strategies.rules.fedrot import FEDROT
from strategies.rules.fedsa import FEDSA
from strategies.rules.fedsvd import FEDSVD
from strategies.rules.ffa import FFA
from strategies.rules.flexlora import FLEXLORA
from strategies.rules.flora import FLORA
from strategies.rules.lorafair import LORAFAIR
from strategies.rules.rbla import RBLA
from strategies.rules.rolora import ROLORA
from strategies.rules.zeropad import ZEROPAD

GROUP = "conscienceai.strategies"
RULES: tuple[Rule, ...] = (
    FEDIT,
    FLEXLORA,
    FEDROT,
    LORAFAIR,
    RBLA,
    ZEROPAD,
    FFA,
    ROLORA,
    FEDSVD,
    FEDSA,
    FLORA,
    FEDEX,
)


def find(name: str) -> Rule:
    """Return the rule called `name`.

    Raises:
        ConfigError: there is none (the nearest name is given), or a stranger's cannot be loaded.
    """
    for rule in RULES:
        if rule.name == name:
            return rule
    foreign = _foreign()
    if name in foreign:
        return _load(foreign[name])
    names = [*(rule.name for rule in RULES), *foreign]
    near = difflib.get_close_matches(name, names, n=1)
    raise ConfigError(
        f"there is no strategy called '{name[:40]}'",
        hint=f"Did you mean {near[0]}?" if near else f"Choose one of: {', '.join(names)}.",
    )


def all_rules() -> tuple[Rule, ...]:
    """Return our rules, then those of installed distributions, by name.

    Raises:
        ConfigError: a stranger's rule cannot be loaded.
    """
    foreign = _foreign()
    return (*RULES, *(_load(foreign[name]) for name in sorted(foreign)))


def _foreign() -> dict[str, EntryPoint]:
    ours = {rule.name for rule in RULES}
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in ours}


def _load(point: EntryPoint) -> Rule:
    where = f"the strategy '{point.name}' ({point.value})"
    try:
        found = point.load()
    except Exception as err:  # a stranger's module may raise anything as it is imported
        raise ConfigError(f"{where} cannot be loaded: {type(err).__name__}: {err}") from err
    if not isinstance(found, Rule):
        raise ConfigError(f"{where} is no strategies.rule.Rule but a {type(found).__name__}")
    if found.name != point.name:
        raise ConfigError(f"{where} calls itself '{found.name}'")
    return found
