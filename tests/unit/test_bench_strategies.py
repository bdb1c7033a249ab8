"""The benchmark of the rules measures every rule and stock Flower's on the same updates."""

from __future__ import annotations

import pytest
from bench_strategies import measure, parse

from strategies.catalogue import RULES
from strategies.weighers import WEIGHERS

pytestmark = pytest.mark.strategies


def test_the_benchmark_of_the_rules_measures_every_side() -> None:
    small = ["--modules=1", "--clients=2", "--adapters=7", "--megabytes=1", "--repeat=1"]
    report = measure(parse(small))
    ours = {f"ours, {rule.name}" for rule in RULES}
    stock = {"flwr, FedAvg", "flwr, FedMedian", "flwr, Krum"}
    assert set(report["rules"]) == ours | stock | {"numpy, copy"}
    assert set(report["gram"]) == {"gram", "numpy, its products"}
    assert set(report["weighers"]) == {weigher.name for weigher in WEIGHERS}
    assert all(row["cpu_seconds"] >= 0 for rows in report.values() for row in rows.values())
    held = {rule: report["rules"][f"ours, {rule.name}"]["adapters"] for rule in RULES}
    assert all(adapters > 0.4 for adapters in held.values())  # at least what they return
    assert max(adapters for rule, adapters in held.items() if not rule.traits.edits_base) <= 3
    assert min(adapters for rule, adapters in held.items() if rule.traits.edits_base) > 7
