"""What the Tor benchmark concludes from its figures."""

from __future__ import annotations

from typing import Any

import pytest
from bench_tor_path import first_section, goodput_section, memory_section
from bench_tor_round import section_of

CARRIED = 100 * 256 * 1024


@pytest.mark.parametrize(("ours", "is_met"), [(1.0, True), (1.1, True), (1.12, False)])
def test_a_body_may_take_a_ninth_longer_than_a_bare_one(ours: float, is_met: bool) -> None:
    taken = {"ours": [ours] * 5, "bare": [1.0] * 5}
    assert goodput_section({"up": taken, "down": taken}).is_met is is_met


def test_one_slow_pair_does_not_decide() -> None:
    taken = {"ours": [1.0, 1.0, 9.0], "bare": [1.0, 1.0, 1.0]}
    assert goodput_section({"up": taken, "down": taken}).is_met


@pytest.mark.parametrize(("ours", "is_met"), [(1.3, True), (1.6, False)])
def test_a_first_connection_may_cost_a_second_more_than_a_circuit(
    ours: float, is_met: bool
) -> None:
    assert first_section({"ours": [ours] * 3, "bare": [0.5] * 3}).is_met is is_met


@pytest.mark.parametrize(
    ("peak_mb", "carried", "is_met"),
    [(39.0, CARRIED, True), (40.0, CARRIED, False), (20.0, CARRIED - 1, False)],
)
def test_memory_counts_only_if_all_was_carried(peak_mb: float, carried: int, is_met: bool) -> None:
    assert memory_section(peak_mb, carried, 1.0).is_met is is_met


@pytest.mark.parametrize(
    ("merged", "codes", "lost", "is_met"),
    [
        (["a", "b"], [], [], True),
        ([], ["gate", "gate"], [], True),
        (["a"], ["norm"], [], False),
        (["a", "b"], [], ["c"], False),
    ],
)
def test_a_round_is_complete_when_every_package_is_in_the_candidate(
    merged: list[str], codes: list[str], lost: list[str], is_met: bool
) -> None:
    outcome = {"merged": merged, "refused": [{"code": code} for code in codes], "reason": ""}
    report: dict[str, Any] = {"outcome": outcome, "lost": lost}
    assert section_of(2, report, 1.0, 1.0).is_met is is_met
