"""One cell of a comparison: all that decides its result, and the name that follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from federation.adapter.manifest import sha256_of
from federation.errors import ConfigError
from strategies.choice import check_choice
from strategies.compare.arms import FLOWER, baseline_named, parse_noise, rule_named
from strategies.compare.attacks import parse
from strategies.optimiser import find_optimiser
from strategies.rule import Rule
from strategies.weigh import COUNTS, find_weighers

FORMAT = 2
LAB = "lab"
CODINGS = ("f32", "bf16", "int8")


@dataclass(frozen=True)
class Setting:
    """What varies, and what is held equal.

    Attributes:
        task: "lab", or the identity of a base model.
        strategy: a rule of the catalogue, or one of Flower's strategies ("flower-median").
        weigher: as in the server's settings.
        optimiser: server optimiser, or "none"; `server_lr` is its step.
        proximal_mu: FedProx, the clients' pull toward where they began; 0 is none.
        noise: of `arms.parse_noise`: "none", "central:Z:C", "local:Z:C".
        partition: of `partitions`, or of the lab ("shift:1", "aligned:2").
        attack: of `attacks`.
        screen: whether sizes are screened as in a real round.
        seed: of initial A, data, order and attackers: the same for all arms of a panel.
        ranks: one per client, or empty: all have `rank`.
        steps: local steps per round, the same for every client.
        lr: of the clients.
        coding: how a change travels: "bf16", "int8", or "f32" (not coded).
        batch, tokens: sequences per step and tokens per sequence (models only).
    """

    task: str = LAB
    strategy: str = "fedit"
    weigher: str = "uniform"
    optimiser: str = "none"
    server_lr: float = 1.0
    proximal_mu: float = 0.0
    noise: str = "none"
    partition: str = "shift:1"
    attack: str = "none"
    screen: bool = True
    seed: int = 0
    clients: int = 8
    rounds: int = 5
    steps: int = 40
    rank: int = 4
    ranks: tuple[int, ...] = ()
    lr: float = 0.01
    coding: str = "f32"
    batch: int = 2
    tokens: int = 64

    @property
    def arm(self) -> str:
        """What is compared inside a panel: strategy, weigher, optimiser, FedProx and noise.

        How examples count is named where it is not the usual: "uniform" in the lab, else "capped".
        """
        words = self.weigher.split("+")
        if words[0] not in COUNTS:
            words.insert(0, "capped")
        usual = "uniform" if self.task == LAB else "capped"
        parts = [self.strategy, *(words[1:] if words[0] == usual else words)]
        if self.optimiser != "none":
            parts.append(self.optimiser)
        if self.proximal_mu:
            parts.append(f"prox{self.proximal_mu:g}")
        if self.noise != "none":
            parts.append(self.noise)
        return "+".join(parts)

    @property
    def panel(self) -> str:
        """What all arms that are compared with each other share, in words."""
        words = [self.partition, f"attack {self.attack}"] if self.attack != "none" else []
        words = words or [self.partition]
        if self.ranks:
            words.append(f"ranks {','.join(map(str, self.ranks))}")
        words.append(f"{self.rounds} × {self.steps} steps")
        return ", ".join(words if self.screen else [*words, "no screen"])

    @property
    def suspected(self) -> int:
        """Clients that strategies which want a number take for hostile."""
        return self.clients // 4

    def rank_of(self, client: int) -> int:
        """Return the rank of a client's adapter."""
        return self.ranks[client] if self.ranks else self.rank

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"ranks": list(self.ranks)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Setting:
        """Read what `to_json` wrote."""
        return cls(**dict(content) | {"ranks": tuple(content["ranks"])})

    def key(self, facts: Mapping[str, Any]) -> str:
        """Name of the result: a hash of the setting and of `facts` (base, data, versions)."""
        return sha256_of({"format": FORMAT, "setting": self.to_json(), "facts": dict(facts)})[:24]


def check(setting: Setting) -> Rule:
    """Return the rule, if this cell makes sense.

    Raises:
        ConfigError: an unknown name, or a combination that makes no sense; the reason is given.
    """
    rule = rule_named(setting.strategy)
    is_central = parse_noise(setting.noise).place == "central"
    if setting.strategy.startswith(FLOWER):
        _check_flower(setting)
    else:
        check_choice(setting.strategy, setting.weigher, setting.optimiser, private=is_central)
    parse(setting.attack)
    if not 0 <= setting.proximal_mu < math.inf:
        raise ConfigError(f"{setting.proximal_mu} is no strength of FedProx", hint="0 or more.")
    if setting.coding not in CODINGS:
        raise ConfigError(f"'{setting.coding}' is no coding", hint=f"One of {', '.join(CODINGS)}.")
    if setting.ranks and len(setting.ranks) != setting.clients:
        raise ConfigError(f"{len(setting.ranks)} ranks for {setting.clients} clients")
    if len(set(setting.ranks)) > 1 and not rule.traits.hetero_ranks:
        raise ConfigError(f"'{rule.name}' takes clients of one rank only")
    return rule


def _check_flower(setting: Setting) -> None:
    """Refuse what Flower's strategies would not heed, or cannot do with so few clients."""
    if find_weighers(setting.weigher)[1] or setting.noise.startswith("central"):
        raise ConfigError(f"'{setting.strategy}' weighs by itself, and adds no noise")
    find_optimiser(setting.optimiser)
    fewest = baseline_named(setting.strategy).fewest(setting.suspected)
    if setting.clients < fewest:
        raise ConfigError(f"'{setting.strategy}' needs at least {fewest} clients")


def sensible(settings: Sequence[Setting]) -> tuple[list[Setting], dict[str, str]]:
    """Split a grid into the cells that make sense and, arm by arm, why others were left out."""
    kept: list[Setting] = []
    left: dict[str, str] = {}
    for setting in settings:
        try:
            check(setting)
            kept.append(setting)
        except ConfigError as err:
            rule_named(setting.strategy)  # an unknown name is an error, not an arm left out
            find_weighers(setting.weigher)
            parse(setting.attack)
            parse_noise(setting.noise)
            left[f"{setting.arm} ({setting.panel})"] = err.message
    return kept, left
