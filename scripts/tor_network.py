"""A whole Tor network on 127.0.0.1: a few directory authorities, which are its only relays.

No exit, no other relay, no address but loopback: what runs in it can reach its onions and nothing
else. Tests, demo and benchmark use it. How it starts, and why in this order: every node must
hold the descriptor of every other before the first vote, and no client may ask before there is a
consensus, or it backs off for 10 to 20 seconds.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from socket import socket
from typing import Self

from tor_keys import Identity, cache_folder, copy_keys
from tor_process import HOST, TorNetworkError, TorProcess

from federation import durable

logger = logging.getLogger(__name__)

PROGRAMS = ("tor", "tor-gencert")
INSTALL = "Debian, Ubuntu: apt install tor; Fedora: dnf install tor; macOS: brew install tor"
STARTS = 2  # a port may be taken between choosing it and using it
CONSENSUS_S = 90.0
INTERVAL_S = 20  # between two votes
DELAY_S = 2  # of the votes, and again of their exchange
LASTING = 4  # the first nodes: directories of onions' descriptors, and where clients enter
USABLE = {"Running", "Valid", "Guard"}
CARRIED_BYTES = 100_000_000
SCHEDULERS = {"vanilla": "Schedulers Vanilla\n", "kist": ""}  # fast; tor's own, 1 MB/s


class PrivateTor:
    """A private network with its files below `root`; a context manager.

    Args:
        root: folder of all its tors.
        authorities: 4 are the fewest that work; 8 survive the loss of an `expendable` one.
        scheduler: a key of `SCHEDULERS`; "kist" is nearer to the rates of the real network.
        interval_s: between two votes; a time period of the onions is 24 of them.
    """

    def __init__(
        self,
        root: Path,
        authorities: int = 4,
        *,
        scheduler: str = "vanilla",
        interval_s: int = INTERVAL_S,
    ) -> None:
        self.root = durable.make_folder(root)
        self._count = authorities
        self._extra = SCHEDULERS[scheduler]
        self._interval_s = interval_s
        self._directory = self._entries = ""
        self._authorities: list[TorProcess] = []
        self._others: list[TorProcess] = []

    def __enter__(self) -> Self:
        if missing := missing_programs():
            raise TorNetworkError(f"not installed: {', '.join(missing)} ({INSTALL})")
        for attempt in range(1, STARTS + 1):
            try:
                self._start(self.root / f"network{attempt}")
            except TorNetworkError as err:
                self.stop()
                if attempt == STARTS:
                    raise
                logger.warning("the private Tor network is started once more: %s", err)
            except BaseException:
                self.stop()
                raise
            else:
                break
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def torrc_file(self) -> Path:
        """`torrc_lines` as a file, for TorSettings.torrc."""
        path = self.root / "private.torrc"
        if not path.exists():
            durable.write_text(path, self.torrc_lines())
        return path

    def torrc_lines(self) -> str:
        """What makes any tor a part of this network; nothing of ports or folders."""
        return self._network_lines() + self._entries

    @property
    def expendable(self) -> list[int]:
        """Which nodes may be killed, one at a time.

        A dead node stays in the consensus. Were it a directory of descriptors, clients would ask it
        again and again; were it a service's entry, all its introduction points would be lost at
        once, and new ones are rationed.
        """
        return list(range(LASTING, self._count))

    def authority(self, index: int) -> TorProcess:
        """One of the network's nodes, to be killed and started again."""
        return self._authorities[index]

    def client(
        self, name: str, *, socks_flags: str = "ExtendedErrors", extra: str = ""
    ) -> TorProcess:
        """Start a tor that is no relay and wait until it can be used.

        Args:
            name: its folder; the same name again needs the earlier one to be stopped.
            socks_flags: of its SOCKS port; "" for one that answers by plain codes.
            extra: further torrc lines, each with its newline.
        """
        folder = self.root / name
        socks = f"SocksPort {HOST}:auto {socks_flags}\nClientOnly 1\n"
        tor = TorProcess(folder, self._common(folder) + self._entries + socks + extra)
        self._others.append(tor)
        return tor.start().wait_bootstrapped()

    service = client  # a service's tor is no other

    def stop(self) -> None:
        """End every tor that was started here."""
        for tor in [*self._others, *self._authorities]:
            tor.stop()
        self._others.clear()
        self._authorities.clear()

    def _start(self, folder: Path) -> None:
        ports = free_ports(2 * self._count)
        pairs = list(zip(ports[::2], ports[1::2], strict=True))
        cache = cache_folder()
        names = [f"authority{index}" for index in range(self._count)]
        identities = [copy_keys(name, folder / name, cache) for name in names]
        self._directory = "".join(
            _directory_line(name, pair, identity)
            for name, pair, identity in zip(names, pairs, identities, strict=True)
        )
        if self.expendable:
            lasting = ",".join(f"${identity.relay}" for identity in identities[:LASTING])
            self._entries = f"EntryNodes {lasting}\n"
        for name, pair in zip(names, pairs, strict=True):
            durable.write_text(folder / name / "state", _state())
            torrc = self._common(folder / name) + self._authority_lines(name, pair)
            self._authorities.append(TorProcess(folder / name, torrc).start())
        self._await("every descriptor", self._has_descriptors, 30.0)
        self._vote_soon()
        self._await("a consensus", self._has_consensus, CONSENSUS_S)
        self._await("a directory on every node", self._has_directories, CONSENSUS_S)

    def _network_lines(self) -> str:
        # Without VanguardsLite, which takes second hops from stable and fast nodes alone: later
        # votes find some of so few nodes slower or younger than the rest, and then no circuit is
        # built. A circuit that hangs, on a busy machine, is given up after 10 s instead of 60.
        return (
            f"TestingTorNetwork 1\n{self._directory}PathsNeededToBuildCircuits 0.95\n"
            "VanguardsLiteEnabled 0\nLearnCircuitBuildTimeout 0\nCircuitBuildTimeout 10\n"
            f"AvoidDiskWrites 1\nShutdownWaitLength 0\n{self._extra}"
        )

    def _common(self, folder: Path) -> str:
        return (
            f"{self._network_lines()}DataDirectory {folder}\n"
            f"Log notice file {folder}/notice.log\nSafeLogging 0\nRunAsDaemon 0\n"
            f"__OwningControllerProcess {os.getpid()}\nControlPort {HOST}:auto\n"
            f"ControlPortWriteToFile {folder}/control_port\nCookieAuthentication 1\n"
        )

    def _authority_lines(self, name: str, ports: tuple[int, int]) -> str:
        # The first interval is as long as the later ones: a change would move the onions' time
        # period. The first vote is as late as can be; `_vote_soon` brings it forward.
        votes = "".join(
            f"{each}VotingInterval {self._interval_s}\n{each}VoteDelay {DELAY_S}\n"
            f"{each}DistDelay {DELAY_S}\n"
            for each in ("TestingV3AuthInitial", "V3Auth")
        )
        late = int(time.time()) % self._interval_s
        directories = ",".join(f"authority{index}" for index in range(LASTING))
        return (
            f"Nickname {name}\nAddress {HOST}\nORPort {HOST}:{ports[0]} IPv4Only\n"
            f"DirPort {HOST}:{ports[1]} IPv4Only\nAddressDisableIPv6 1\nAssumeReachable 1\n"
            "ExitRelay 0\nExitPolicy reject *:*\nSocksPort 0\nNumCPUs 1\n"
            "ServerDNSDetectHijacking 0\nServerDNSAllowBrokenConfig 1\n"
            f"ServerDNSResolvConfFile {os.devnull}\nContactInfo nobody@test.invalid\n"
            f"AuthoritativeDirectory 1\nV3AuthoritativeDirectory 1\n{votes}"
            f"V3AuthNIntervalsValid 20\nTestingV3AuthVotingStartOffset {late}\n"
            "TestingDirAuthVoteExit *\nTestingDirAuthVoteGuard *\n"
            f"TestingDirAuthVoteHSDir {directories}\nTestingDirAuthVoteHSDirIsStrict 1\n"
            "TestingMinExitFlagThreshold 0\nTestingAuthDirTimeToLearnReachability 0\n"
            "AuthDirFastGuarantee 1\nAuthDirVoteStableGuaranteeMinUptime 0\n"
            "MinUptimeHidServDirectoryV2 0\n"
        )

    def _vote_soon(self) -> None:
        # Votes fall on multiples of the interval since midnight UTC plus the offset.
        first = int(time.time()) + 2 * DELAY_S + 2
        for tor in self._authorities:
            tor.control.ask(f"SETCONF TestingV3AuthVotingStartOffset={first % self._interval_s}")

    def _has_descriptors(self, tor: TorProcess) -> bool:
        held = tor.control.info("dir/server/all").splitlines()
        return sum(line.startswith("router ") for line in held) >= self._count

    def _has_consensus(self, tor: TorProcess) -> bool:
        lines = tor.control.info("ns/all").splitlines()
        flags = [set(line.split()) for line in lines if line.startswith("s ")]
        directories = sum("HSDir" in each for each in flags)
        return sum(each >= USABLE for each in flags) == self._count and directories == LASTING

    def _has_directories(self, tor: TorProcess) -> bool:
        return tor.control.info("status/enough-dir-info") == "1"

    def _await(self, what: str, look: Callable[[TorProcess], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        for tor in self._authorities:
            while not look(tor):
                if not tor.is_running:
                    raise tor.failure("tor has ended")
                if time.monotonic() > deadline:
                    raise tor.failure(f"not {what} within {timeout_s:g} s")
                time.sleep(0.05)


def missing_programs() -> list[str]:
    """The programs that a private network needs and this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def free_ports(count: int) -> list[int]:
    """As many different free ports; all are held until all are known."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _state() -> str:
    """A state file that says what a node carried before it was started: the same for every node.

    Without one a node counts by what it has carried so far, which is nothing for most of them: then
    every circuit ends at the same node, and if that is a client's guard too, none is ever built.
    """
    ends = datetime.fromtimestamp(time.time() - 60, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return "".join(
        f"BWHistory{way}Ends {ends}\nBWHistory{way}Interval 86400\n"
        f"BWHistory{way}Values {CARRIED_BYTES}\nBWHistory{way}Maxima {CARRIED_BYTES}\n"
        for way in ("Read", "Write")
    )


def _directory_line(name: str, ports: tuple[int, int], identity: Identity) -> str:
    return (
        f"DirAuthority {name} orport={ports[0]} no-v2 v3ident={identity.v3} "
        f"{HOST}:{ports[1]} {identity.relay}\n"
    )
