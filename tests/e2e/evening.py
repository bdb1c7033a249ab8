"""A volunteer's whole evening through Tor, watched: whom it calls, what it writes, what `ps` shows.

Where it may, the volunteer lives in a network namespace without any way out but the unix sockets of
a tor outside: one that leaked would fail there, and every attempt is written down by strace.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from tor_network import PrivateTor
from tor_process import ControlPort
from town import Town, run

from federation import durable
from federation.invitation import decode
from server.config import ServerHome
from tests import netns, strace_log
from tests.e2e.conftest import SETTINGS, rows_of
from tests.feed_samples import item, rss
from tests.feed_server import FeedServer, ok

NODE = "luna"
# Every command of the volunteer's that may use the network, and some that had better not.
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("doctor", "--json"),
    ("status", "--json"),
    ("tor", "check", "--json"),
    ("tor", "bench", "--json"),
    ("contribute",),
    ("package", "--explain"),
    ("outbox", "list", "--json"),
    ("privacy", "--json"),
    ("ingest", "--json"),
    ("rag", "query", "river", "--json"),
    ("chat", "--once", "--json", "What is said of the river?"),
)
LEAK = """
import socket
for call in (
    lambda: socket.create_connection(("192.0.2.1", 80), timeout=2),
    lambda: socket.getaddrinfo("conscience.invalid", 443),
):
    try:
        call()
    except OSError:
        pass
"""
SAMPLE_S = 0.1


@dataclass(frozen=True)
class Evening:
    """What was seen of it.

    Attributes:
        trace: prefix of strace's files.
        targets: every "host:port" that the volunteer's tor was asked for.
        shown: command lines and environments of all processes of this machine, meanwhile.
        report: of the round.
        said: command -> what it printed.
        feed: onion address of the feed that was read.
    """

    root: Path
    trace: Path
    targets: frozenset[str]
    shown: frozenset[bytes]
    report: dict[str, Any]
    said: dict[tuple[str, ...], str]
    feed: str

    @property
    def node(self) -> Path:
        """The volunteer's home."""
        return self.root / NODE

    @property
    def server(self) -> Path:
        """The operator's home."""
        return self.root / "server"


class WatchedTown(Town):
    """A town whose volunteers alone are watched and shut in.

    Attributes:
        planted: a folder that goes before all others on a volunteer's import path.
    """

    planted: Path | None = None

    def operator(self, *arguments: str) -> str:
        """Run a `flower-server` command outside."""
        return run(["flower-server", *arguments], self._environment("server"))

    def volunteer(self, name: str, *arguments: str) -> str:
        """Run a `flower-client` command that logs everything."""
        return super().volunteer(name, "--debug", *arguments)

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a process that stays; the server's outside."""
        wrap = self.wrap
        self.wrap = () if name == "server" else wrap
        try:
            super().start(name, [*command, "--debug"] if name != "server" else command)
        finally:
            self.wrap = wrap

    def _environment(self, name: str) -> dict[str, str]:
        environment = super()._environment(name)
        if self.planted is not None and name != "server":
            environment["PYTHONPATH"] = str(self.planted)
        return environment


