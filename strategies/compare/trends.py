"""Orderings that papers and earlier measurements report, and whether these records show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from strategies.compare.figures import Cells, difference
from strategies.compare.setting import Setting
from strategies.compare.statistics import Difference, corrected

KNOWN = Setting()
MIXED = replace(KNOWN, ranks=(2, 2, 4, 4, 6, 6, 8, 8), steps=20, rounds=10)
LITTLE = replace(KNOWN, steps=10, rounds=20)
ALIGNED = replace(KNOWN, partition="aligned:2", steps=80)
SIGN = replace(KNOWN, attack="sign:0.25:3", screen=False)
QUIET = replace(KNOWN, screen=False)


@dataclass(frozen=True)
class Claim:
    """One ordering: less of `figure` in `better` than in `worse`.

    Attributes:
        at: round it is read in; -1 is the last.
        source: who says so: an arXiv id, or "lab" for our own earlier measurement.
    """

    says: str
    source: str
    better: Setting
    worse: Setting
    figure: str = "loss"
    at: int = -1


@dataclass(frozen=True)
class Verdict:
    """What the records say of a claim: "seen", "not seen", or "not seen, reversed"."""

    claim: Claim
    word: str
    difference: Difference | None


RATES: Mapping[str, float] = {"rolora": 0.1, "ffa": 0.03, "fedsvd": 0.03}
"""Learning rates of the lab, best of .003 to .1 on other seeds; all other rules use .01."""


def _same(cell: Setting, better: str, worse: str, source: str, why: str = "") -> Claim:
    return _ordering(cell, (better, worse), RATES, source, why)


def _ordering(
    cell: Setting, names: tuple[str, str], rates: Mapping[str, float], source: str, why: str = ""
) -> Claim:
    """Make a claim that the first of two strategies does better in `cell`, each at its own rate."""
    better, worse = (replace(cell, strategy=each, lr=rates.get(each, cell.lr)) for each in names)
    return Claim(f"{names[0]} < {names[1]}{why}", source, better, worse)


CLAIMS: tuple[Claim, ...] = (
    _same(KNOWN, "fedex", "fedit", "2410.09432"),
    _same(KNOWN, "flora", "fedit", "2409.05976"),
    _same(KNOWN, "flexlora", "fedit", "2402.11505"),
    _same(KNOWN, "lorafair", "fedit", "2411.14961"),
    _same(KNOWN, "fedrot", "fedit", "2602.23638"),
    _same(KNOWN, "rolora", "fedit", "2502.01755"),
    _same(KNOWN, "fedit", "ffa", "2410.09432"),
    _same(KNOWN, "ffa", "fedsvd", "lab", ", without privacy noise"),
    _same(MIXED, "flora", "flexlora", "lab", ", unequal ranks"),
    _same(MIXED, "flexlora", "zeropad", "2402.11505", ", unequal ranks"),
    _same(MIXED, "rbla", "zeropad", "2408.08699", ", unequal ranks"),
    _same(ALIGNED, "fedex", "fedit", "lab", ", target within reach"),
    _same(ALIGNED, "flexlora", "fedit", "lab", ", target within reach"),
    _same(ALIGNED, "fedit", "ffa", "lab", ", target within reach"),
    Claim("fedit loses more with more local steps (round 1)", "lab", LITTLE, KNOWN, "lost", 1),
    Claim(
        "multikrum costs where nobody attacks",
        "lab",
        QUIET,
        replace(QUIET, weigher="uniform+multikrum"),
    ),
    Claim("rfa saves an attacked run", "1912.13445", replace(SIGN, weigher="uniform+rfa"), SIGN),
    Claim(
        "multikrum saves an attacked run",
        "1703.02757",
        replace(SIGN, weigher="uniform+multikrum"),
        SIGN,
    ),
)


def model_claims(cell: Setting, rates: Mapping[str, float]) -> tuple[Claim, ...]:
    """Return the orderings to look for on a language model.

    Args:
        cell: a setting of that model; partition and the rest are taken from it.
        rates: learning rate by strategy, where it is not the cell's.
    """
    long = replace(cell, rounds=max(1, cell.rounds // 3), steps=3 * cell.steps)
    alike = dict.fromkeys(rates, cell.lr)  # what is compared there is drift, not rates
    return (
        _ordering(cell, ("fedex", "fedit"), rates, "2410.09432"),
        _ordering(cell, ("flora", "fedit"), rates, "2409.05976"),
        _ordering(cell, ("flexlora", "fedit"), rates, "2402.11505"),
        _ordering(cell, ("fedit", "rolora"), rates, "lab"),
        _ordering(cell, ("fedit", "ffa"), rates, "2410.09432"),
        _ordering(cell, ("ffa", "fedsvd"), rates, "lab", ", without privacy noise"),
        _ordering(long, ("fedit", "fedex"), alike, "lab", ", long local training"),
    )


def cells_of(claims: Sequence[Claim], seeds: Sequence[int]) -> list[Setting]:
    """Return every cell that the claims need, once."""
    found: dict[Setting, None] = {}
    for seed in seeds:
        for claim in claims:
            for cell in (claim.better, claim.worse):
                found[replace(cell, seed=seed)] = None
    return list(found)


def judge(claims: Sequence[Claim], records: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Compare both sides of each claim, seed by seed, corrected over all claims.

    "seen" needs an interval below 0 and a corrected p-value below 0.05.
    """
    by_cell: dict[Setting, Cells] = {}
    for record in records:
        setting = Setting.from_json(record["setting"])
        by_cell.setdefault(_anywhere(setting), {})[setting.seed] = record
    compared = [
        difference(
            by_cell.get(_anywhere(claim.better), {}),
            by_cell.get(_anywhere(claim.worse), {}),
            claim.figure,
            claim.at,
        )
        for claim in claims
    ]
    adjusted = iter(corrected([each for each in compared if each is not None]))
    return [
        _verdict(claim, None if each is None else next(adjusted))
        for claim, each in zip(claims, compared, strict=True)
    ]


def _anywhere(cell: Setting) -> Setting:
    """Return the cell without seed and task: records have a model's hash, claims its name."""
    return replace(cell, seed=0, task="")


def _verdict(claim: Claim, found: Difference | None) -> Verdict:
    if found is None:
        return Verdict(claim, "not measured", None)
    if found.is_clear:
        return Verdict(claim, "seen" if found.mean < 0 else "not seen, reversed", found)
    return Verdict(claim, "not seen", found)
