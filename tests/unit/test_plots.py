"""The pictures: readable PNGs of the right size, whatever was measured."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import pytest

from federation.ledger.plots import DemoTable, demo_picture, way_picture

TABLE = DemoTable(
    rows=("cooking", "stars", "overall"),
    base=(3.4, 3.1, 3.25),
    lone={"Ana": (3.0, 3.2, 3.1), "Ben": (3.4, 2.8, 3.1)},
    versions={"v1": (3.1, 2.9, 3.0), "v2": (3.0, 2.8, 2.9)},
    traffic={"Ana": (800_000, 1_600_000), "Ben": (4_000, 0)},
    phases={"train": 12.0, "round": 3.5},
)


def test_the_average_of_the_lone_nodes_is_taken_row_by_row() -> None:
    assert TABLE.lone_mean() == pytest.approx((3.2, 3.0, 3.1))


@pytest.mark.parametrize("versions", [{}, {"v1": (3.1, 2.9, 3.0)}, TABLE.versions])
def test_the_picture_is_a_png_of_1200_pixels(
    tmp_path: Path, versions: dict[str, tuple[float, ...]]
) -> None:
    path = tmp_path / "plots" / "demo.png"
    demo_picture(dataclasses.replace(TABLE, versions=versions), path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">I", data[16:20]) == (1200,)


def test_losses_that_do_not_fit_the_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="'v1' has 2 losses for 3 rows"):
        dataclasses.replace(TABLE, versions={"v1": (3.1, 2.9)})


def test_the_picture_of_the_way_is_a_png_of_1000_pixels(tmp_path: Path) -> None:
    path = tmp_path / "way.png"
    way_picture({"256 KiB": (100.0, 200.0), "4 MiB": (300.0, 400.0)}, [80.0, 90.0, 300.0], path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">I", data[16:20]) == (1000,)
