"""From the records of many cells to rows of a table: means, paired differences, fairness."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from strategies.compare.setting import Setting
from strategies.compare.statistics import Difference, corrected, paired

SHARED = ("base", "data", "order", "initial", "steps")
Cells = dict[int, Mapping[str, Any]]
"""Seed -> record, of one arm in one panel."""


@dataclass
class Row:
    """One arm in one panel, over its seeds.

    Attributes:
        loss: mean of the last round's loss; `sd` over seeds; `start` of round 0.
        worst: mean of the worst part's loss.
        lost: mean share of the change that averaging lost; None where it was not worked out.
        up, down: bytes of all clients and rounds, mean over seeds.
        server_s: CPU seconds of the server's work in a round.
        epsilon: differential privacy spent after all rounds at delta 1e-5; None without noise.
        hostile_weight: mean weight of hostile clients, None where it is not known.
        refused_honest: honest updates refused.
        difference: paired with the baseline, None for itself or without a common seed.
        curve: per round (bytes so far, mean loss).
    """

    panel: str
    arm: str
    attack: str
    lr: float
    seeds: int
    start: float
    loss: float
    sd: float
    worst: float
    lost: float | None
    up: float
    down: float
    server_s: float
    hostile_weight: float | None
    refused_honest: float
    epsilon: float | None = None
    notes: list[str] = field(default_factory=list)
    difference: Difference | None = None
    curve: list[tuple[float, float]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values; whether the difference is clear among them."""
        content = asdict(self)
        if self.difference is not None:
            content["difference"]["clear"] = self.difference.is_clear
        return content


@dataclass(frozen=True)
class Table:
    """All rows, and what is not as it should be.

    Attributes:
        baselines: panel -> the arm that its others are compared with.
        unfair: sentences: arms of one panel and seed that did not share data, start or steps.
        alike: panel -> whether all arms moved the same bytes.
    """

    rows: list[Row]
    baselines: dict[str, str]
    unfair: list[str]
    alike: dict[str, bool]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "format": 2,
            "baselines": self.baselines,
            "unfair": self.unfair,
            "same_bytes": self.alike,
            "rows": [row.to_json() for row in self.rows],
        }

    def panels(self) -> dict[str, list[Row]]:
        """Rows by panel, both in the order they came in."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.panel, []).append(row)
        return found


def tabulate(records: Sequence[Mapping[str, Any]], baseline: str = "fedit") -> Table:
    """Gather records into rows.

    Args:
        records: `Record.to_json()` of every finished cell, any order of seeds.
        baseline: the arm others are compared with; in a panel without it, the panel's first arm.
    """
    arms = gather(records)
    rows = [_row(panel, arm, cells) for (panel, arm), cells in arms.items()]
    baselines: dict[str, str] = {}
    for panel, arm in arms:
        if arm == baseline or panel not in baselines:
            baselines[panel] = arm
    compared: list[tuple[Row, Difference]] = []
    for row in rows:
        base = baselines[row.panel]
        if row.arm == base:
            continue
        found = difference(arms[row.panel, row.arm], arms[row.panel, base])
        if found is not None:
            compared.append((row, found))
    for (row, _), each in zip(compared, corrected([d for _, d in compared]), strict=True):
        row.difference = each
    alike: dict[str, bool] = {}
    for row in rows:
        first = next(other for other in rows if other.panel == row.panel)
        same = (row.up, row.down) == (first.up, first.down)
        alike[row.panel] = alike.get(row.panel, True) and same
    return Table(rows, baselines, unfair(records), alike)


def gather(records: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Cells]:
    """Records by panel and arm, then by seed."""
    found: dict[tuple[str, str], Cells] = {}
    for record in records:
        setting = Setting.from_json(record["setting"])
        found.setdefault((setting.panel, setting.arm), {})[setting.seed] = record
    return found


def difference(ours: Cells, base: Cells, figure: str = "loss", at: int = -1) -> Difference | None:
    """Pair two arms by seed on `figure` of round `at` (-1: the last); None without a common one."""
    seeds = sorted(ours.keys() & base.keys())
    if not seeds:
        return None
    sides = [[_last(cells[seed], figure, at) for seed in seeds] for cells in (ours, base)]
    return paired(*sides)


def unfair(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which arms of one panel and seed did not share what all must share."""
    first: dict[tuple[str, int, str], tuple[str, str]] = {}
    found = []
    for record in records:
        setting = Setting.from_json(record["setting"])
        for fact in SHARED:
            if fact not in record["facts"]:
                continue
            value = str(record["facts"][fact])
            key = (setting.panel, setting.seed, fact)
            arm, expected = first.setdefault(key, (setting.arm, value))
            if value != expected:
                found.append(
                    f"{setting.panel}, seed {setting.seed}: {setting.arm} has another {fact} "
                    f"than {arm}"
                )
    return found


def _row(panel: str, arm: str, cells: Cells) -> Row:
    setting = Setting.from_json(next(iter(cells.values()))["setting"])
    each = list(cells.values())
    losses = [_last(record, "loss") for record in each]
    return Row(
        panel=panel,
        arm=arm,
        attack=setting.attack,
        lr=setting.lr,
        seeds=len(each),
        start=_mean([record["rounds"][0]["loss"] for record in each]),
        loss=_mean(losses),
        sd=float(np.std(losses, ddof=1)) if len(losses) > 1 else 0.0,
        worst=_mean([_last(record, "worst") for record in each]),
        lost=_known(each, "lost"),
        up=_mean([_last(record, "up") for record in each]),
        down=_mean([_last(record, "down") for record in each]),
        server_s=_mean([value for record in each for value in record["seconds"]]),
        hostile_weight=_known(each, "hostile_weight"),
        refused_honest=_known(each, "refused_honest") or 0.0,
        epsilon=each[0]["rounds"][-1].get("epsilon"),
        notes=sorted({r["note"] for record in each for r in record["rounds"] if r.get("note")}),
        curve=_curve(each),
    )


def _curve(records: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    rounds = min(len(record["rounds"]) for record in records)
    return [
        (
            _mean([r["rounds"][at]["up"] + r["rounds"][at]["down"] for r in records]),
            _mean([r["rounds"][at]["loss"] for r in records]),
        )
        for at in range(rounds)
    ]


def _known(records: Sequence[Mapping[str, Any]], figure: str) -> float | None:
    """Mean over the rounds that tell it."""
    found = [r[figure] for record in records for r in record["rounds"] if figure in r]
    return _mean(found) if found else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _last(record: Mapping[str, Any], figure: str, at: int = -1) -> float:
    return float(record["rounds"][at][figure])
