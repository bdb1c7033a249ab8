"""A node's outbox and a server, either killed after any step, messages lost or doubled.

Nothing is lost, nothing is merged twice, states only move forward, and once the links work every
package gets its verdict.
"""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from client.outbox import Outbox
from federation.adapter.manifest import PackageManifest
from federation.adapter.package import open_package
from federation.adapter.signing import SigningKey
from federation.errors import UsageError
from federation.protocol import Verdict
from tests.adapter_samples import make_sample, make_spec

ORDER = {"waiting": 0, "handed_over": 1, "merged": 2, "refused": 2, "expired": 2}
ROOM = 4
MEMORY = Path("/dev/shm")  # noqa: S108 (a disk in memory, where there is one: syncing is free)


@cache
def packages() -> list[tuple[bytes, PackageManifest]]:
    """A few dozen different packages; made once, for all runs."""
    spec, key = make_spec(layers=1, rank=1, linears={"q_proj": (4, 4)}), SigningKey.generate()
    made = []
    for seed in range(40):
        data = make_sample(spec, key, seed=seed)
        manifest = open_package(data, max_bytes=10**6).manifest
        assert isinstance(manifest, PackageManifest)
        made.append((data, manifest))
    return made


@dataclass
class Server:
    """The server's disk, and its rule that a hash is used once."""

    spool: dict[str, bytes] = field(default_factory=dict)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    merges: list[str] = field(default_factory=list)
    version: int = 0

    def want(self, offers: list[str]) -> str:
        """The first package offered that it has neither judged nor spooled."""
        return next((s for s in offers if s not in self.verdicts and s not in self.spool), "")

    def receive(self, data: bytes) -> None:
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 not in self.verdicts:
            self.spool[sha256] = data

    def close_round(self, refuse: bool) -> None:
        self.version += bool(self.spool) and not refuse
        for sha256 in list(self.spool):
            if refuse:
                verdict = Verdict(sha256=sha256, state="refused", reason="norm: too large")
            else:
                verdict = Verdict(sha256=sha256, state="merged", version=self.version)
                self.merges.append(sha256)
            self.verdicts[sha256] = verdict
            del self.spool[sha256]


