"""Gate losses kept: found again for the same adapter, documents and settings, and for no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from federation.adapter.format import Arrays
from federation.model.documents import Document
from server.measured import KEPT, MeasuredLosses, fingerprint

ARRAYS: Arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones((1, 2), "f4")}
DOCUMENTS = (Document(text="uno", lang="es"), Document(question="two?", answer="2", lang="en"))
LOSSES = np.array([[3.5, 2.0], [1.25, 1.0]])


def test_what_was_put_is_got_bit_for_bit_by_another_reader(tmp_path: Path) -> None:
    MeasuredLosses(tmp_path).put("k", LOSSES)
    found = MeasuredLosses(tmp_path).get("k", 2)
    assert found is not None
    np.testing.assert_array_equal(found, LOSSES)
    assert MeasuredLosses(tmp_path).get("other", 2) is None


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"no array at all"])
def test_a_damaged_file_is_measured_again(tmp_path: Path, damage: bytes) -> None:
    kept = MeasuredLosses(tmp_path)
    kept.put("k", LOSSES)
    (tmp_path / "k.npy").write_bytes(damage)
    assert kept.get("k", 2) is None


def test_losses_of_another_number_of_documents_do_not_fit(tmp_path: Path) -> None:
    kept = MeasuredLosses(tmp_path)
    kept.put("k", LOSSES)
    assert kept.get("k", 3) is None


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    kept = MeasuredLosses(tmp_path)
    for number in range(KEPT + 3):
        kept.put(f"k{number}", LOSSES)
    assert len(list(tmp_path.glob("*.npy"))) == KEPT
    assert kept.get(f"k{KEPT + 2}", 2) is not None


def test_the_fingerprint_changes_with_weights_documents_and_settings() -> None:
    moved = {**ARRAYS, "b": np.array([[1.0, np.nextafter(np.float32(1), 2)]], "f4")}
    other = (DOCUMENTS[0], replace(DOCUMENTS[1], answer="two"))
    same = fingerprint(ARRAYS, DOCUMENTS, "spec", 256)
    assert same == fingerprint(dict(reversed(ARRAYS.items())), DOCUMENTS, "spec", 256)
    others = {
        fingerprint(moved, DOCUMENTS, "spec", 256),
        fingerprint(ARRAYS, other, "spec", 256),
        fingerprint(ARRAYS, DOCUMENTS[::-1], "spec", 256),
        fingerprint(ARRAYS, DOCUMENTS, "spec", 255),
    }
    assert len(others) == 4
    assert same not in others
