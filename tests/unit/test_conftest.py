"""The ground of all tests holds: homes are temporary, the network ends at this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "example.org"])
@pytest.mark.parametrize("method", ["connect", "connect_ex"])
def test_no_test_can_leave_this_machine(host: str, method: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.socket(family, socket.SOCK_STREAM) as outward,
        pytest.raises(pytest.fail.Exception, match="only loopback"),
    ):
        getattr(outward, method)((host, 9))


def test_loopback_can_be_reached() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        assert client.getpeername() == server.getsockname()


def test_every_home_is_in_the_temporary_folder(tmp_path: Path) -> None:
    for name in ("HOME", "CONSCIENCE_HOME", "CONSCIENCE_SERVER_HOME", "FLWR_HOME", "HF_HOME"):
        assert tmp_path in Path(os.environ[name]).parents


def test_settings_proxies_and_language_of_the_user_are_gone() -> None:
    left = [
        name
        for name in os.environ
        if name.upper().endswith("_PROXY")
        or name in ("LANG", "LC_ALL")
        or (name.startswith("CONSCIENCE_") and not name.endswith("HOME"))
    ]
    assert left == []


def test_a_run_that_is_terminated_ends_what_its_tests_have_started(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pathlib, pytest, time\n"
        "here = pathlib.Path(__file__).parent\n"
        "@pytest.fixture\n"
        "def started():\n"
        "    (here / 'started').touch()\n"
        "    yield\n"
        "    (here / 'ended').touch()\n"
        "def test_long(started):\n"
        "    time.sleep(60)\n"
    )
    root = Path(__file__).parents[2]
    options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-c", os.devnull]
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, "--rootdir", str(tmp_path), str(tmp_path)],
        stdout=subprocess.DEVNULL,
        cwd=root,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(root / "scripts")])},
    ) as run:
        deadline = time.monotonic() + 60
        while not (tmp_path / "started").exists():
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        run.terminate()
        assert run.wait(30) == pytest.ExitCode.INTERRUPTED
    assert (tmp_path / "ended").exists()
