"""Parts `goodput`, `first` and `memory` of `bench_tor`: our whole path beside a bare one."""

from __future__ import annotations

import re
import socket
import ssl
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from bench_round_table import Line, Section
from bench_tor_end import BODY_BYTES
from bench_tor_stand import (
    BARE_PORT,
    PATIENCE_S,
    TLS_PORT,
    Say,
    Stand,
    bare,
    dial,
    forwarder,
    ours,
)
from tor_process import TorProcess

from federation.tor.forwarder import Forwarder
from federation.tor.socks import SocksAddress

LEAST_RATIO = 0.9
MOST_EXTRA_S = 1.0
MOST_MEMORY_MB = 40.0
CONNECTIONS, EACH_BYTES = 100, 256 * 1024
Times = dict[str, list[float]]


def goodput(stand: Stand, repeat: int, say: Say) -> Section:
    """A body of 10 MB each way, ours and bare in turn, on connections that are open already."""
    taken: dict[str, Times] = {way: {"ours": [], "bare": []} for way in ("up", "down")}
    with (
        forwarder(stand.client.socks, stand.onion, TLS_PORT) as (address, _pid),
        ours(stand, address) as ours_exchanges,
        bare(stand) as bare_exchanges,
    ):
        for number in range(repeat + 1):  # the first pair opens circuits and windows
            say(f"goodput: pair {number} of {repeat}")
            for way, mine, other in zip(taken, ours_exchanges, bare_exchanges, strict=True):
                pair = [("ours", mine), ("bare", other)]
                for side, exchange in pair if number % 2 else reversed(pair):
                    seconds = _seconds(exchange)
                    if number:
                        taken[way][side].append(seconds)
    return goodput_section(taken)


def goodput_section(taken: dict[str, Times]) -> Section:
    """Judge the median over the pairs of how much of the bare rate is left."""
    lines = []
    for way, sides in taken.items():
        ratio = statistics.median(
            other / mine for mine, other in zip(sides["ours"], sides["bare"], strict=True)
        )
        rates = {side: BODY_BYTES / 1e6 / statistics.median(s) for side, s in sides.items()}
        measured = f"{ratio:.2f} ({rates['ours']:.2f} of {rates['bare']:.2f} MB/s)"
        lines.append(
            Line(
                f"{BODY_BYTES / 1e6:g} MB {way}", measured, f"≥ {LEAST_RATIO}", ratio >= LEAST_RATIO
            )
        )
    pairs = len(taken["up"]["ours"])
    return Section(
        title="Goodput of our whole path, beside a bare HTTP body",
        lines=lines,
        notes=(
            "ours: forwarder, TLS, gateway; bare: straight from the SOCKS port. Same onion, same",
            f"circuit, in turn: the median over {pairs} pairs of bare time / our time.",
        ),
        figures={"seconds": taken},
    )


def first(stand: Stand, repeat: int, say: Say) -> Section:
    """The first connection of a tor that has just started: ours to the end of its handshake."""
    taken: Times = {"ours": [], "bare": []}
    for number in range(repeat):
        for side, connect in (("ours", _connect_ours), ("bare", _connect_bare)):
            say(f"first: {side}, {number + 1} of {repeat}")
            with stand.network.client(f"first-{side}-{number}") as tor:
                taken[side].append(_seconds(partial(connect, stand, tor)))
    return first_section(taken)


def first_section(taken: Times) -> Section:
    """Judge the medians."""
    mine, other = (statistics.median(taken[side]) for side in ("ours", "bare"))
    measured = f"{mine:.2f} s ({mine - other:+.2f} s)"
    goal = f"≤ bare + {MOST_EXTRA_S:g} s"
    return Section(
        title="First connection after a start of tor",
        lines=[
            Line("bare: tor's circuit", f"{other:.2f} s"),
            Line("ours: forwarder, circuit, TLS", measured, goal, mine - other <= MOST_EXTRA_S),
        ],
        notes=(f"medians of {len(taken['ours'])} each; every one by a tor with an empty cache",),
        figures={"seconds": taken},
    )


def memory(stand: Stand, say: Say) -> Section:
    """Peak memory of the forwarder's process while many connections carry data at once."""
    say(f"memory: {CONNECTIONS} connections at once")
    with (
        forwarder(stand.client.socks, stand.onion, BARE_PORT) as (address, pid),
        ThreadPoolExecutor(CONNECTIONS) as pool,
    ):
        begun = time.perf_counter()
        carried = sum(pool.map(lambda _number: _fetch(address), range(CONNECTIONS)))
        seconds = time.perf_counter() - begun
        peak_mb = peak_memory_mb(pid)
    return memory_section(peak_mb, carried, seconds)


def memory_section(peak_mb: float, carried_bytes: int, seconds: float) -> Section:
    """Judge the peak; it counts only if everything was carried."""
    is_met = peak_mb < MOST_MEMORY_MB and carried_bytes == CONNECTIONS * EACH_BYTES
    measured = f"{peak_mb:.1f} MB ({carried_bytes / 1e6:.0f} MB carried in {seconds:.0f} s)"
    return Section(
        title="Memory of the forwarder",
        lines=[Line(f"{CONNECTIONS} connections", measured, f"< {MOST_MEMORY_MB:g} MB", is_met)],
        notes=("resident, at its peak, with the interpreter: a process of its own",),
        figures={"peak_mb": peak_mb, "carried_bytes": carried_bytes, "seconds": seconds},
    )


def peak_memory_mb(pid: int) -> float:
    """Most memory that a process has had resident (Linux), in MB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    if found is None:
        raise RuntimeError("no VmHWM: this part needs Linux")
    return int(found[1]) * 1024 / 1e6


def _connect_ours(stand: Stand, tor: TorProcess) -> None:
    trust = ssl.create_default_context(cadata=stand.certificate)
    socks = SocksAddress.parse(tor.socks, is_extended=True)
    with (
        Forwarder(socks, stand.onion.host, TLS_PORT, purpose="first") as way,
        _local(way.address) as plain,
        trust.wrap_socket(plain, server_hostname="localhost"),
    ):
        pass


def _connect_bare(stand: Stand, tor: TorProcess) -> None:
    dial(tor, stand.onion, BARE_PORT).close()


def _fetch(address: str) -> int:
    """Fetch one body through a forwarder; the bytes that came."""
    with _local(address) as sock:
        sock.sendall(f"GET /{EACH_BYTES} HTTP/1.1\r\nHost: bare\r\n\r\n".encode())
        received = b""
        while b"\r\n\r\n" not in received:
            received += sock.recv(65_536)
        left = EACH_BYTES - len(received.split(b"\r\n\r\n", 1)[1])
        while left and (block := sock.recv(65_536)):
            left -= len(block)
        return EACH_BYTES - left


def _local(address: str) -> socket.socket:
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)


def _seconds(exchange: Callable[[], None]) -> float:
    begun = time.perf_counter()
    exchange()
    return time.perf_counter() - begun
