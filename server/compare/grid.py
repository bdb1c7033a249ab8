"""From what was asked for to the cells of a comparison."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from federation.errors import ConfigError, UsageError
from strategies.catalogue import RULES
from strategies.compare.arms import rule_named
from strategies.compare.lab import read_partition
from strategies.compare.partitions import positive
from strategies.compare.setting import Setting, sensible
from strategies.compare.trends import CLAIMS, RATES, Claim, cells_of, model_claims

LAB = "lab"
PRESETS = ("paper-trends",)
QUICK_SEEDS = 4
SEEDS, TREND_SEEDS = 5, 20
# of the clients, for models: best of a row of doublings on semilla (docs/strategies.md); what one
# factor alone learns, it learns more slowly
MODEL_LR, MODEL_RATES = 0.01, {"ffa": 0.02, "fedsvd": 0.02}


@dataclass(frozen=True)
class Wish:
    """What a comparison is asked for; lists are crossed with one another.

    Attributes:
        model: "lab", "semilla", or a base model's folder or name.
        seeds: how many, from 0; 0 is 5, or what a preset takes.
        rates: learning rate by strategy; "" for all others.
        fixed: what is equal in all cells: clients, rounds, steps, ranks and the rest.
    """

    model: str = LAB
    strategies: Sequence[str] = ()
    weighers: Sequence[str] = ()
    optimisers: Sequence[str] = ("none",)
    proximal: Sequence[float] = (0.0,)
    noises: Sequence[str] = ("none",)
    partitions: Sequence[str] = ()
    attacks: Sequence[str] = ("none",)
    seeds: int = 0
    screen: bool = True
    rates: Mapping[str, float] = field(default_factory=dict)
    fixed: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Chosen:
    """What is run.

    Attributes:
        left_out: arm -> why it makes no sense.
        claims: orderings to look for.
    """

    cells: list[Setting]
    left_out: dict[str, str] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()


def choose(wish: Wish, *, quick: bool, preset: str) -> Chosen:
    """Return the cells of a shortcut, or of `wish`.

    Raises:
        UsageError: an unknown preset, or --quick together with a model.
        ConfigError: as `cells`.
    """
    if preset not in ("", *PRESETS):
        raise UsageError(f"there is no preset '{preset[:40]}'", hint=f"Known: {PRESETS[0]}.")
    if preset:
        claims = CLAIMS if wish.model == LAB else model_claims(*_long_base(wish))
        seeds = wish.seeds or (TREND_SEEDS if wish.model == LAB else SEEDS)
        return Chosen(cells_of(claims, range(seeds)), {}, tuple(claims))
    if not quick:
        return Chosen(*cells(wish))
    if wish.model != LAB:
        raise UsageError("--quick runs in the lab alone", hint="Leave --model out.")
    return Chosen(quick_cells())


def cells(wish: Wish) -> tuple[list[Setting], dict[str, str]]:
    """Return the cells, all arms of a seed before the next seed, and why arms were left out.

    Raises:
        ConfigError: an unknown name, or nothing that makes sense.
    """
    is_lab = wish.model == LAB
    names = wish.strategies or [rule.name for rule in RULES]
    weighers = wish.weighers or (["uniform"] if is_lab else ["capped"])
    partitions = wish.partitions or (["shift:1"] if is_lab else ["iid", "dirichlet:0.1"])
    base = Setting(task=LAB) if is_lab else _for_models(Setting(task=wish.model))
    base = replace(base, screen=wish.screen, **wish.fixed)  # type: ignore[arg-type]
    if is_lab:
        for partition in partitions:
            read_partition(partition)
    axes = {
        "seed": range(wish.seeds or SEEDS),
        "partition": partitions,
        "attack": wish.attacks,
        "strategy": names,
        "weigher": weighers,
        "optimiser": wish.optimisers,
        "proximal_mu": wish.proximal,
        "noise": wish.noises,
    }
    crossed = (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))
    wanted = [
        replace(base, lr=rate(wish, str(values["strategy"])), **values)  # type: ignore[arg-type]
        for values in crossed
    ]
    kept, left = sensible(wanted)
    if not kept:
        raise ConfigError("no cell makes sense", hint="; ".join(left.values()))
    return kept, left


def quick_cells() -> list[Setting]:
    """The lab's first table: all rules, unequal ranks, two attacks; a few seconds."""
    attacked = ("sign:0.25:3", "inverse:0.25")
    small = {"steps": 20, "rounds": 4}
    wishes = (
        Wish(seeds=QUICK_SEEDS),
        Wish(
            strategies=("zeropad", "rbla", "flexlora", "flora"),
            seeds=2,
            fixed={"ranks": (2, 2, 4, 4, 6, 6, 8, 8), **small},
        ),
        Wish(
            strategies=("fedit", "flexlora"),
            weighers=("uniform", "uniform+rfa"),
            attacks=("none", *attacked),
            seeds=2,
            screen=False,
            fixed=small,
        ),
    )
    return [cell for wish in wishes for cell in cells(wish)[0]]


def rate(wish: Wish, strategy: str) -> float:
    """The clients' learning rate under a strategy: asked for, else the one known to suit it."""
    if strategy in wish.rates:
        return wish.rates[strategy]
    if "" in wish.rates:
        return wish.rates[""]
    if wish.model == LAB:
        return RATES.get(strategy, Setting.lr)
    return MODEL_RATES.get(strategy, MODEL_LR)


def parse_rates(texts: Iterable[str]) -> dict[str, float]:
    """Read "0.01" (for all) and "ffa=0.03".

    Raises:
        ConfigError: no number above 0, or an unknown strategy.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if name:
            rule_named(name)
        found[name] = positive(number, f"--lr {text}")
    return found


def parse_proximal(texts: Iterable[str]) -> list[float]:
    """Read strengths of FedProx.

    Raises:
        ConfigError: one is no number.
    """
    try:
        return [float(text) for text in texts]
    except ValueError as err:
        raise ConfigError(f"--proximal: {err}", hint="Write numbers: --proximal 0,0.1") from err


def parse_fixed(texts: Iterable[str]) -> dict[str, object]:
    """Read "rounds=6", "ranks=2:2:4:8", "coding=int8": what is equal in all cells.

    Raises:
        ConfigError: an unknown name (the nearest is given), or a value of another kind.
    """
    found: dict[str, object] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in FIXED:
            near = difflib.get_close_matches(name, FIXED, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(FIXED)}."
            raise ConfigError(f"'{name[:40]}' is no setting of a comparison", hint=hint)
        try:
            found[name] = FIXED[name](value)
        except ValueError as err:
            raise ConfigError(f"'{text[:60]}' has no such value") from err
    return found


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


FIXED: Mapping[str, Callable[[str], object]] = {
    **dict.fromkeys(("clients", "rounds", "steps", "rank", "batch", "tokens"), _whole),
    "ranks": lambda text: tuple(_whole(part) for part in text.split(":")),
    "coding": str,
    "server_lr": float,
}


def _long_base(wish: Wish) -> tuple[Setting, Mapping[str, float]]:
    """The cell that orderings on a model are looked for in, and its learning rates."""
    base = _for_models(Setting(task=wish.model, partition=(*wish.partitions, "dirichlet:0.1")[0]))
    base = replace(base, rounds=6, steps=16, lr=rate(wish, ""))
    rates = {rule.name: rate(wish, rule.name) for rule in RULES}
    return replace(base, **wish.fixed), rates  # type: ignore[arg-type]


def _for_models(setting: Setting) -> Setting:
    return replace(setting, rounds=4, steps=8, rank=8, coding="bf16", weigher="capped")
