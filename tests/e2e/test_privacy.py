"""What leaves a node, seen from outside: canaries in the traffic, and where connections go.

One round, watched twice at once: a relay writes down what the node sends, and where strace is
installed it writes down every connect() of every process.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from town import Town

from server.ca import TlsFiles
from tests.e2e.conftest import SETTINGS, rows_of
from tests.e2e.listener import Listener

pytestmark = [pytest.mark.privacy, pytest.mark.security, pytest.mark.timeout(600)]
CANARIES = {
    "corpus": "CANARY-corpus-4d1f-marmolejo",
    "memory": "CANARY-memory-8b72-tejavana",
    "config": "CANARY-config-19ce-albacora",
    "environment": "CANARY-environ-77aa-quejigo",
}
STRACE = ("strace", "-D", "-f", "-ff", "-qq", "--seccomp-bpf", "-e", "trace=connect", "-o")
ADDRESS = re.compile(
    r'sa_family=AF_INET6?,.*?(?:inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)")'
)


@dataclass(frozen=True)
class Watched:
    """One round of one node: its package, what it sent, whom every process called."""

    package: bytes
    sent: bytes
    called: tuple[str, ...]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """Run it, with a canary in everything that must not leave."""
    place = tmp_path_factory.mktemp("watched")
    connects = place / "connects"
    connects.mkdir()
    wrap = (*STRACE, str(connects / "trace")) if shutil.which("strace") else ()
    town = Town(place / "town", wrap=wrap)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CANARY", CANARIES["environment"])
        try:
            town.start_server("--base", "semilla", "--quorum", "1")
            package, sent, report = _listen_to_a_round(town)
        finally:
            town.stop()
    assert report["outcome"]["merged"], report
    return Watched(package, sent, tuple(_called(connects)))


def test_h19_canaries_are_in_no_package_and_in_no_request_body(watched: Watched) -> None:
    with zipfile.ZipFile(BytesIO(watched.package)) as archive:
        tensors = archive.read("adapter_model.safetensors")
    assert len(watched.sent) > len(tensors)
    assert tensors[20_000:24_000] in watched.sent, "the listener did not hear the package"
    for name, canary in CANARIES.items():
        for form in (canary, canary.lower()):
            assert form.encode() not in watched.sent, name
            assert form.encode() not in watched.package, name


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_h27_a_whole_round_connects_to_loopback_only(watched: Watched) -> None:
    assert len(watched.called) > 20, "the tracer saw no connections"
    elsewhere = {address for address in watched.called if not _is_loopback(address)}
    assert elsewhere == set()


def _listen_to_a_round(town: Town) -> tuple[bytes, bytes, dict[str, Any]]:
    """The node's package, the bytes it sent, and the round's report."""
    tls = TlsFiles(town.server / "tls")
    running = json.loads((town.server / "running.json").read_text(encoding="utf-8"))
    port = int(running["gateway"].rpartition(":")[2])
    home = town.root / CANARIES["environment"].lower()
    rows = rows_of("luna")
    rows[0] = {**rows[0], "text": f"{CANARIES['corpus']} {rows[0]['text']}"}
    (home / "memory").mkdir(parents=True)
    (home / "memory" / "memory.jsonl").write_text(CANARIES["memory"], encoding="utf-8")
    with Listener(port, tls.certificate, tls.key) as listener:
        settings = SETTINGS | {
            "node_id": CANARIES["config"],
            "server_url": f"https://127.0.0.1:{listener.port}",
        }
        town.join(home.name, rows, settings)
        town.volunteer(home.name, "contribute")
        (path,) = (home / "outbox").glob("*.zip")
        package = path.read_bytes()
        report = town.round()
        town.stop(home.name)
    return package, bytes(listener.sent), report


def _called(connects: Path) -> Iterator[str]:
    for path in connects.iterdir():
        for line in path.read_text(errors="replace").splitlines():
            if match := ADDRESS.search(line):
                yield match[1] or match[2]


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address in ("::1", "::ffff:127.0.0.1")
