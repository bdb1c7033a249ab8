"""Our own tor as a supervised child, judged without a real one."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest

from federation.errors import ConfigError, ConscienceError, TorError
from federation.processes import Child
from federation.tor.bootstrap import Bootstrap, Watch
from federation.tor.process import OwnSocks, held, prepare, tor_child, write_client_key
from federation.tor.settings import TorSettings
from federation.tor.socks import SocksAddress
from tests.fake_control import OK, FakeControl

ONION = "25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkenl5sid.onion"  # of Tor's specification
PHASE = "GETINFO status/bootstrap-phase"


def phase(percent: int, tag: str) -> str:
    """What a tor says about its bootstrap."""
    line = f'NOTICE BOOTSTRAP PROGRESS={percent} TAG={tag} SUMMARY="Step {tag}"'
    return f"250-status/bootstrap-phase={line}\r\n{OK}"


def child(folder: Path, told: list[Bootstrap], **settings: object) -> Child:
    """The tor of `folder` for a supervisor."""
    made = TorSettings.model_validate(settings)
    program = folder / "tor"
    return tor_child(folder, program, made, log_path=folder / "log", on_progress=told.append)


def ready(made: Child) -> bool:
    """What the child's probe says."""
    assert made.ready is not None
    return made.ready()


def test_a_child_is_ready_at_100_percent_and_tells_each_step_once(tmp_path: Path) -> None:
    told: list[Bootstrap] = []
    made = child(tmp_path, told)
    assert not ready(made)
    with FakeControl(tmp_path, {PHASE: phase(10, "conn")}) as tor:
        assert not ready(made)
        assert not ready(made)
        tor.answers[PHASE] = phase(100, "done")
        assert ready(made)
    assert [(step.percent, step.tag) for step in told] == [(10, "conn"), (100, "done")]


def test_a_tor_that_hangs_blocks_its_supervisor_for_no_more_than_a_moment(tmp_path: Path) -> None:
    made = child(tmp_path, [])
    with FakeControl(tmp_path, {PHASE: ""}):
        began = time.monotonic()
        assert not ready(made)
        assert time.monotonic() - began < 30.0


def test_the_first_start_is_an_error_when_it_takes_too_long() -> None:
    now = [0.0]
    watch = Watch(60.0, clock=lambda: now[0])
    assert not watch.note(None)
    assert not watch.note(Bootstrap(10, "conn", "Connecting", "no", "CLOCK_SKEW"))
    assert not watch.note(Bootstrap(14, "handshake", "Handshaking"))
    now[0] = 61.0
    with pytest.raises(TorError, match=r"61 s.*14 % \(handshake\): Handshaking") as stuck:
        watch.note(None)
    assert "clock" in stuck.value.hint  # it was wrong at an earlier step, and still is


def test_a_tor_that_never_answered_stands_at_0_percent() -> None:
    now = [0.0]
    watch = Watch(60.0, clock=lambda: now[0])
    watch.note(None)
    now[0] = 61.0
    with pytest.raises(TorError, match=r"at 0 %\."):
        watch.note(None)


def test_a_later_start_is_left_to_the_supervisor() -> None:
    now = [0.0]
    watch = Watch(60.0, clock=lambda: now[0])
    assert watch.note(Bootstrap(100))
    now[0] = 1000.0
    assert not watch.note(None)
    now[0] = 5000.0
    assert not watch.note(Bootstrap(5))


def test_a_torrc_that_tor_refuses_is_not_tried_again(tmp_path: Path) -> None:
    made = child(tmp_path, [])
    assert made.judge is not None
    tail = "[warn] Failed to parse/validate config: Unknown option 'Foo'.  Failing.\n[err] Reading"
    stop = made.judge(made, tail)
    assert stop is not None
    assert stop.kind is TorError
    assert "Unknown option 'Foo'" in stop.reason
    assert made.judge(made, "[notice] Catching signal TERM, exiting cleanly.") is None


def test_a_child_inherits_no_proxy_and_no_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://192.0.2.1:1080")
    made = child(tmp_path, [])
    assert "PATH" in made.env
    assert not {"ALL_PROXY", "HOME", "CONSCIENCE_HOME"} & set(made.env)


def test_a_folder_is_held_by_one_command_at_a_time(tmp_path: Path) -> None:
    with (
        held(tmp_path),
        pytest.raises(ConscienceError, match="Another command"),
        held(tmp_path, timeout_s=0.0),
    ):
        pytest.fail("two commands hold it")


def test_what_a_tor_reads_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "tor"
    folder.mkdir(mode=0o755)
    prepare(folder, "SafeLogging 1\n", TorSettings())
    write_client_key(folder, ONION, "A" * 52)
    for name in ("", "data", "auth"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o700
    for name in ("torrc", "auth/server.auth_private"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_a_file_that_the_settings_name_must_be_there(tmp_path: Path) -> None:
    bridge = f"obfs4 192.0.2.1:443 cert={'x' * 70} iat-mode=0"
    missing = str(tmp_path / "missing")
    for settings in (
        TorSettings(torrc=missing),
        TorSettings(bridges=(bridge,), transports={"obfs4": missing}),
    ):
        with pytest.raises(ConfigError, match="missing"):
            prepare(tmp_path / "tor", "", settings)


def test_the_port_of_a_tor_that_was_killed_is_not_asked_again(tmp_path: Path) -> None:
    with FakeControl(tmp_path, cookie=b"x" * 32):  # somebody else has it by now
        prepare(tmp_path, "", TorSettings())
    assert not (tmp_path / "control_port").exists()


def test_the_socks_port_is_asked_for_once_a_start(tmp_path: Path) -> None:
    question = "GETINFO net/listeners/socks"
    socks = OwnSocks(tmp_path)
    with pytest.raises(TorError, match="not running"):
        socks()
    for port in (1111, 2222):
        reply = f'250-net/listeners/socks="127.0.0.1:{port}"\r\n{OK}'
        with FakeControl(tmp_path, {question: reply}) as tor:
            expected = SocksAddress("127.0.0.1", port, is_extended=True)
            assert socks() == expected
            assert socks() == expected
            assert tor.asked.count(question) == 1
