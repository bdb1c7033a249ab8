"""What `flower-client run` starts, and what it makes of a SuperNode's log."""

from __future__ import annotations

import json
import os
import stat
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from client import board, launcher
from client.board import running_state, state_of
from client.cli import run
from client.config import NodeConfig, NodeHome, load_federation
from client.launcher import Probe, judge, prepare
from client.shim import NOT_ADMITTED
from federation import durable, settings
from federation.errors import ClockError, RevokedError
from federation.processes import free_port
from federation.tor.way import Way
from tests.adapter_samples import make_spec
from tests.fake_gateway import serve_gateway
from tests.global_samples import Chain, joined_home

# Lines as flwr 1.41 writes them.
CONNECTED = "INFO :      SuperNode ID: 7096889549308426112"
RETRYING = "WARNING :   Connection attempt failed, retrying in 2.31 seconds"
BACK = "INFO :      Connection successful after 8.20 seconds and 4 tries."
STILL_ONLINE = (
    "ERROR :     Exit Code: 305\nFailed to initialize the connection to the SuperLink.\n"
    "[code: 2004] Failed to activate SuperNode."
)
UNREACHABLE = "ERROR :     Exit Code: 305\nFailed to initialize the connection to the SuperLink."
GRACEFUL = "INFO :      SuperNode terminated gracefully."


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return joined_home(tmp_path / "node", Chain(make_spec()))


def make_node(home: NodeHome) -> launcher.Node:
    return prepare(home, load_federation(home), Way("127.0.0.1:9"))


def no_answer() -> float | None:
    return None


@pytest.mark.parametrize(
    ("lines", "state"),
    [
        ([], "starting"),
        (["INFO :      Starting Flower SuperNode"], "starting"),
        ([RETRYING], "waiting"),
        ([RETRYING, BACK, CONNECTED], "connected"),
        ([CONNECTED], "connected"),
        ([CONNECTED, RETRYING], "waiting"),
        ([CONNECTED, RETRYING, RETRYING, BACK], "connected"),
    ],
)
def test_the_last_sign_in_the_log_is_the_state(lines: list[str], state: str) -> None:
    assert state_of("\n".join(lines)) == state


def test_flwr_still_logs_the_signs_that_are_looked_for() -> None:
    import flwr

    root = Path(flwr.__file__).parent
    sources = [root / "supernode" / "start_client_internal.py"]
    sources += [root / "supercore" / "retry" / "http_retry.py"]
    text = "\n".join(path.read_text() for path in sources)
    assert all(sign in text for sign in board.SIGNS)
    assert (
        "FLEET_NODE_ACTIVATION_FAILED = 2004"
        in (root / "supercore" / "error" / "base.py").read_text()
    )


def test_a_key_that_the_server_does_not_know_ends_the_node() -> None:
    stop = judge(NOT_ADMITTED, no_answer)
    assert stop is not None
    assert stop.kind is RevokedError
    assert stop.hint


@pytest.mark.parametrize("tail", ["", GRACEFUL, UNREACHABLE, STILL_ONLINE, "Killed"])
def test_any_other_exit_is_worth_another_try(tail: str) -> None:
    assert judge(tail, no_answer) is None
    assert judge(tail, lambda: 0.0) is None


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
@pytest.mark.parametrize("tail", [GRACEFUL, NOT_ADMITTED])
def test_a_wrong_clock_ends_the_node_with_its_difference(tail: str, ahead: float) -> None:
    stop = judge(tail, lambda: ahead)
    assert stop is not None
    assert stop.kind is ClockError
    assert "3600 s" in stop.reason


@pytest.mark.security
def test_h05_no_secret_is_in_the_command_lines(home: NodeHome) -> None:
    node = make_node(home)
    secret = home.superexec_secret.read_text()
    key = (home.keys / "supernode.key").read_text()
    for child in launcher.children(node, {"PATH": "/usr/bin"}):
        words = " ".join(child.argv)
        assert secret not in words
        assert not any(line in words for line in key.splitlines() if line)
        assert secret not in json.dumps(dict(child.env))


@pytest.mark.security
def test_h30_the_executor_needs_a_fresh_private_secret(home: NodeHome) -> None:
    make_node(home)
    first = home.superexec_secret.read_text()
    assert stat.S_IMODE(home.superexec_secret.stat().st_mode) == 0o600
    node = make_node(home)
    assert home.superexec_secret.read_text() != first
    supernode, superexec = launcher.children(node, {})
    for child in (supernode, superexec):
        words = list(child.argv)
        assert words[words.index("--superexec-auth-secret-file") + 1] == str(home.superexec_secret)
    assert list(supernode.argv)[list(supernode.argv).index("--isolation") + 1] == "process"
    assert list(supernode.argv)[list(supernode.argv).index("--host") + 1] == "127.0.0.1"


