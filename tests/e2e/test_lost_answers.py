"""A way that breaks after a request has arrived and before its answer is back, as Tor's may."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from town import Town

from server.ca import TlsFiles
from tests.e2e.conftest import DEADLINE_S, SETTINGS, rows_of
from tests.e2e.listener import Listener

PUSH_SESSION_S = 180.0  # flwr.supercore.constant.OBJECT_PUSH_SESSION_TTL_SECONDS
METHODS = ("pull-messages", "push-messages", "push-object", "confirm-message-received")


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A server alone."""
    made = Town(tmp_path_factory.mktemp("lossy-town"))
    try:
        limits = ("--set", f"round_deadline_s={DEADLINE_S}", "--set", "gate_max_tokens=64")
        made.start_server("--base", "semilla", "--quorum", "1", *limits)
        yield made
    finally:
        made.stop()


@pytest.fixture
def lossy(town: Town) -> Iterator[Listener]:
    """The way to its gateway."""
    tls = TlsFiles(town.server / "tls")
    running = json.loads((town.server / "running.json").read_text(encoding="utf-8"))
    port = int(running["gateway"].rpartition(":")[2])
    with Listener(port, Path(tls.certificate), Path(tls.key)) as listener:
        yield listener


def test_no_answer_that_is_lost_costs_a_node_its_round(town: Town, lossy: Listener) -> None:
    """Each of them, at the first message and its reply, and again at the package itself."""
    settings = SETTINGS | {"server_url": f"https://127.0.0.1:{lossy.port}"}
    town.join("luna", rows_of("luna"), settings)
    town.volunteer("luna", "contribute")
    lossy.lose_answers_to(*METHODS, *METHODS)
    report = town.round()
    assert sorted(lossy.lost) == sorted([*METHODS, *METHODS])
    assert report["lost"] == []
    assert report["version_after"] == 1, report["outcome"]
    waited_s = report["seconds"]["hello"] + report["seconds"]["collect"]
    assert waited_s < PUSH_SESSION_S, "Flower waited for objects that nobody sent"
    town.stop("luna")
