"""A real town for the end-to-end tests: one server, two volunteers, real Flower processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from demo_data import starter
from town import Town

SETTINGS: dict[str, Any] = {
    "learning_rate": 3e-3,
    "batch_size": 8,
    "max_seq_len": 128,
    "qa_subset_size": 16,
}
ROWS = 40
DEADLINE_S = 300.0


def rows_of(name: str) -> list[dict[str, Any]]:
    """A few rows of one of the demo's volunteers."""
    return [dict(row) for row in starter().train[name]][:ROWS]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A server and the volunteers luna and marina, joined and running; stopped at the end."""
    place: Path = tmp_path_factory.mktemp("town")
    made = Town(place)
    try:
        limits = ("--set", f"round_deadline_s={DEADLINE_S}", "--set", "gate_max_tokens=64")
        made.start_server("--base", "semilla", "--quorum", "2", *limits)
        for name in ("luna", "marina"):
            made.join(name, rows_of(name), SETTINGS)
        yield made
    finally:
        made.stop()
