"""`flower-client tor check` and `tor bench` against real onions: each failure, made for real.

The node uses a tor of its own, the gateway is the product's; only the SuperLink behind it is ours.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tor_network import HOST, PrivateTor

from client import clock, keys
from client.cli import run
from client.config import NodeConfig, NodeHome, load_config
from client.tor_check import Ears, check
from federation import durable, settings
from federation.processes import free_port
from federation.tor.diagnosis import Finding, exit_code
from federation.tor.keys import new_client_key
from server import ca
from server.ca import TlsFiles
from server.config import ServerHome, save_config
from server.config import load_config as load_server
from server.nodes import Nodes
from server.serve import answers
from tests.adapter_samples import make_spec
from tests.gateway_bench import Upstream, admit, serving
from tests.global_samples import Chain, joined_home
from tests.onion_home import move
from tests.server_home import NodeKeys

KEY = new_client_key()
STUCK_S = 4.0
pytestmark = pytest.mark.tor


@dataclass
class Server:
    """A gateway behind an onion that lets in who has `KEY`."""

    home: ServerHome
    upstream: Upstream
    onion: str

    @property
    def certificate(self) -> str:
        return TlsFiles(self.home.tls).ca_certificate.read_text(encoding="ascii")


@pytest.fixture(scope="module")
def server(tor_network: PrivateTor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("gateway")) as (home, upstream), gateway(home) as port:
        onion = tor_network.service("gateway").publish({443: port}, client_keys=[KEY.public])
        yield Server(home, upstream, onion.host)


@contextmanager
def gateway(home: ServerHome) -> Iterator[int]:
    """The product's gateway, as a process of its own; yields its port."""
    port = free_port()
    save_config(home, load_server(home).model_copy(update={"gateway_port": port}))
    command = [sys.executable, "-P", "-m", "server.gateway", "--home", str(home.root)]
    with subprocess.Popen(command) as process:
        try:
            while not answers(TlsFiles(home.tls), port):
                assert process.poll() is None
            yield port
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def joined(
    server: Server, tor_network: PrivateTor, tmp_path_factory: pytest.TempPathFactory
) -> NodeHome:
    """A node that the server admitted; its tor keeps what it learns from test to test."""
    home = joined_home(tmp_path_factory.mktemp("node"), Chain(make_spec()))
    mine = keys.load_or_create(home.keys)
    admit(Nodes(server.home.nodes_db), "ana", NodeKeys(mine.supernode_public, b"", mine.signing))
    return home


@pytest.fixture
def home(joined: NodeHome, server: Server, tor_network: PrivateTor) -> NodeHome:
    """That node, as it should be."""
    configure(joined, mode="own", torrc=str(tor_network.torrc_file))
    at(joined, server.onion)
    durable.write_text(joined.ca, server.certificate)
    server.upstream.status = 200
    return joined


def configure(home: NodeHome, **tor: object) -> None:
    settings.save(NodeConfig.model_validate({"start_jitter_s": 0, "tor": tor}), home.config)


def at(home: NodeHome, onion: str, private: str = KEY.private) -> None:
    """Let the node's server be at `onion`."""
    move(home, f"{onion}:443")
    keys.keep_onion_key(home.onion_key, onion, private)


def look(home: NodeHome, **how: object) -> tuple[Finding, ...]:
    return check(home, load_config(home)[0], Ears(), **how)  # type: ignore[arg-type]


def failing(home: NodeHome, **how: object) -> Finding:
    """The one leg that fails; all before it that could be asked are good."""
    findings = look(home, **how)
    (failed,) = [finding for finding in findings if finding.state == "failed"]
    assert failed.sentence
    return failed


def test_a_good_way_has_nine_good_legs_and_status_0(
    home: NodeHome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["tor", "check", "--home", str(home.root), "--retry", "2"]) == 0
    assert capsys.readouterr().out.count("ok  ") == 9


def test_tor_absent(home: NodeHome) -> None:
    configure(home, mode="own", program="/nowhere/tor")
    assert exit_code(look(home)) == 81


def test_the_socks_port_closed(home: NodeHome) -> None:
    configure(home, mode="address", socks=f"{HOST}:{free_port()}")
    assert exit_code(look(home)) == 82


