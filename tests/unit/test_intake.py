"""The ledger: a package is used once, final is final, and news reach their own node only."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.intake import Intake

A, B = "a" * 64, "b" * 64
ANA, BEN = "1" * 16, "2" * 16


class Shelf:
    """A registry that has merged what it is told."""

    def __init__(self, merged: dict[str, int]) -> None:
        self._merged = merged

    def merged_inputs(self) -> dict[str, int]:
        return self._merged


@pytest.fixture
def intake(tmp_path: Path) -> Intake:
    return Intake(tmp_path / "intake.sqlite")


def test_a_merged_package_is_settled_for_everybody(intake: Intake) -> None:
    assert intake.record_spooled(A, node=ANA)
    intake.record_merged(A, node=ANA, version=3)
    assert intake.settled(A)
    assert intake.settled(A, BEN)
    assert not intake.record_spooled(A, node=BEN)


def test_a_refusal_of_a_copy_does_not_fall_on_the_owner(intake: Intake) -> None:
    intake.record_refused(A, node=BEN, code="identity", detail="not yours")
    assert intake.settled(A)
    assert intake.settled(A, BEN)
    assert not intake.settled(A, ANA)
    assert intake.record_spooled(A, node=ANA)


def test_a_final_state_never_changes(intake: Intake) -> None:
    intake.record_merged(A, node=ANA, version=3)
    intake.record_refused(A, node=ANA, code="late", detail="x")
    intake.record_expired(A, node=ANA, detail="x")
    intake.record_merged(A, node=ANA, version=9)
    record = intake.record(A, ANA)
    assert record is not None
    assert (record.state, record.version) == ("merged", 3)


def test_spooled_is_not_a_verdict(intake: Intake) -> None:
    intake.record_spooled(A, node=ANA)
    assert not intake.settled(A, ANA)
    assert intake.verdicts_for(ANA, [A]) == ()
    assert [record.sha256 for record in intake.spooled()] == [A]


@pytest.mark.security
def test_h06_verdicts_reach_their_own_node_until_acknowledged(intake: Intake) -> None:
    intake.record_merged(A, node=ANA, version=1)
    intake.record_refused(B, node=BEN, code="norm", detail="too large")
    assert [(v.sha256, v.state, v.version) for v in intake.verdicts_for(ANA)] == [(A, "merged", 1)]
    (verdict,) = intake.verdicts_for(BEN)
    assert (verdict.state, verdict.reason) == ("refused", "norm: too large")
    intake.acknowledge(BEN, [A])
    intake.acknowledge(ANA, [A])
    assert intake.verdicts_for(ANA) == ()
    assert len(intake.verdicts_for(BEN)) == 1


def test_a_package_offered_again_is_answered_again(intake: Intake) -> None:
    intake.record_merged(A, node=ANA, version=1)
    intake.acknowledge(ANA, [A])
    assert [v.sha256 for v in intake.verdicts_for(ANA, [A, B])] == [A]
    assert intake.verdicts_for(BEN, [A]) == ()


def test_a_long_reason_is_cut_to_what_a_message_holds(intake: Intake) -> None:
    intake.record_refused(A, node=ANA, code="error", detail="x" * 5000)
    (verdict,) = intake.verdicts_for(ANA)
    assert len(verdict.reason) == 400


def test_the_registry_is_the_truth_about_merges(intake: Intake) -> None:
    intake.record_spooled(A, node=ANA)
    intake.record_spooled(B, node=BEN)
    assert intake.reconcile(Shelf({A: 4})) == 1
    assert intake.reconcile(Shelf({A: 4})) == 0
    assert [(v.sha256, v.version) for v in intake.verdicts_for(ANA)] == [(A, 4)]
    assert [record.sha256 for record in intake.spooled()] == [B]


def test_reconciling_leaves_a_refused_copy_refused(intake: Intake) -> None:
    intake.record_refused(A, node=BEN, code="identity", detail="not yours")
    assert intake.reconcile(Shelf({A: 4})) == 0
    record = intake.record(A, BEN)
    assert record is not None
    assert record.state == "refused"


def test_counts_per_node(intake: Intake) -> None:
    intake.record_merged(A, node=ANA, version=1)
    intake.record_refused(B, node=ANA, code="x", detail="")
    intake.record_spooled(A, node=BEN)
    assert intake.counts() == {ANA: {"merged": 1, "refused": 1}}


def test_it_is_read_again_by_another_process(intake: Intake, tmp_path: Path) -> None:
    intake.record_merged(A, node=ANA, version=1)
    assert Intake(tmp_path / "intake.sqlite").settled(A, ANA)
