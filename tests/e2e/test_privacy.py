"""What leaves a node, seen from outside: canaries in the traffic, and where connections go."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from town import Town

from tests.e2e.conftest import SETTINGS, rows_of
from tests.e2e.listener import Listener

pytestmark = [pytest.mark.privacy, pytest.mark.security, pytest.mark.timeout(600)]
CANARIES = {
    "corpus": "CANARY-corpus-4d1f-marmolejo",
    "memory": "CANARY-memory-8b72-tejavana",
    "config": "CANARY-config-19ce-albacora",
    "environment": "CANARY-environ-77aa-quejigo",
}
ADDRESS = re.compile(
    r'sa_family=AF_INET6?,.*?(?:inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)")'
)


@pytest.fixture
def quiet_town(tmp_path: Path) -> Iterator[Town]:
    """A server alone; the test brings its own nodes."""
    made = Town(tmp_path)
    try:
        made.start_server("--base", "semilla", "--quorum", "1")
        yield made
    finally:
        made.stop()


def test_canaries_are_in_no_package_and_in_no_request_body(
    quiet_town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", CANARIES["environment"])
    town = quiet_town
    tls = town.server / "tls"
    running = json.loads((town.server / "running.json").read_text(encoding="utf-8"))
    port = int(running["gateway"].rpartition(":")[2])
    home = town.root / CANARIES["environment"].lower()
    rows = rows_of("luna")
    rows[0] = {**rows[0], "text": f"{CANARIES['corpus']} {rows[0]['text']}"}
    (home / "memory").mkdir(parents=True)
    (home / "memory" / "memory.jsonl").write_text(CANARIES["memory"], encoding="utf-8")
    with Listener(port, *_certificate(tls)) as listener:
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
    assert report["outcome"]["merged"], report
    with zipfile.ZipFile(BytesIO(package)) as archive:
        tensors = archive.read("adapter_model.safetensors")
    sent = bytes(listener.sent)
    assert len(sent) > len(tensors)
    assert tensors[20_000:24_000] in sent, "the listener did not hear the package"
    for name, canary in CANARIES.items():
        for form in (canary, canary.lower()):
            assert form.encode() not in sent, name
            assert form.encode() not in package, name


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_a_whole_round_connects_to_loopback_only(tmp_path: Path) -> None:
    log = tmp_path / "connects"
    log.mkdir()
    options = ("-D", "-f", "-ff", "-qq", "--seccomp-bpf", "-e", "trace=connect")
    town = Town(tmp_path / "town", wrap=("strace", *options, "-o", str(log / "trace")))
    try:
        town.start_server("--base", "semilla", "--quorum", "1")
        town.join("luna", rows_of("luna"), SETTINGS)
        town.volunteer("luna", "contribute")
        report = town.round()
    finally:
        town.stop()
    assert report["outcome"]["merged"], report
    lines = [
        line for path in log.iterdir() for line in path.read_text(errors="replace").splitlines()
    ]
    found = [match[1] or match[2] for line in lines if (match := ADDRESS.search(line))]
    assert len(found) > 20, "the tracer saw no connections"
    elsewhere = {address for address in found if not _is_loopback(address)}
    assert elsewhere == set()


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address in ("::1", "::ffff:127.0.0.1")


def _certificate(tls: Path) -> tuple[Path, Path]:
    from server.ca import TlsFiles

    files = TlsFiles(tls)
    return files.certificate, files.key
