"""`flower-client run` behind Tor: what is started, what is waited for, what ends the node."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from client import launcher, link
from client.board import Board, Seen
from client.cli import run
from client.config import NodeConfig, NodeHome, load_config, load_federation
from client.keys import onion_key
from federation import durable
from federation.errors import TorError
from federation.processes import Supervisor
from federation.tor.forwarder import Attempt, Forwarder
from federation.tor.way import Way
from tests.onion_home import ONION, OTHER_ONION, move, onion_home


@dataclass
class LastDial:
    """In place of a forwarder: how its last dial ended."""

    last: Attempt | None = None

    def fails(self, code: int, failures: int, at: float = 1.0) -> None:
        is_final = code in (0xF4, 0xF5, 0xF6)
        self.last = Attempt(at, False, code, "It failed.", "descriptor", is_final, failures)


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return onion_home(tmp_path / "node", "no certificate", mode="own")


@pytest.fixture
def dialled() -> LastDial:
    return LastDial()


def make_node(home: NodeHome, dialled: LastDial) -> launcher.Node:
    way = Way("127.0.0.1:4321", is_tor=True, forwarder=cast(Forwarder, dialled))
    return launcher.prepare(home, load_federation(home), way)


class Stopped:
    """In place of a supervisor."""

    def __init__(self) -> None:
        self.stopping = False
        self.log = ""

    def request_stop(self) -> None:
        self.stopping = True

    def tail(self, _name: str) -> str:
        return self.log

    def restarts(self, _name: str) -> int:
        return 0

    def pid(self, _name: str) -> int:
        return 17


@dataclass
class Watched:
    """A watcher with what it sees and says."""

    watcher: Any
    supervisor: Stopped
    said: list[str]


@pytest.fixture
def watched(home: NodeHome, dialled: LastDial) -> Watched:
    said: list[str] = []
    supervisor = Stopped()
    board = Board(home, "0" * 16, "", said.append)
    watcher = launcher.Watcher(
        make_node(home, dialled),
        load_config(home)[0],
        cast(Supervisor, supervisor),
        ["tor", launcher.SUPERNODE],
        board,
    )
    return Watched(watcher, supervisor, said)


@pytest.mark.security
def test_h27_the_supernode_dials_the_forwarder_and_knows_no_onion(
    home: NodeHome, dialled: LastDial
) -> None:
    for child in launcher.children(make_node(home, dialled), {"PATH": "/usr/bin"}):
        told = json.dumps([list(child.argv), dict(child.env)])
        assert ONION[:56] not in told
        assert onion_key(home.onion_key) not in told
    supernode = launcher.children(make_node(home, dialled), {})[0]
    words = list(supernode.argv)
    assert words[words.index("--superlink") + 1] == "127.0.0.1:4321"


def test_a_tor_that_cannot_be_had_ends_the_node_with_its_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = onion_home(tmp_path / "node", "", mode="own", program="/nowhere/tor")
    assert run(["run", "--home", str(home.root)]) == 44
    assert "/nowhere/tor" in capsys.readouterr().err


@pytest.mark.security
def test_h27_an_onion_where_tor_is_forbidden_ends_the_node(
    home: NodeHome, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSCIENCE_USE_TOR", "false")
    assert run(["run", "--home", str(home.root)]) == 2
    error = capsys.readouterr().err
    assert "use_tor" in error
    assert ONION[:16] not in error


@pytest.mark.parametrize("code", [0xF0, 0x01, 0xF2, 0xF3])
def test_a_server_that_is_down_is_waited_for(
    watched: Watched, dialled: LastDial, code: int
) -> None:
    for failures in range(1, 500):
        dialled.fails(code, failures, at=failures)
        watched.watcher.look()
    assert not watched.supervisor.stopping


@pytest.mark.parametrize("code", [0xF4, 0xF5, 0xF6])
def test_a_refusal_that_no_waiting_mends_ends_the_node_at_the_second_time(
    watched: Watched, dialled: LastDial, code: int
) -> None:
    dialled.fails(code, 1)
    watched.watcher.look()
    dialled.fails(code, 2, at=2.0)
    with pytest.raises(TorError, match="It failed") as caught:
        watched.watcher.look()
    assert caught.value.exit_code == 44
    assert caught.value.hint


def test_a_new_address_is_followed_once_the_old_one_fails(
    home: NodeHome, watched: Watched, dialled: LastDial
) -> None:
    move(home, f"{OTHER_ONION}:443")
    dialled.last = Attempt(1.0, ok=True)
    watched.watcher.look()
    assert not watched.watcher.has_moved, "the old address still works"
    dialled.fails(0xF5, 2, at=2.0)
    watched.watcher.look()
    assert watched.watcher.has_moved
    assert watched.supervisor.stopping


def test_an_address_of_the_settings_is_not_left(
    home: NodeHome, dialled: LastDial, watched: Watched
) -> None:
    watched.watcher._config = NodeConfig(server_url=f"http://{ONION}")
    move(home, f"{OTHER_ONION}:443")
    dialled.fails(0xF0, 1)
    watched.watcher.look()
    assert not watched.watcher.has_moved


def test_the_probe_leaves_a_supernode_alone_while_the_onion_is_down(
    home: NodeHome, dialled: LastDial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "is_listening", lambda _port: True)
    monkeypatch.setattr(link, "connect", pytest.fail)
    durable.write_text(home.running, json.dumps({"pid": os.getpid(), "state": "waiting"}))
    dialled.fails(0xF0, 100)
    probe = launcher.Probe(make_node(home, dialled))
    assert all(probe.is_alive() for _ in range(3 * launcher.STALE_PROBES))


def test_the_owner_hears_each_change_once_and_no_address(
    home: NodeHome, watched: Watched, dialled: LastDial
) -> None:
    watched.watcher.look()
    watched.supervisor.log = "INFO :      SuperNode ID: 5"
    watched.watcher.look()
    watched.watcher.look()
    dialled.fails(0xF0, 1)
    watched.supervisor.log += "\nWARNING :   Connection attempt failed, retrying in 2.31 seconds"
    watched.watcher.look()
    dialled.fails(0xF0, 2, at=2.0)
    watched.watcher.look()
    assert watched.said == [
        "Tor is ready. Connecting to the server …",
        f"Connected through Tor as node {'0' * 16}.",
        "The server does not answer through Tor; trying on. It failed.",
    ]
    written = home.running.read_text()
    assert ONION[:16] not in written
    state = json.loads(written)
    assert (state["state"], state["problem"]) == ("waiting", "It failed.")
    assert state["through_tor"] is True
    assert state["children"] == {"tor": 17, launcher.SUPERNODE: 17}


def test_how_far_tor_has_come_is_told_and_written(home: NodeHome) -> None:
    said: list[str] = []
    board = Board(home, "0" * 16, "", said.append)
    board.tor_says("Tor is starting: 45 % (x): y")
    board.show(Seen("starting"), {})
    assert said == ["Tor is starting: 45 % (x): y", "Tor is ready. Connecting to the server …"]
