"""What `up` starts, how it judges a child, and how it reads what flwr prints."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from federation.errors import ConfigError, PermissionsError, ProcessError, RoundError
from server.config import HOME_VARIABLE, ServerHome, load_config
from server.control import _bytes_field, _first_number, _last_object
from server.rounds import _require_same, next_report_path, read_report
from server.serve import Liveness, Running, _await_orphans, children, running, up
from tests.server_home import make_home


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    return make_home(tmp_path / "server", gateway_port=4433, superlink_port=4434)


@pytest.mark.security
def test_h25_the_superlink_is_on_loopback_with_tls_auth_and_isolation(home: ServerHome) -> None:
    superlink, superexec, gateway = children(home, load_config(home))
    joined = " ".join(superlink.argv)
    assert "--host 127.0.0.1 --port 4434" in joined
    for flag in ("--enable-supernode-auth", "--isolation process", "--ssl-certfile", "--database"):
        assert flag in joined
    assert "--superexec-auth-secret-file" in joined
    assert "--superexec-auth-secret-file" in superexec.argv
    for child in (superlink, superexec, gateway):
        assert "--insecure" not in child.argv
        assert Path(child.argv[0]).is_absolute()


@pytest.mark.security
def test_h27_every_child_is_told_to_call_nobody(
    home: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    for child in children(home, load_config(home)):
        assert child.env["FLWR_TELEMETRY_ENABLED"] == "0"
        assert child.env["FLWR_DISABLE_UPDATE_CHECK"] == "1"
        assert child.env["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
        assert child.env["FLWR_HOME"] == str(home.flwr)
        assert child.env[HOME_VARIABLE] == str(home.root)
        assert "HTTPS_PROXY" not in child.env


def test_the_executor_finds_our_commands_first(home: ServerHome) -> None:
    superexec = children(home, load_config(home))[1]
    assert superexec.env["PATH"].split(os.pathsep)[0] == str(home.commands)


def test_a_busy_child_is_given_time_and_a_silent_one_is_not() -> None:
    now, answers = [0.0], [True]
    judge = Liveness(lambda: answers[0], patience_s=60, clock=lambda: now[0])
    assert judge()
    answers[0] = False
    for now[0] in (10.0, 40.0, 69.0):
        assert judge()
    answers[0] = True
    assert judge()
    answers[0] = False
    now[0] = 100.0
    assert judge()
    now[0] = 160.0
    assert not judge()
    now[0] = 170.0
    assert judge(), "a restarted child gets the whole patience again"


def test_a_server_that_was_killed_is_not_running(home: ServerHome) -> None:
    assert running(home) is None
    content = {"pid": 2**22 + 1, "gateway": "x", "superlink_port": 1, "started_at": 0.0}
    home.running.write_text(json.dumps(content))
    assert running(home) is None
    home.running.write_text("{")
    assert running(home) is None
    home.running.write_text(json.dumps(content | {"pid": os.getpid()}))
    assert running(home) is None, "another process has that number now"
    now = {"pid": os.getpid(), "started_at": time.time()}
    home.running.write_text(json.dumps(content | now))
    found = running(home)
    assert found is not None
    assert found.gateway == "x"


def test_a_server_that_ended_and_was_not_waited_for_is_not_running(home: ServerHome) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as ended:
        server = Running(ended.pid, "x", 1, time.time())
        home.running.write_text(json.dumps(vars(server)))
        assert running(home) == server
        ended.kill()
        while psutil.Process(ended.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert running(home) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('talk\n{"success": true, "a": {"b": 1}}\n', {"success": True, "a": {"b": 1}}),
        ('{not json} {"success": false}', {"success": False}),
        ("nothing", {}),
        ("", {}),
    ],
)
def test_the_object_is_found_among_talk(text: str, found: dict[str, object]) -> None:
    assert _last_object(text) == found


def test_our_hand_made_request_is_what_protobuf_makes() -> None:
    wrappers = pytest.importorskip("google.protobuf.wrappers_pb2")
    for size in (0, 1, 127, 128, 215, 20_000):
        data = bytes(range(256)) * (size // 256 + 1)
        value = wrappers.BytesValue(value=data[:size])
        expected = value.SerializeToString() or b"\n\x00"  # an empty field may be left out
        assert _bytes_field(1, data[:size]) == expected
    for number in (1, 127, 128, 2**63, 2**64 - 1):
        message = wrappers.UInt64Value(value=number).SerializeToString()
        assert _first_number(message) == number


def test_reports_are_numbered_and_readable(home: ServerHome) -> None:
    assert next_report_path(home).name == "1.json"
    home.rounds.mkdir()
    for number in (1, 9, 10):
        (home.rounds / f"{number}.json").write_text('{"mode": "collect"}')
    (home.rounds / "x.json").write_text("")
    assert next_report_path(home).name == "11.json"
    assert read_report(home.rounds / "10.json") == {"round": 10, "mode": "collect"}


@pytest.mark.security
@pytest.mark.parametrize(
    "name", ["keys/operator.key", "tls/server.key", "keys/superexec.secret", "keys", "."]
)
def test_h30_up_refuses_what_is_open_to_others(home: ServerHome, name: str) -> None:
    path = home.root / name
    path.chmod(0o755 if path.is_dir() else 0o644)
    with pytest.raises(PermissionsError) as refused:
        up(home, announce=lambda _server: None)
    assert f"{path}" in refused.value.hint
    assert not home.running.exists()


@pytest.mark.security
@pytest.mark.parametrize("name", ["keys/operator.key", "tls/server.crt", "keys/superexec.secret"])
def test_h05_up_refuses_to_start_without_keys(home: ServerHome, name: str) -> None:
    (home.root / name).unlink()
    with pytest.raises(ConfigError, match=Path(name).name):
        up(home, announce=lambda _server: None)


def test_a_round_ends_when_its_server_does(home: ServerHome) -> None:
    server = Running(os.getpid(), "x", 1, time.time())
    home.running.write_text(json.dumps(vars(server)))
    _require_same(home, server)
    home.running.write_text(json.dumps(vars(server) | {"started_at": server.started_at + 1}))
    with pytest.raises(RoundError, match="the server went down"):
        _require_same(home, server)
    home.running.unlink()
    with pytest.raises(RoundError, match="the server went down"):
        _require_same(home, server)


def test_what_a_killed_server_left_is_waited_for_but_not_for_ever(tmp_path: Path) -> None:
    with socket.socket() as orphan:
        orphan.bind(("127.0.0.1", 0))
        orphan.listen()
        home = make_home(tmp_path / "other", gateway_port=orphan.getsockname()[1])
        moments = iter([0.0, 1.0, 1e9])
        _await_orphans(load_config(home), clock=lambda: next(moments))
        assert list(moments) == []
    moments = iter([0.0])
    _await_orphans(load_config(home), clock=lambda: next(moments))


def test_up_says_that_the_port_in_invitations_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        home = make_home(tmp_path / "other", gateway_port=taken.getsockname()[1])
        with pytest.raises(ProcessError, match="is taken"):
            up(home, announce=lambda _server: None)