def test_tor_stuck(home: NodeHome, tmp_path: Path, tor_network: PrivateTor) -> None:
    """A tor that knows of no network but one whose directories are all gone."""
    lines = re.sub(rf"(orport=|{HOST}:)\d+", r"\g<1>9", tor_network.torrc_lines())
    torrc = tmp_path / "nowhere.torrc"
    torrc.write_text(lines, encoding="utf-8")
    shutil.rmtree(home.tor)
    configure(home, mode="own", torrc=str(torrc), start_s=STUCK_S)
    findings = look(home)
    assert exit_code(findings) == 83
    assert "%" in findings[2].sentence


def test_no_descriptor(home: NodeHome) -> None:
    at(home, nobodys_onion())
    assert exit_code(look(home)) == 84


def test_the_service_down(home: NodeHome, tor_network: PrivateTor) -> None:
    """Published, visited once, and killed: its descriptor is still there."""
    with tor_network.service("short") as service:
        onion = service.publish({443: free_port()}, client_keys=[KEY.public])
        at(home, onion.host)
        assert failing(home).leg == "gateway", "it is there, with nothing behind it"
        service.kill()
    assert failing(home, retries=3, sleep=lambda _s: None).leg == "descriptor"


@pytest.mark.parametrize("is_there", [False, True])
def test_the_key_missing_or_wrong(home: NodeHome, is_there: bool) -> None:
    if is_there:
        keys.keep_onion_key(home.onion_key, onion_of(home), new_client_key().private)
    else:
        home.onion_key.unlink()
        shutil.rmtree(home.tor / "auth", ignore_errors=True)
    findings = look(home, retries=3)
    assert exit_code(findings) == 85
    assert findings[3].state == "ok"
    words = "does not accept" if is_there else "is not loaded"
    assert words in findings[4].sentence


def test_a_wrong_certificate(home: NodeHome, tmp_path: Path) -> None:
    other = ca.create(tmp_path / "tls", name="other", addresses=[], now=datetime.now(UTC))
    durable.write_text(home.ca, other.ca_certificate.read_text(encoding="ascii"))
    assert exit_code(look(home)) == 86


def test_the_backend_down(home: NodeHome, tor_network: PrivateTor) -> None:
    with tor_network.service("empty") as service:
        at(home, service.publish({443: free_port()}, client_keys=[KEY.public]).host)
        assert exit_code(look(home)) == 87


def test_the_superlink_down(home: NodeHome, server: Server) -> None:
    server.upstream.status = 503
    findings = look(home)
    assert exit_code(findings) == 87
    assert "503" in findings[6].sentence


def test_a_skewed_clock(home: NodeHome) -> None:
    assert exit_code(look(home, now=lambda: clock.utc_now() - timedelta(hours=7))) == 89


def test_the_way_is_measured(
    home: NodeHome, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["tor", "bench", "--json", "--home", str(home.root)]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["through_tor"] is True
    assert figures["first_byte_p50_ms"] <= figures["first_byte_p95_ms"]
    assert all(rate > 0 for each in figures["rates_kib_s"].values() for rate in each.values())
    folder = Path(figures["folder"])
    assert folder.parent == home.runs / "tor_bench"
    assert (folder / "bench.png").read_bytes().startswith(b"\x89PNG")
    kept = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    assert kept["sentence"] == figures["sentence"]
    assert server.onion[:16] not in json.dumps(figures)
    (row,) = Nodes(server.home.nodes_db).all()
    assert row.bytes_up > 4 * 2**20


def test_a_banned_node(home: NodeHome, server: Server) -> None:
    """The last test: a ban is for good."""
    Nodes(server.home.nodes_db).ban("ana")
    assert exit_code(look(home)) == 88
    assert run(["tor", "bench", "--home", str(home.root)]) == 42


def onion_of(home: NodeHome) -> str:
    content = json.loads(home.federation.read_text(encoding="utf-8"))
    return str(content["address"]).partition(":")[0]


def nobodys_onion() -> str:
    """A right address that nobody ever published."""
    public = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    checksum = hashlib.sha3_256(b".onion checksum" + public + b"\x03").digest()[:2]
    return base64.b32encode(public + checksum + b"\x03").decode("ascii").lower() + ".onion"
