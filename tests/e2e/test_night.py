"""One night with real processes, told in order; each test goes on where the one before ended."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
from town import CommandError, Town

from federation import bundle
from tests.e2e.conftest import DEADLINE_S, contribute, give_texts

WAIT_S = 120.0
NODES = ("luna", "marina")
pytestmark = pytest.mark.timeout(600)


def outbox(town: Town, name: str) -> list[dict[str, Any]]:
    """The node's outbox."""
    listed = json.loads(town.volunteer(name, "outbox", "list", "--json"))
    entries: list[dict[str, Any]] = listed["packages"]
    return entries


def test_a_new_node_can_train_the_same_evening(town: Town) -> None:
    town.volunteer("luna", "contribute")
    contribute(town, "marina")
    for name in NODES:
        assert [entry["state"] for entry in outbox(town, name)] == ["waiting"]


def test_contributing_again_makes_no_second_package(town: Town) -> None:
    town.volunteer("luna", "contribute")
    assert len(outbox(town, "luna")) == 1


def test_a_round_merges_both_and_the_nodes_hear_of_it(town: Town) -> None:
    report = town.round()
    assert report["outcome"]["version"] == 1, report["outcome"]["reason"]
    assert len(report["outcome"]["merged"]) == 2
    assert [receipt["version"] for receipt in report["deployed"]] == [1, 1]
    assert all(receipt["loss"] is not None for receipt in report["deployed"])
    for name in NODES:
        (entry,) = outbox(town, name)
        assert (entry["state"], entry["version"]) == ("merged", 1)


def test_the_server_says_what_it_did(town: Town) -> None:
    status = json.loads(town.operator("status", "--json"))
    assert status["current"] == 1
    history = json.loads(town.operator("history", "--json"))
    assert [row["version"] for row in history] == [0, 1]
    up = town.traffic()
    assert all(sent > 0 and received > 0 for sent, received in up.values())


def test_a_round_brings_weights_and_no_code(town: Town) -> None:
    """The node has the code: all that it received, v1 in f32 included, is less than the bundle."""
    code = sum(len(data) for data in bundle.app_files().values())
    assert all(0 < received < code for _, received in town.traffic().values())
    log = (town.server / "logs" / "superlink.log").read_text(encoding="utf-8")
    assert "Fleet.GetRun" in log
    assert "Fleet.GetFab" not in log


@pytest.mark.security
def test_h19_no_text_reaches_the_server(town: Town) -> None:
    """Not a byte of a volunteer's texts is in any file of the server or of Flower."""
    lines = (town.root / "luna" / "datasets" / "texts.jsonl").read_text(encoding="utf-8")
    texts = [value for line in lines.splitlines() for value in json.loads(line).values()]
    needles = [text[:40].encode() for text in texts if len(str(text)) > 60]
    files = [path for path in town.server.rglob("*") if path.is_file()]
    assert len(needles) >= 20
    assert any(path.name == "superlink.db" for path in files)
    for path in files:
        content = path.read_bytes()
        assert not any(needle in content for needle in needles), path


def test_a_second_round_has_nothing_new_and_publishes_nothing(town: Town) -> None:
    report = town.round()
    assert report["outcome"]["version"] is None
    assert json.loads(town.operator("status", "--json"))["current"] == 1


