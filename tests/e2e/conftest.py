"""A real town for the end-to-end tests: one server, two volunteers, real Flower processes.

What costs most in them is torch, five to eight seconds of computing in each process that loads it.
So only the tests whose subject it is set a server up or let a node train by the command, or let it
measure what it received; the others use `settle` and `contribute`, which do the same in this
process, and texts of which none is held out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from demo_data import starter
from town import Town

from client import cycle
from client.config import NodeHome, load_config
from federation import durable
from server import starting
from server.config import ServerHome, new_config

SETTINGS: dict[str, Any] = {
    "learning_rate": 3e-3,
    "batch_size": 8,
    "max_seq_len": 128,
    "qa_subset_size": 16,
}
ROWS = 40
DEADLINE_S = 300.0
LONGEST = ("test_night.py", "test_tor_night.py")
GATE_TOKENS = 64


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest: a run lasts until the file that began last is done."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def rows_of(name: str, night: int = 0) -> list[dict[str, Any]]:
    """A few rows of one of the demo's volunteers, others on each of its first four nights."""
    return [dict(row) for row in starter().train[name]][night * ROWS : (night + 1) * ROWS]


def settle(town: Town, **given: object) -> None:
    """Do what `flower-server init` does, with a cheap gate, and start the server."""
    way = {"onion": False} if town.tor is None else {"tor": dict(town.tor)}
    starting.init(
        ServerHome(town.server), new_config({"gate_max_tokens": GATE_TOKENS} | way | given)
    )
    town.start_server()


def give_texts(town: Town, name: str, night: int) -> None:
    """Let a node have other texts and hold none of them out: it has nothing to measure by."""
    rows = [row | {"split": "train"} for row in rows_of(name, night)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    durable.write_text(town.root / name / "datasets" / "texts.jsonl", "\n".join(lines) + "\n")


def contribute(town: Town, *names: str) -> None:
    """Do what `flower-client contribute` does for each of these nodes."""
    for name in names:
        home = NodeHome(town.root / name)
        assert cycle.contribute(home, load_config(home)[0]) is not None


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A server and the volunteers luna and marina, joined and running; stopped at the end."""
    place: Path = tmp_path_factory.mktemp("town")
    made = Town(place)
    try:
        limits = (
            "--set",
            f"round_deadline_s={DEADLINE_S}",
            "--set",
            f"gate_max_tokens={GATE_TOKENS}",
        )
        made.start_server("--base", "semilla", "--quorum", "2", *limits)
        for name in ("luna", "marina"):
            made.join(name, rows_of(name), SETTINGS)
        yield made
    finally:
        made.stop()