class NodeAndServer(RuleBasedStateMachine):
    """Messages are values drawn again at will: late, twice, or never."""

    wanted = Bundle("wanted")
    replies = Bundle("replies")
    verdicts = Bundle("verdicts")

    def __init__(self) -> None:
        super().__init__()
        self.disk = tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
        size = max(len(data) for data, _ in packages())
        self.room = ROOM * size + size // 2
        self.server = Server()
        self.kept: list[str] = []
        self.seen: dict[str, str] = {}
        self.outbox = self.open()

    def open(self) -> Outbox:
        return Outbox(Path(self.disk.name) / "outbox", max_bytes=self.room)

    @rule(count=st.integers(1, 3), feedback=st.booleans())
    def train(self, count: int, feedback: bool) -> None:
        for _ in range(count):
            handed_over = [e for e in self.outbox.entries() if e.state == "handed_over"]
            if len(self.kept) == len(packages()) or len(handed_over) >= ROOM:
                return  # no room: covered by the unit tests
            data, manifest = packages()[len(self.kept)]
            entry = self.outbox.put(data, manifest, feedback=b"lost" if feedback else None)
            self.kept.append(entry.sha256)

    @rule(refuse=st.booleans(), reply_lost=st.booleans(), verdict_lost=st.booleans())
    def night(self, refuse: bool, reply_lost: bool, verdict_lost: bool) -> None:
        """A whole night at once, so that runs of few steps go deep."""
        sha256 = self.hello()
        data = self.collect(sha256) if sha256 else b""
        if data and not reply_lost:
            self.server.receive(data)
        self.server.close_round(refuse)
        if not verdict_lost:
            self.node_receives(self.deploy())

    @rule(target=wanted)
    def hello(self) -> str:
        return self.server.want([entry.sha256 for entry in self.outbox.offers()])

    @rule(target=replies, sha256=wanted)
    def collect(self, sha256: str) -> bytes:
        """The node notes the hand-over before the bytes leave; an old request changes nothing."""
        if not sha256:
            return b""
        is_open = sha256 in {entry.sha256 for entry in self.outbox.offers()}
        data = self.outbox.read(sha256) if is_open else b""
        self.outbox.hand_over(sha256)
        return data

    @rule(sha256=wanted)
    def node_dies_between_reading_and_noting(self, sha256: str) -> None:
        if sha256 in {entry.sha256 for entry in self.outbox.offers()}:
            self.outbox.read(sha256)
        self.kill_node()

    @rule(data=replies)
    def server_receives(self, data: bytes) -> None:
        if data:
            self.server.receive(data)

    @rule(refuse=st.booleans())
    def server_closes_round(self, refuse: bool) -> None:
        self.server.close_round(refuse)

    @rule(target=verdicts)
    def deploy(self) -> tuple[Verdict, ...]:
        return tuple(self.server.verdicts.values())

    @rule(received=verdicts)
    def node_receives(self, received: tuple[Verdict, ...]) -> None:
        for verdict in received:
            self.outbox.settle(verdict.sha256, verdict)

    @rule(index=st.integers(0, 39))
    def owner_drops(self, index: int) -> None:
        if self.kept:
            entry = self.outbox.entry(self.kept[index % len(self.kept)])
            with nullcontext() if entry.state == "waiting" else pytest.raises(UsageError):
                self.outbox.drop(entry.sha256)

    @rule()
    def kill_node(self) -> None:
        # nothing is flushed or tidied: a second opening sees only what is on the disk
        abandoned = self.outbox
        self.outbox = self.open()
        abandoned.close()

    @rule(refuse=st.booleans())
    def kill_node_while_it_puts(self, refuse: bool) -> None:
        """The file is there, its row is not (or the file is only half written)."""
        if len(self.kept) == len(packages()):
            return
        data, _ = packages()[len(self.kept)]
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.outbox.folder / f"{sha256}.zip"
        if refuse:
            path = self.outbox.folder / f".{sha256}.zip.ab.tmp"
            data = data[:20]
        else:
            self.kept.append(sha256)
        path.write_bytes(data)
        self.kill_node()

    @invariant()
    def nothing_is_lost(self) -> None:
        entries = {entry.sha256: entry for entry in self.outbox.entries()}
        assert list(entries) == self.kept
        for sha256, entry in entries.items():
            if not entry.is_final:
                assert hashlib.sha256(self.outbox.read(sha256)).hexdigest() == sha256
            elif entry.state == "expired":
                assert entry.reason
                assert sha256 not in self.server.spool
                assert sha256 not in self.server.verdicts
            else:
                verdict = self.server.verdicts[sha256]
                assert (verdict.state, verdict.version) == (entry.state, entry.version)

    @invariant()
    def nothing_is_merged_twice(self) -> None:
        assert len(self.server.merges) == len(set(self.server.merges))

    @invariant()
    def states_only_move_forward(self) -> None:
        for entry in self.outbox.entries():
            before = self.seen.get(entry.sha256, "waiting")
            assert ORDER[entry.state] > ORDER[before] or entry.state == before
            assert not (before == "handed_over" and entry.state == "expired")
            self.seen[entry.sha256] = entry.state

    @invariant()
    def only_open_packages_take_up_room(self) -> None:
        kept = {path.stem for path in self.outbox.folder.glob("*.zip")}
        assert kept == {entry.sha256 for entry in self.outbox.offers()}

    def teardown(self) -> None:
        """The links work at last: as many nights as there are packages end every wait."""
        for _ in range(len(self.kept) + 1):
            sha256 = self.hello()
            if sha256:
                self.outbox.hand_over(sha256)
                self.server.receive(self.outbox.read(sha256))
            self.server.close_round(refuse=False)
            for verdict in self.server.verdicts.values():
                self.outbox.settle(verdict.sha256, verdict)
        self.nothing_is_lost()
        self.nothing_is_merged_twice()
        assert self.outbox.offers() == []
        self.outbox.close()
        self.disk.cleanup()


TestNodeAndServer = NodeAndServer.TestCase
TestNodeAndServer.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