def test_rollback_reaches_the_nodes_as_a_new_version(town: Town) -> None:
    for name in NODES:
        give_texts(town, name, night=0)
    town.operator("rollback")
    assert json.loads(town.operator("status", "--json"))["current"] == 2
    town.round()
    for name in NODES:
        status = json.loads(town.volunteer(name, "status", "--json"))
        assert status["global_version"] == 2
    registry = town.server / "registry"
    weights = [registry / f"v{n}" / "adapter_model.safetensors" for n in (0, 2)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_killed_client_process_costs_its_own_package_only(town: Town) -> None:
    """SIGKILL instead of an answer: the round closes on the other node, the package waits."""
    contribute(town, *NODES)
    waiting = [entry["state"] for entry in outbox(town, "marina")].count("waiting")
    assert waiting == 1
    killer = _kill_client_apps_of(town, "marina")
    report = town.round()
    killer.stop()
    assert killer.killed > 0
    assert any(lost["node"] == _pseudonym(town, "marina") for lost in report["lost"])
    assert report["outcome"]["version"] is None  # one of two is no quorum; it waits in the spool
    assert report["outcome"]["waiting"] == 1


def test_a_server_killed_in_mid_round_finishes_it_from_the_spool(town: Town) -> None:
    """SIGKILL to `up` and all it started, once both packages are in; the nodes are left alone."""
    before = _current(town)
    offered = {name: outbox(town, name)[-1]["sha256"] for name in NODES}
    nodes = [town.processes[name].pid for name in NODES]
    with ThreadPoolExecutor(1) as background:
        round_now = background.submit(town.round)
        orphans = _kill_server_when(town, lambda: _spooled(town) == len(NODES))
        with pytest.raises(CommandError, match="the server went down") as caught:
            round_now.result()
    assert caught.value.code == 70
    assert _left_of(orphans) == []
    town.stop("server")
    town.start_server()
    report = town.round()
    assert (report["version_after"], report["lost"]) == (before + 1, []), report
    assert _spooled(town) == 0
    versions = json.loads(town.operator("history", "--json"))
    inputs = [record["sha256"] for row in versions for record in row["inputs"]]
    for name in NODES:
        assert inputs.count(offered[name]) == 1
        newest = outbox(town, name)[-1]
        assert (newest["sha256"], newest["state"]) == (offered[name], "merged")
    assert json.loads(town.operator("validate", "--json"))["chain"] == "verified"
    assert [town.processes[name].pid for name in NODES] == nodes
    assert all(town.processes[name].poll() is None for name in NODES)


def test_a_live_round_trains_on_the_spot_and_publishes(town: Town) -> None:
    """Nobody calls `contribute`: the nodes train when the server asks them to."""
    before = _current(town)
    known = {name: len(outbox(town, name)) for name in NODES}
    report = town.round("--mode", "live")
    assert (report["mode"], report["lost"]) == ("live", [])
    assert report["outcome"]["version"] == before + 1, report["outcome"]["reason"]
    assert len(report["outcome"]["merged"]) == 2
    assert report["seconds"]["collect"] < DEADLINE_S
    for name in NODES:
        *_, newest = entries = outbox(town, name)
        assert len(entries) == known[name] + 1
        assert (newest["state"], newest["version"]) == ("merged", before + 1)


def test_a_superlink_killed_hard_comes_back_and_the_next_round_works(town: Town) -> None:
    before = _current(town)
    superlink = _descendant(town, "server", "flower-superlink")
    superlink.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            report = town.round()
            break
        except CommandError:
            time.sleep(2)
    assert report["version_after"] == before
    assert report["lost"] == []


@pytest.mark.security
def test_h16_a_tampered_global_adapter_is_refused(town: Town) -> None:
    folder = town.root / "luna" / "models" / "global"
    newest = max(folder.glob("v*"), key=lambda path: int(path.name[1:]))
    weights = newest / "adapter_model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    with pytest.raises(CommandError) as caught:
        town.volunteer("luna", "contribute")
    assert caught.value.code in (10, 11)
    weights.write_bytes(kept)


def test_a_ban_works_on_a_live_node(town: Town) -> None:
    town.operator("ban", "marina")
    child = town.processes["marina"]
    assert child.wait(timeout=WAIT_S) == 42
    log = (town.root / "marina" / "output.log").read_text(encoding="utf-8")
    assert "was banned" in log
    town.stop("marina")
    with pytest.raises(CommandError) as caught:
        town.start("marina", ["flower-client", "run"])
    assert caught.value.code == 42


def test_sigterm_stops_everything(town: Town) -> None:
    servers = psutil.Process(town.processes["server"].pid).children(recursive=True)
    nodes = psutil.Process(town.processes["luna"].pid).children(recursive=True)
    assert servers
    assert nodes
    town.stop()
    gone, alive = psutil.wait_procs([*servers, *nodes], timeout=10)
    assert alive == []
    assert len(gone) == len(servers) + len(nodes)


class _Killer:
    """Kills every ClientApp process of one node as soon as it appears."""

    def __init__(self, parent: psutil.Process) -> None:
        self._parent = parent
        self._done = threading.Event()
        self.killed = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            for child in self._parent.children(recursive=True):
                try:
                    if "flwr-clientapp" in child.cmdline():
                        child.kill()
                        self.killed += 1
                except psutil.Error:
                    continue


def _kill_server_when(town: Town, is_time: Callable[[], bool]) -> list[psutil.Process]:
    """Kill the server's whole family at once, as a power cut would; returns who was in it."""
    server = psutil.Process(town.processes["server"].pid)
    deadline = time.monotonic() + DEADLINE_S
    while not is_time() and time.monotonic() < deadline:
        time.sleep(0.005)
    family = server.children(recursive=True)
    groups = [child.pid for child in server.children()]  # each leads a group of its own
    server.kill()
    for group in groups:
        os.killpg(group, signal.SIGKILL)
    return [server, *family]


def _left_of(family: list[psutil.Process]) -> list[psutil.Process]:
    """Who of them still runs after a while; zombies have ended and wait for a reaper."""
    deadline = time.monotonic() + WAIT_S
    left = family
    while left and time.monotonic() < deadline:
        left = [process for process in left if _runs(process)]
        time.sleep(0.1)
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _spooled(town: Town) -> int:
    return len(list((town.server / "spool").glob("*.json")))


def _current(town: Town) -> int:
    return int(json.loads(town.operator("status", "--json"))["current"])


def _kill_client_apps_of(town: Town, name: str) -> _Killer:
    return _Killer(psutil.Process(town.processes[name].pid))


def _descendant(town: Town, name: str, command: str) -> psutil.Process:
    for child in psutil.Process(town.processes[name].pid).children(recursive=True):
        if any(command in part for part in child.cmdline()):
            return child
    raise AssertionError(f"{command} is not running")


def _pseudonym(town: Town, name: str) -> str:
    rows = json.loads(town.operator("nodes", "--json"))
    return next(str(row["pseudonym"]) for row in rows if row["name"] == name)
