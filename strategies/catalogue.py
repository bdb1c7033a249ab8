"""The one list of strategies."""

from __future__ import annotations

import difflib

from federation.errors import ConfigError
from strategies.rule import Rule
from strategies.rules.fedit import FEDIT

RULES: tuple[Rule, ...] = (FEDIT,)


def find(name: str) -> Rule:
    """Return the rule called `name`.

    Raises:
        ConfigError: there is none; the nearest name is given.
    """
    for rule in RULES:
        if rule.name == name:
            return rule
    names = [rule.name for rule in RULES]
    near = difflib.get_close_matches(name, names, n=1)
    raise ConfigError(
        f"there is no strategy called '{name[:40]}'",
        hint=f"Did you mean {near[0]}?" if near else f"Choose one of: {', '.join(names)}.",
    )
