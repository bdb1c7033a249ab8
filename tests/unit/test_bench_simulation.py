"""The benchmark of rounds in memory runs, and says what it could not measure."""

from __future__ import annotations

import importlib.util

import pytest
from bench_simulation import NO_RAY, measure, parse

pytestmark = pytest.mark.strategies


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="would start ray")
def test_the_benchmark_counts_clients_and_names_the_missing_ray() -> None:
    report = measure(parse(["--clients=4", "--rounds=1"]))
    (row,) = report["ours"]
    assert row["clients"] == 4
    assert min(row["first_s"], row["per_s"], row["per_cpu_s"], row["peak_mb"]) > 0
    assert report["flower"] == NO_RAY
