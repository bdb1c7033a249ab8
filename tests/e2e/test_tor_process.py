"""Our own tor processes on a private network: start, share, restart, get stuck, load keys."""

from __future__ import annotations

import asyncio
import os
import shutil
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tor_network import PrivateTor
from tor_process import TorProcess

from federation.errors import ConfigError, TorError
from federation.processes import Supervisor, free_port
from federation.tor.bootstrap import Bootstrap
from federation.tor.control import open_control
from federation.tor.keys import new_client_key
from federation.tor.process import OwnSocks, OwnTor, held, prepare, tor_child
from federation.tor.settings import TorSettings
from federation.tor.socks import SocksAddress, SocksError, dial
from federation.tor.torrc import client_torrc

pytestmark = pytest.mark.tor
LIMIT_S = 60.0
PORT = 443
MISSING_KEY, WRONG_KEY = 0xF4, 0xF5


@pytest.fixture(scope="module")
def backend() -> Iterator[int]:
    """A port that says "hello" to whoever connects."""

    class Hello(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"hello")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Hello) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def service(tor_network: PrivateTor) -> TorProcess:
    """The tor whose onions the tests visit."""
    return tor_network.service("processes")


@pytest.fixture(scope="module")
def onion(service: TorProcess, backend: int) -> str:
    """An onion that is open to everybody."""
    return service.publish({PORT: backend}).host


