"""What leaves a node, seen from outside, over a way that loses answers as Tor's may.

One round, watched twice at once: a relay writes down what the node sends, and where strace is
installed it writes down every connect() of every process. The relay also breaks connections after a
request has arrived and before its answer is back, so that whatever is sent again is seen as well.
"""

from __future__ import annotations

import json
import platform
import re
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from town import Town

from server.ca import TlsFiles
from tests import strace_log
from tests.e2e.conftest import SETTINGS, rows_of, settle
from tests.e2e.listener import Listener

pytestmark = pytest.mark.timeout(600)
PUSH_SESSION_S = 180.0  # flwr.supercore.constant.OBJECT_PUSH_SESSION_TTL_SECONDS
METHODS = ("pull-messages", "push-messages", "push-object", "confirm-message-received")
CANARIES = {
    "corpus": "CANARY-corpus-4d1f-marmolejo",
    "memory": "CANARY-memory-8b72-tejavana",
    "config": "CANARY-config-19ce-albacora",
    "environment": "CANARY-environ-77aa-quejigo",
}
REQUEST = re.compile(rb"(?:GET|POST) (/\S*) HTTP/1\.1\r\n((?:[\w-]+: [^\r\n]*\r\n)+)\r\n")
NAMES = {"accept", "accept-encoding", "connection", "host", "user-agent"}
OF_A_BODY = {"content-length", "content-type"}
OF_FLOWER = {"flwr-component-name", "flwr-package-name", "flwr-package-version"}
OF_A_KEY = {"flwr-public-key", "flwr-signature", "flwr-timestamp"}
SHORTEST_FACT = 5  # shorter ones turn up in any megabyte of weights


@dataclass(frozen=True)
class Watched:
    """One round of one node.

    Attributes:
        package: the node's.
        sent: all bytes that it sent.
        lost: methods whose answers did not come back.
        called: whom every process called, the server's too.
        report: of the round.
    """

    package: bytes
    sent: bytes
    lost: tuple[str, ...]
    called: tuple[strace_log.Attempt, ...]
    report: dict[str, Any]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """Run it, with a canary in everything that must not leave."""
    place = tmp_path_factory.mktemp("watched")
    trace = place / "trace"
    wrap = strace_log.wrap(trace) if strace_log.is_installed() else ()
    town = Town(place / "town", wrap=wrap)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CANARY", CANARIES["environment"])
        try:
            settle(town, quorum=1)
            package, listener, report = _listen_to_a_round(town)
        finally:
            town.stop()
    assert report["outcome"]["merged"], report
    called = tuple(strace_log.read(trace))
    return Watched(package, bytes(listener.sent), tuple(listener.lost), called, report)


@pytest.mark.privacy
@pytest.mark.security
def test_h19_canaries_are_in_no_package_and_in_no_request_body(watched: Watched) -> None:
    with zipfile.ZipFile(BytesIO(watched.package)) as archive:
        tensors = archive.read("adapter_model.safetensors")
    assert len(watched.sent) > len(tensors)
    assert tensors[20_000:24_000] in watched.sent, "the listener did not hear the package"
    for name, canary in CANARIES.items():
        for form in (canary, canary.lower()):
            assert form.encode() not in watched.sent, name
            assert form.encode() not in watched.package, name


@pytest.mark.privacy
@pytest.mark.security
def test_no_request_says_more_than_it_needs(watched: Watched) -> None:
    """The names of all headers, by route; a new one must be looked at by somebody."""
    seen = dict[str, set[str]]()
    for path, headers in REQUEST.findall(watched.sent):
        names = {line.partition(b":")[0].decode().lower() for line in headers.splitlines()}
        kind = path.decode().split("/")[1]
        seen[kind] = seen.get(kind, set()) | names
    assert seen == {
        "health": NAMES,
        "enrol": NAMES | OF_A_BODY,
        "v1": NAMES | OF_A_BODY | OF_FLOWER | OF_A_KEY,
    }


@pytest.mark.privacy
@pytest.mark.security
def test_no_fact_about_the_machine_is_in_what_it_sends(watched: Watched) -> None:
    facts = {platform.node(), platform.machine(), platform.release(), platform.version()}
    facts |= {platform.platform(), platform.python_version(), *_processors()}
    told = [fact for fact in facts if len(fact) >= SHORTEST_FACT]
    assert len(told) >= 3
    sent = watched.sent.lower()
    assert [fact for fact in told if fact.lower().encode() in sent] == []


def test_no_answer_that_is_lost_costs_a_node_its_round(watched: Watched) -> None:
    """Each of them, at the first message and its reply, and again at the package itself."""
    assert sorted(watched.lost) == sorted([*METHODS, *METHODS])
    assert watched.report["lost"] == []
    assert watched.report["version_after"] == 1, watched.report["outcome"]
    waited_s = watched.report["seconds"]["hello"] + watched.report["seconds"]["collect"]
    assert waited_s < PUSH_SESSION_S, "Flower waited for objects that nobody sent"


@pytest.mark.privacy
@pytest.mark.security
@pytest.mark.skipif(not strace_log.is_installed(), reason="needs strace")
def test_h27_a_whole_round_connects_to_loopback_only(watched: Watched) -> None:
    assert len(watched.called) > 20, "the tracer saw no connections"
    assert strace_log.leaks(watched.called) == []


def _listen_to_a_round(town: Town) -> tuple[bytes, Listener, dict[str, Any]]:
    """The node's package, who heard what it sent, and the round's report."""
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
        listener.lose_answers_to(*METHODS, *METHODS)
        report = town.round()
        town.stop(home.name)
    return package, listener, report


def _processors() -> set[str]:
    """What the kernel calls the machine's processors."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
