"""The chat's own onion on a private network: for whoever has the key, and again after tor died."""

from __future__ import annotations

import http.client
import http.server
import logging
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from tor_network import PrivateTor

from client.chat_onion import PORT, VISITOR, ChatOnion, Visit
from client.config import NodeConfig, NodeHome, write_default
from federation.errors import ConfigError, PermissionsError
from federation.settings import save
from federation.tor.control import open_control
from federation.tor.forwarder import Forwarder, Patience
from federation.tor.keys import key_of, new_client_key
from federation.tor.process import OwnTor
from federation.tor.settings import TorSettings

pytestmark = pytest.mark.tor
LIMIT_S = 60.0
PAGE = b"buenos dias"
MISSING_KEY, WRONG_KEY = 0xF4, 0xF5
LINK = re.compile(r"(http://[a-z2-7]{56}\.onion/)#token=(\S+)")
KEY = re.compile(r"this key: (\S+)")


@pytest.fixture(scope="module")
def chat() -> Iterator[int]:
    """Port of a page that stands for the chat's."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(PAGE)))
            self.end_headers()
            self.wfile.write(PAGE)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def settings(tor_network: PrivateTor) -> TorSettings:
    """Of a node in the private network."""
    return TorSettings(mode="own", torrc=str(tor_network.torrc_file), start_s=LIMIT_S)


def test_the_page_is_there_for_the_key_and_for_nobody_else(
    tmp_path: Path, settings: TorSettings, chat: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    with ChatOnion(tmp_path / "chat", settings, chat, said.append) as onion:
        visit = onion.visit
        host = host_of(visit)
        assert fetch(tmp_path / "guest", settings, host, visit.key) == PAGE
        assert fetch(tmp_path / "stranger", settings, host, new_client_key().private) == WRONG_KEY
        assert fetch(tmp_path / "anybody", settings, host, "") == MISSING_KEY
    told = "\n".join([*said, caplog.text, repr(visit)])
    for secret in (host, host.removesuffix(".onion"), visit.key):
        assert secret not in told
    assert visit.line == f"{host.removesuffix('.onion')}:descriptor:x25519:{visit.key}"


def test_address_and_key_stay_the_same_and_come_back_after_tor_died(
    tmp_path: Path, settings: TorSettings, chat: int
) -> None:
    said: list[str] = []
    folder = tmp_path / "chat"
    with ChatOnion(folder, settings, chat, said.append, look_s=0.5) as onion:
        first = onion.visit
        with open_control(folder / "tor") as control:
            psutil.Process(int(control.info("process/pid"))).send_signal(signal.SIGKILL)
        await_that(lambda: "again" in said[-1])
        assert fetch(tmp_path / "guest", settings, host_of(first), first.key) == PAGE
    assert ChatOnion(folder, settings, chat, said.append).visit == first
    private = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o077 for path in private} == {0}


def test_a_damaged_key_is_refused_before_anything_is_published(tmp_path: Path) -> None:
    def made() -> ChatOnion:
        return ChatOnion(tmp_path, TorSettings(mode="own"), 5180, lambda _line: None)

    whole = made().visit
    path = tmp_path / VISITOR
    path.write_text(key_of(whole.key).public[:-1])
    with pytest.raises(ConfigError, match=VISITOR):
        made()
    path.write_text(whole.key)
    path.chmod(0o644)
    with pytest.raises(PermissionsError):
        made()


def test_the_command_serves_its_own_page_over_tor_and_asks_for_the_token_there_too(
    tmp_path: Path, settings: TorSettings
) -> None:
    home = NodeHome(tmp_path / "node")
    save(NodeConfig(tor=settings), write_default(home))
    command = [sys.executable, "-m", "client", "chat", "--web", "--onion", "--port", "0"]
    with subprocess.Popen(
        [*command, "--home", str(home.root)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        try:
            said = iter(child.stdout.readline, "")
            url, token = next(filter(None, (LINK.search(line) for line in said))).groups()
            key = next(filter(None, (KEY.search(line) for line in said)))[1]
            host = url.removeprefix("http://").rstrip("/")
            with (
                visiting(tmp_path / "guest", settings, host, key) as way,
                httpx.Client(base_url=f"http://{way.address}", timeout=LIMIT_S) as visitor,
            ):
                visitor.headers["Host"] = host
                assert "<title>ConscienceAI</title>" in visitor.get("/").text
                assert visitor.get("/api/settings").status_code == 401
                visitor.headers["Authorization"] = f"Bearer {token}"
                assert visitor.get("/api/settings").status_code == 200
                answer = visitor.post("/api/chat", json={"message": "hola"})
                assert answer.json()["message_id"]
        finally:
            child.terminate()
    assert child.returncode == 0


@contextmanager
def visiting(folder: Path, settings: TorSettings, host: str, key: str) -> Iterator[Forwarder]:
    """The way to `host` of a visitor whose tor has this key."""
    patience = Patience(dial_s=LIMIT_S, silence_s=LIMIT_S)
    with (
        OwnTor(folder / "tor", settings, keys={host: key} if key else {}) as tor,
        Forwarder(tor.socks, host, PORT, purpose="visit", patience=patience) as way,
    ):
        yield way


def fetch(folder: Path, settings: TorSettings, host: str, key: str) -> bytes | int | None:
    """The page, as a visitor's tor with this key gets it; or tor's code of the refusal."""
    with visiting(folder, settings, host, key) as way:
        page = http.client.HTTPConnection(way.address, timeout=LIMIT_S)
        try:
            page.request("GET", "/", headers={"Host": host})
            return page.getresponse().read()
        except (OSError, http.client.HTTPException):
            return way.last.code if way.last else None
        finally:
            page.close()


def host_of(visit: Visit) -> str:
    return visit.url.removeprefix("http://").removesuffix("/")


def await_that(condition: Callable[[], bool], timeout_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