@pytest.fixture
def settings(tor_network: PrivateTor) -> TorSettings:
    """Of a node in the private network."""
    return TorSettings(mode="own", torrc=str(tor_network.torrc_file), start_s=LIMIT_S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a node's tor lives; an awkward name, as users have them."""
    return tmp_path / 'my "first" node #1' / "tor"


def greeting(socks: SocksAddress, host: str) -> bytes:
    """What the backend behind `host` says."""

    async def visit() -> bytes:
        reader, writer = await dial(socks, host, PORT, timeout_s=LIMIT_S)
        said = await reader.read()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return said

    return asyncio.run(visit())


def refusal(socks: SocksAddress, host: str) -> int | None:
    """The code with which tor refuses to connect to `host`."""
    with pytest.raises(SocksError) as refused:
        greeting(socks, host)
    return refused.value.code


def pid_of(folder: Path) -> int:
    """The process of the tor that runs in `folder`."""
    with open_control(folder) as control:
        return int(control.info("process/pid"))


def bytes_read(folder: Path) -> int:
    """What the tor that runs in `folder` has read from the network so far."""
    with open_control(folder) as control:
        return int(control.info("traffic/read"))


def test_a_tor_of_ours_starts_tells_its_progress_and_reaches_an_onion(
    folder: Path, settings: TorSettings, onion: str
) -> None:
    steps: list[Bootstrap] = []
    with OwnTor(folder, settings, on_progress=steps.append) as own:
        assert greeting(own.socks(), onion) == b"hello"
        pid = pid_of(folder)
    assert steps[-1] == Bootstrap(100, "done", "Done")
    assert [step.percent for step in steps] == sorted(step.percent for step in steps)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert {path.stat().st_mode & 0o077 for path in folder.rglob("*") if path.is_file()} == {0}


def test_the_second_start_on_the_same_folder_fetches_no_directory_again(
    folder: Path, settings: TorSettings
) -> None:
    with OwnTor(folder, settings):
        first = pid_of(folder)
        fetched = [bytes_read(folder)]
    assert (folder / "data" / "cached-microdesc-consensus").exists()
    with OwnTor(folder, settings):
        fetched.append(bytes_read(folder))
        assert pid_of(folder) != first
    assert fetched[1] < fetched[0] / 2


def test_a_tor_that_runs_already_is_shared_and_outlives_its_guest(
    folder: Path, settings: TorSettings, onion: str
) -> None:
    with OwnTor(folder, settings) as host:
        running = pid_of(folder)
        with OwnTor(folder, settings, keys={onion: new_client_key().private}) as guest:
            assert guest.socks() == host.socks()
            with open_control(folder) as control:
                assert control.has_client_key(onion)
        assert pid_of(folder) == running
        assert greeting(host.socks(), onion) == b"hello"


def test_a_killed_tor_is_started_again_on_another_port(
    folder: Path, settings: TorSettings, onion: str
) -> None:
    with held(folder):
        prepare(folder, client_torrc(folder, settings), settings)
        program = Path(shutil.which("tor") or "")
        supervisor = Supervisor([tor_child(folder, program, settings, log_path=folder / "log")])
        socks = OwnSocks(folder)
        try:
            supervisor.start()
            before, killed = socks(), supervisor.pid("tor")
            os.kill(killed or 0, 9)
            deadline = time.monotonic() + LIMIT_S
            while not is_back(folder, killed):
                assert time.monotonic() < deadline, supervisor.tail("tor")
                supervisor.tick()
                time.sleep(0.05)
            assert supervisor.restarts("tor") == 1
            assert socks() != before
            assert greeting(socks(), onion) == b"hello"
        finally:
            supervisor.stop()
    with pytest.raises(TorError):
        pid_of(folder)


def is_back(folder: Path, killed: int | None) -> bool:
    """Whether another tor than the one that was killed can be used."""
    try:
        with open_control(folder) as control:
            is_another = int(control.info("process/pid")) != killed
            return is_another and control.bootstrap().is_ready
    except TorError:
        return False


def test_a_tor_left_behind_by_a_killed_supervisor_is_ended_first(
    folder: Path, settings: TorSettings
) -> None:
    prepare(folder, client_torrc(folder, settings), settings)
    command = ["tor", "--defaults-torrc", "/dev/null", "-f", str(folder / "torrc")]
    left = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        open_control(folder, timeout_s=LIMIT_S).close()
        with OwnTor(folder, settings):
            assert left.wait(timeout=LIMIT_S) == 0
            assert pid_of(folder) != left.pid
    finally:
        left.kill()
        left.wait()


def test_a_tor_that_reaches_nobody_is_an_error_in_time_that_says_how_far_it_came(
    folder: Path, tmp_path: Path
) -> None:
    lines = tmp_path / "nowhere.torrc"
    fingerprint = "A" * 40
    lines.write_text(
        "TestingTorNetwork 1\n"
        f"DirAuthority nobody orport={free_port()} no-v2 v3ident={fingerprint} "
        f"127.0.0.1:{free_port()} {fingerprint}\n",
        encoding="utf-8",
    )
    with (
        pytest.raises(TorError, match=r"not ready after \d+ s; it stands at \d+ % \((conn|start)"),
        OwnTor(folder, TorSettings(torrc=str(lines), start_s=5.0)),
    ):
        pytest.fail("it reached somebody")
    with pytest.raises(TorError, match="not running"):
        OwnSocks(folder)()


def test_settings_that_tor_refuses_are_an_error_with_its_own_words(
    folder: Path, tmp_path: Path
) -> None:
    lines = tmp_path / "wrong.torrc"
    lines.write_text("NoSuchOption 1\n", encoding="utf-8")
    with (
        pytest.raises(TorError, match="NoSuchOption"),
        OwnTor(folder, TorSettings(torrc=str(lines), start_s=LIMIT_S)),
    ):
        pytest.fail("tor took it")


def test_a_wrong_bridge_line_starts_nothing(folder: Path, settings: TorSettings) -> None:
    wrong = settings.model_copy(update={"bridges": ("obfs4 192.0.2.1:443 nonsense",)})
    with pytest.raises(ConfigError, match="nonsense"), OwnTor(folder, wrong):
        pytest.fail("it was ignored")
    assert not (folder / "torrc").exists()
    assert not (folder / "data").exists()


def test_a_transport_with_an_awkward_path_is_run_and_nothing_goes_around_it(
    folder: Path, tmp_path: Path, settings: TorSettings
) -> None:
    program, trace = tmp_path / "my transport #2", tmp_path / "trace"
    program.write_text(f'#!/bin/sh\necho "$TOR_PT_CLIENT_TRANSPORTS" > "{trace}"\nexit 1\n')
    program.chmod(0o700)
    bridge = f"obfs4 127.0.0.1:9 {'A' * 40} cert={'x' * 70} iat-mode=0"
    behind = settings.model_copy(
        update={"bridges": (bridge,), "transports": {"obfs4": str(program)}, "start_s": 4.0}
    )
    with pytest.raises(TorError, match="not ready"), OwnTor(folder, behind):
        pytest.fail("it went around its bridge")
    assert trace.read_text(encoding="utf-8").strip() == "obfs4"


def test_a_client_key_in_its_folder_opens_the_onion(
    folder: Path, settings: TorSettings, service: TorProcess, backend: int
) -> None:
    key, other = new_client_key(), new_client_key()
    host = service.publish({PORT: backend}, client_keys=[key.public]).host
    with OwnTor(folder, settings) as own:
        assert refusal(own.socks(), host) == MISSING_KEY
    with OwnTor(folder, settings, keys={host: other.private}) as own:
        assert refusal(own.socks(), host) == WRONG_KEY
    with OwnTor(folder, settings, keys={host: key.private}) as own:
        assert greeting(own.socks(), host) == b"hello"


def test_a_client_key_is_given_to_a_running_tor_and_taken_back(
    folder: Path, settings: TorSettings, service: TorProcess, backend: int
) -> None:
    key = new_client_key()
    host = service.publish({PORT: backend}, client_keys=[key.public]).host
    with OwnTor(folder, settings) as own, open_control(folder) as control:
        control.add_client_key(host, key.private)
        assert greeting(own.socks(), host) == b"hello"
        control.remove_client_key(host)
        control.newnym()  # else the descriptor that was read is used again
        assert refusal(own.socks(), host) == MISSING_KEY


def test_an_onion_of_ours_lets_in_its_two_keys_and_nobody_else(
    folder: Path, settings: TorSettings, service: TorProcess, backend: int
) -> None:
    first, second, stranger = (new_client_key() for _each in range(3))
    with open_control(service.folder) as control:
        # the address is known only with the answer: whatever is uploaded by now is this one's
        host = control.add_onion(PORT, f"127.0.0.1:{backend}", [first.public, second.public])
        with control.uploads(host) as uploads:
            assert uploads.wait(LIMIT_S) >= 4
        for key in (first, second):
            with OwnTor(folder, settings, keys={host: key.private}) as own:
                assert greeting(own.socks(), host) == b"hello"
        with OwnTor(folder, settings, keys={host: stranger.private}) as own:
            assert refusal(own.socks(), host) == WRONG_KEY
        control.remove_onion(host)