class ProcessList(threading.Thread):
    """Reads, again and again, what any local user can read of every process."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.shown: set[bytes] = set()
        self._done = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        """Look until the block ends."""
        while not self._done.wait(SAMPLE_S):
            for name in ("cmdline", "environ"):
                for path in Path("/proc").glob(f"[0-9]*/{name}"):
                    try:
                        self.shown.add(path.read_bytes())
                    except OSError:  # ended meanwhile, or a kernel's
                        continue


def spend(place: Path, network: PrivateTor, *, plant: bool = False) -> Evening:
    """Spend one evening.

    Args:
        place: folder of all its files; short, for the paths of sockets are bounded.
        network: a private Tor network.
        plant: only join and ask for the status, with a leak in every process of the volunteer's.
    """
    trace = place / "trace"
    with ExitStack() as stack:
        wrap: tuple[str, ...] = ()
        if plant or not netns.why_not():  # a planted leak must not get out of here
            wrap += stack.enter_context(netns.Namespace()).wrap
        if strace_log.is_installed():
            wrap += strace_log.wrap(trace)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("FLWR_LOG_LEVEL", "DEBUG")
        tor, streams = stack.enter_context(_tor_with_sockets(place / "tor", network))
        town = WatchedTown(place, wrap=wrap, tor={"mode": "own", "torrc": str(network.torrc_file)})
        stack.callback(town.stop)
        processes = stack.enter_context(ProcessList())
        town.start_server("--base", "semilla", "--quorum", "1")
        if plant:
            town.planted = durable.make_folder(place / "planted")
            (town.planted / "sitecustomize.py").write_text(LEAK)
        feed = stack.enter_context(_feed(network))
        town.join(NODE, rows_of(NODE), SETTINGS | {"tor": tor, "embedder": "none"})
        feeds = json.dumps([f"http://{feed}/feed.xml"])
        durable.write_text(place / NODE / "datasets" / "rss_feeds.json", feeds)
        commands = (("status", "--json"),) if plant else COMMANDS
        said = {command: town.volunteer(NODE, *command) for command in commands}
        report = {} if plant else town.round()
        town.stop()
        time.sleep(2 * SAMPLE_S)
        targets, shown = frozenset(streams()), frozenset(processes.shown)
        return Evening(place, trace, targets, shown, report, said, feed)


@contextmanager
def _feed(network: PrivateTor) -> Iterator[str]:
    """A feed that only Tor can reach: its onion address."""
    body = rss([item(number) for number in range(5)])
    with FeedServer({"/feed.xml": ok(body)}) as server, network.service("feeds") as service:
        yield service.publish({80: server.port}).host


@contextmanager
def _tor_with_sockets(folder: Path, network: PrivateTor) -> Iterator[tuple[dict[str, str], Any]]:
    """A tor outside with unix sockets: settings of a node that uses it, and whom it asked for."""
    folder.mkdir(mode=0o700)
    socks, control = folder / "socks", folder / "control"
    extra = f"SocksPort unix:{socks} ExtendedErrors\nControlPort unix:{control}\n"
    outside = network.client(folder.parent.name, extra=extra)
    with ControlPort(outside.folder) as events:
        events.ask("SETEVENTS STREAM")

        def asked_for() -> set[str]:
            found = set()
            while True:
                try:
                    words = events.read_line(0.3).split()
                except TimeoutError:
                    return found
                # 650 STREAM <id> NEW <circuit> <target> … ; tor's own are of other purposes
                if words[3] == "NEW" and "PURPOSE=USER" in words:
                    found.add(words[5])

        settings = {"mode": "address", "socks": f"unix:{socks}", "control": f"unix:{control}"}
        yield settings, asked_for
    outside.stop()


def secrets_of(evening: Evening) -> dict[str, bytes]:
    """Name -> bytes that may stand in no file but those made for them, and in no process list."""
    invitation = (evening.node / "invitation").read_text(encoding="utf-8").strip()
    auth = (evening.node / "keys" / "onion.auth_private").read_text(encoding="ascii")
    server = ServerHome(evening.server)
    (service_key,) = server.onion.rglob("hs_ed25519_secret_key")
    host, *_words, key = auth.strip().split(":")
    found = {
        "onion address": host.encode(),
        "onion key": key.encode(),
        "token": decode(invitation).token.encode(),
        "invitation": invitation[12:90].encode(),
        "onion's own key": service_key.read_bytes()[-64:],
        "signing key": server.signing_key.read_bytes().splitlines()[1],
        "executor's secret": server.superexec_secret.read_bytes().strip(),
    }
    for path in (evening.node / "keys").glob("*"):
        lines = path.read_bytes().splitlines()
        if lines and b"PRIVATE KEY" in lines[0]:
            found[path.name] = lines[len(lines) // 2]
    return found


def files_of(*homes: Path) -> Iterator[Path]:
    """Every file below `homes`."""
    for home in homes:
        yield from (path for path in home.rglob("*") if path.is_file())