@pytest.mark.security
def test_h18_the_way_to_the_server_is_never_insecure(home: NodeHome) -> None:
    supernode, superexec = launcher.children(make_node(home), {})
    words = list(supernode.argv)
    assert "--insecure" not in words
    assert words[words.index("--root-certificates") + 1] == str(home.ca)
    address = list(superexec.argv)[list(superexec.argv).index("--runtime-api-address") + 1]
    assert address.startswith("127.0.0.1:")


@pytest.mark.security
def test_h20_h27_children_are_started_by_our_interpreter_silent_and_with_our_commands(
    home: NodeHome,
) -> None:
    inherited = {"PATH": "/usr/bin", "ALL_PROXY": "socks5h://x", "https_proxy": "http://y"}
    for child in launcher.children(make_node(home), inherited):
        assert list(child.argv[:4]) == [sys.executable, "-P", "-m", "client.shim"]
        assert child.env["PATH"].split(os.pathsep) == [str(home.bin), "/usr/bin"]
        assert child.env["FLWR_TELEMETRY_ENABLED"] == "0"
        assert child.env["FLWR_DISABLE_UPDATE_CHECK"] == "1"
        assert child.env["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
        assert child.env["HF_HUB_OFFLINE"] == "1"
        assert child.env["FLWR_HOME"] == str(home.flwr)
        assert child.env["CONSCIENCE_HOME"] == str(home.root)
        assert not {"ALL_PROXY", "https_proxy"} & set(child.env)


def test_a_second_run_says_that_one_is_running(
    home: NodeHome, capsys: pytest.CaptureFixture[str]
) -> None:
    durable.write_text(home.running, json.dumps({"pid": os.getpid(), "state": "connected"}))
    with durable.locked(home.run_lock):
        assert run(["run", "--home", str(home.root)]) == 1
    assert f"already running (pid {os.getpid()})" in capsys.readouterr().err


def test_what_a_node_that_ended_left_is_no_running_node(home: NodeHome) -> None:
    assert running_state(home) == {}
    durable.write_text(home.running, json.dumps({"pid": 2**22 + 1, "state": "connected"}))
    assert running_state(home) == {}
    durable.write_text(home.running, "{half")
    assert running_state(home) == {}


def test_running_without_having_joined_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", "--home", str(tmp_path)]) == 2
    assert "has not joined" in capsys.readouterr().err


@pytest.mark.security
def test_h30_a_world_readable_key_stops_the_start(
    home: NodeHome, capsys: pytest.CaptureFixture[str]
) -> None:
    make_node(home)
    settings.save(NodeConfig(start_jitter_s=0), home.config)
    (home.keys / "supernode.key").chmod(0o644)
    assert run(["run", "--home", str(home.root)]) == 2
    assert "chmod 600" in capsys.readouterr().err


@pytest.mark.security
def test_h29_a_clock_that_is_off_stops_the_start(
    home: NodeHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve_gateway(tmp_path / "tls") as gateway:
        gateway.ahead = timedelta(hours=-2)
        durable.write_text(home.ca, gateway.ca_certificate)
        settings.save(
            NodeConfig(server_url=f"https://{gateway.address}", start_jitter_s=0), home.config
        )
        assert run(["run", "--home", str(home.root)]) == 43
    assert "ahead of the server's" in capsys.readouterr().err


def test_a_supernode_that_waits_while_the_server_answers_is_started_anew(
    home: NodeHome, tmp_path: Path
) -> None:
    with serve_gateway(tmp_path / "tls") as gateway:
        durable.write_text(home.ca, gateway.ca_certificate)
        port = int(gateway.address.rpartition(":")[2])  # stands in for its local API too
        key = home.keys / "supernode.key"
        node = launcher.Node(home, load_federation(home), Way(gateway.address), key, port)
        probe = Probe(node)
        state = {"pid": os.getpid(), "state": "waiting"}
        durable.write_text(home.running, json.dumps(state))
        assert [probe.is_alive() for _ in range(launcher.STALE_PROBES)] == [True, True, True, False]
        durable.write_text(home.running, json.dumps(state | {"state": "connected"}))
        assert all(probe.is_alive() for _ in range(2 * launcher.STALE_PROBES))
    durable.write_text(home.running, json.dumps(state))
    assert not probe.is_alive(), "nothing listens any more"


def test_a_server_that_is_down_is_waited_for(home: NodeHome, tmp_path: Path) -> None:
    durable.write_text(home.running, json.dumps({"pid": os.getpid(), "state": "waiting"}))
    with serve_gateway(tmp_path / "tls") as gateway:
        port = int(gateway.address.rpartition(":")[2])
        durable.write_text(home.ca, gateway.ca_certificate)
        key = home.keys / "supernode.key"
        node = launcher.Node(
            home, load_federation(home), Way(f"127.0.0.1:{free_port()}"), key, port
        )
        probe = Probe(node)
        assert all(probe.is_alive() for _ in range(2 * launcher.STALE_PROBES))
