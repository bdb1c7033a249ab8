"""A night through the onion, with what can be killed killed in the middle of a round.

Everything is real: the product's own tors of server and nodes, on a private network of eight nodes,
which is enough to lose one. The tests go on where the one before ended.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from tor_network import PrivateTor
from tor_process import ControlPort
from town import Town

from tests.e2e.conftest import DEADLINE_S, SETTINGS, contribute, give_texts, rows_of, settle

NODES = ("luna", "marina")
WAIT_S = 60.0
GRACE_S = 20.0
pytestmark = [pytest.mark.tor, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def town(tor_network_8: PrivateTor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A server behind an onion and the volunteers luna and marina, joined and running."""
    tor = {"mode": "own", "torrc": str(tor_network_8.torrc_file)}
    made = Town(tmp_path_factory.mktemp("tor-town"), tor=tor)
    try:
        settle(made, quorum=2, round_deadline_s=2 * DEADLINE_S)
        for name in NODES:
            made.join(name, rows_of(name), SETTINGS)
        yield made
    finally:
        made.stop()


def test_two_nodes_and_a_server_complete_a_night(town: Town) -> None:
    report = night(town, 0)
    assert report["outcome"]["version"] == 1, report["outcome"]["reason"]
    assert [receipt["version"] for receipt in report["deployed"]] == [1, 1]
    for name in NODES:
        status = json.loads(town.volunteer(name, "status", "--json"))
        assert status["global_version"] == 1
        assert status["running"]["through_tor"] is True


def test_no_way_leads_around_the_onion(town: Town) -> None:
    """What a node's processes have open: this machine's ports, none of them the gateway's."""
    running = json.loads((town.server / "running.json").read_text(encoding="utf-8"))
    gateway = int(running["gateway"].rpartition(":")[2])
    node = psutil.Process(town.processes["luna"].pid)
    for process in (node, *node.children(recursive=True)):
        far = {each.raddr for each in process.net_connections("tcp") if each.raddr}
        assert all(place.ip == "127.0.0.1" and place.port != gateway for place in far), process


def test_the_servers_tor_killed_in_mid_round_costs_nothing(town: Town) -> None:
    killed = kill_when(town, "server", lambda: has_client_app(town, "luna"))
    assert night(town, 1, killed)["lost"] == []


def test_a_nodes_tor_killed_in_mid_round_costs_nothing(town: Town) -> None:
    killed = kill_when(town, "luna", lambda: has_client_app(town, "luna"))
    assert night(town, 2, killed)["lost"] == []
    status = json.loads(town.volunteer("luna", "status", "--json"))
    assert status["running"]["restarts"] == 0, "the SuperNode lived through it"


def test_a_relay_killed_in_mid_round_costs_nothing(town: Town, tor_network_8: PrivateTor) -> None:
    """In a circuit that rounds go over; one that is no directory of descriptors and no entry."""

    def kill() -> None:
        await_that(lambda: has_client_app(town, "luna"))
        relay = tor_network_8.authority(relay_of_a_way(town, tor_network_8.expendable))
        relay.kill()
        relay.start()

    assert night(town, 3, kill)["lost"] == []


def test_the_nodes_follow_the_server_to_a_new_address(town: Town) -> None:
    """They hear of it in a round, and go there by themselves once the old one is gone."""
    before = {name: (address_of(town, name), running_of(town, name)) for name in NODES}
    begun = time.monotonic()
    town.operator("onion", "rotate", "--grace", f"{GRACE_S:.0f}s")
    assert town.round()["lost"] == []
    for name in NODES:
        assert address_of(town, name) != before[name][0]
    await_that(lambda: time.monotonic() > begun + 2 * GRACE_S)
    town.stop("server")  # it gives up what is over every hour, and at its start
    town.start_server()

    def has_moved(name: str) -> bool:
        now = running_of(town, name)
        is_anew = now["started_at"] != before[name][1]["started_at"]
        return is_anew and bool(now["state"] == "connected")

    await_that(lambda: all(has_moved(name) for name in NODES), timeout_s=4 * WAIT_S)
    assert town.round()["lost"] == []


def night(town: Town, number: int, meanwhile: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Both nodes train, one round, `meanwhile` beside it; the packages of both are merged.

    Whether what came of it is better is the gate's to say, and of no interest here.
    """
    for name in NODES:
        give_texts(town, name, number)
    contribute(town, *NODES)
    with ThreadPoolExecutor(1) as background:
        round_now = background.submit(town.round)
        meanwhile()
        report = round_now.result()
    outcome = report["outcome"]
    at_the_gate = [each for each in outcome["refused"] if each["code"] == "gate"]
    assert len(outcome["merged"]) + len(at_the_gate) == len(NODES), report
    return report


def kill_when(town: Town, name: str, is_time: Callable[[], bool]) -> Callable[[], None]:
    """What waits for a moment, then kills the tor of `name` as a crash would."""

    def kill() -> None:
        await_that(is_time)
        tor_of(town, name).send_signal(signal.SIGKILL)

    return kill


def tor_of(town: Town, name: str) -> psutil.Process:
    """The tor that the supervisor of `name` runs."""
    for child in psutil.Process(town.processes[name].pid).children(recursive=True):
        if Path(child.exe()).name == "tor":
            return child
    raise AssertionError(f"{name} runs no tor")


def has_client_app(town: Town, name: str) -> bool:
    """Whether a round has reached this node."""
    for child in psutil.Process(town.processes[name].pid).children(recursive=True):
        try:
            if "flwr-clientapp" in child.cmdline():
                return True
        except psutil.Error:
            continue
    return False


def relay_of_a_way(town: Town, wanted: Sequence[int]) -> int:
    """Number of one of the `wanted` authorities in a circuit between a node and the server."""
    for name in (*NODES, "server"):
        with ControlPort(town.root / name / "tor") as control:
            circuits = control.info("circuit-status").splitlines()
        for line in circuits:
            if "BUILT" in line and "_REND" in line:
                hops = [int(hop.rpartition("authority")[2]) for hop in line.split()[2].split(",")]
                if found := set(hops[1:]) & set(wanted):
                    return found.pop()
    raise AssertionError("no circuit goes over a relay that may be killed")


def address_of(town: Town, name: str) -> str:
    """Where this node's server is, by its own files."""
    joined = json.loads((town.root / name / "federation.json").read_text(encoding="utf-8"))
    return str(joined["address"])


def running_of(town: Town, name: str) -> dict[str, Any]:
    """What this node says of itself."""
    running: dict[str, Any] = json.loads(town.volunteer(name, "status", "--json"))["running"]
    return running


def await_that(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    """Wait for something, not for ever."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
