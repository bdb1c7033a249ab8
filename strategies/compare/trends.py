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


def _same(cell: Setting, better: str, worse: str, source: str, why: str = "") -> Claim:
    says = f"{better} < {worse}{why}"
    return Claim(says, source, replace(cell, strategy=better), replace(cell, strategy=worse))


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
RATES: Mapping[str, float] = {"rolora": 0.1, "ffa": 0.03, "fedsvd": 0.03}
"""Learning rates of the lab, best of .003 to .1 on other seeds; all other rules use .01."""


def cells_of(claims: Sequence[Claim], seeds: Sequence[int]) -> list[Setting]:
    """Return every cell that the claims need, once, each at its rule's learning rate."""
    found: dict[Setting, None] = {}
    for seed in seeds:
        for claim in claims:
            for cell in (claim.better, claim.worse):
                found[_at(cell, seed)] = None
    return list(found)


def judge(claims: Sequence[Claim], records: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Compare both sides of each claim, seed by seed, corrected over all claims.

    "seen" needs an interval below 0 and a corrected p-value below 0.05.
    """
    by_cell: dict[Setting, Cells] = {}
    for record in records:
        setting = Setting.from_json(record["setting"])
        by_cell.setdefault(replace(setting, seed=0), {})[setting.seed] = record
    compared = [
        difference(
            by_cell.get(_at(claim.better, 0), {}),
            by_cell.get(_at(claim.worse, 0), {}),
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


def _at(cell: Setting, seed: int) -> Setting:
    return replace(cell, seed=seed, lr=RATES.get(cell.strategy, cell.lr))


def _verdict(claim: Claim, found: Difference | None) -> Verdict:
    if found is None:
        return Verdict(claim, "not measured", None)
    if found.is_clear:
        return Verdict(claim, "seen" if found.mean < 0 else "not seen, reversed", found)
    return Verdict(claim, "not seen", found)
