"""`flower-client tor bench`: what the way to the server carries, measured on its probe route.

connect      a new connection, up to the end of the TLS handshake
first byte   a small request on an open connection, up to the first byte of its answer
up, down     probes of 256 KiB and 4 MiB, the whole exchange counted

The result is one JSON file and one picture in `ai_runs/tor_bench/<time>/`. The probes are bytes
of zero; the gateway counts them and throws them away.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from client import clock, keys, link
from client.config import Federation, NodeConfig, NodeHome, load_federation, server_address
from client.outbox import open_outbox
from client.tor_check import refusal, refusal_of
from federation import durable, probe
from federation.adapter.format import AdapterSpec
from federation.adapter.signing import SigningKey
from federation.errors import NetworkError
from federation.language import _
from federation.tor.way import Way

CONNECTIONS = 5
REQUESTS = 20
REPEATS = {probe.SIZES[0]: 3, probe.SIZES[1]: 1}
CHUNK = bytes(65_536)
BYTES_PER_VALUE = {"bf16": 2, "int8": 1}
KIB = 1024


@dataclass(frozen=True)
class Transfer:
    """Probes of one size: seconds of each, up and down."""

    size_bytes: int
    up_s: tuple[float, ...]
    down_s: tuple[float, ...]

    @property
    def up_kib_s(self) -> float:
        """Median rate up."""
        return self.size_bytes / KIB / statistics.median(self.up_s)

    @property
    def down_kib_s(self) -> float:
        """Median rate down."""
        return self.size_bytes / KIB / statistics.median(self.down_s)


@dataclass(frozen=True)
class Bench:
    """What was measured; nothing in it names the server.

    Attributes:
        through_tor: whether Tor was on the way.
        connect_s: each new connection.
        first_byte_s: each small request, in order.
        transfers: from the smallest size to the largest.
        upload_bytes: this node's newest package, or what its next one will be about.
        upload_s: what handing that over takes by these figures.
        at: ISO 8601, UTC.
    """

    through_tor: bool
    connect_s: tuple[float, ...]
    first_byte_s: tuple[float, ...]
    transfers: tuple[Transfer, ...]
    upload_bytes: int
    upload_s: float
    at: str


def measure(
    home: NodeHome, config: NodeConfig, say: Callable[[str], None], *, now: Callable[[], float]
) -> Bench:
    """Measure the way of a node that has joined; about 10 MB travel.

    Args:
        home: a home that has joined.
        config: its settings.
        say: told what is measured next.
        now: Unix time; the probes are signed with it.

    Raises:
        TorError: the way through Tor is closed.
        NetworkError: the server cannot be reached, or refuses the probes.
    """
    federation = load_federation(home)
    key = keys.load_or_create(home.keys).signing
    certificate = home.ca.read_text(encoding="utf-8")
    address = server_address(config, federation.address)
    with link.open_way(home, config, address, purpose="bench", say=say) as way:
        with link.connect(way, certificate) as client:
            if (problem := refusal(client, key, now())) is not None:
                raise problem
        say(_("Measuring connections …"))
        connect_s = tuple(_connect_s(way, certificate) for _each in range(CONNECTIONS))
        with link.connect(way, certificate, ledger=home.sent) as client:
            say(_("Measuring small requests …"))
            first_byte_s = tuple(_first_byte(client) for _each in range(REQUESTS))
            transfers = tuple(_transfers(client, key, say, now))
        size = expected_upload(home, config, federation)
        return Bench(
            through_tor=way.is_tor,
            connect_s=connect_s,
            first_byte_s=first_byte_s,
            transfers=transfers,
            upload_bytes=size,
            upload_s=statistics.median(connect_s) + seconds_for(size, transfers),
            at=datetime.fromtimestamp(now(), UTC).isoformat(timespec="seconds"),
        )


def seconds_for(size_bytes: int, transfers: Sequence[Transfer]) -> float:
    """Seconds up for `size_bytes`: along the line through the smallest and the largest probe."""
    small, large = transfers[0], transfers[-1]
    low, high = statistics.median(small.up_s), statistics.median(large.up_s)
    slope = (high - low) / (large.size_bytes - small.size_bytes)
    on_line = low + (size_bytes - small.size_bytes) * slope
    return max(on_line, low * min(1.0, size_bytes / small.size_bytes))


def expected_upload(home: NodeHome, config: NodeConfig, federation: Federation) -> int:
    """Size of the newest package, or of the next one by the adapter's shape."""
    with open_outbox(home, config) as outbox:
        entries = outbox.entries()
    if entries:
        return entries[-1].size_bytes
    values = AdapterSpec.from_json(federation.spec).tensor_bytes // 4
    return values * BYTES_PER_VALUE[config.coding]


def sentence(bench: Bench) -> str:
    """What the figures mean for the owner."""
    return _("Your evening's upload of {size} MB takes about {seconds} s.").format(
        size=f"{bench.upload_bytes / 1e6:.1f}", seconds=f"{bench.upload_s:.2g}"
    )


def content(bench: Bench) -> dict[str, Any]:
    """The figures for a machine: the raw ones and what is made of them."""
    return asdict(bench) | {
        "format": 1,
        "connect_median_s": statistics.median(bench.connect_s),
        "first_byte_p50_ms": 1e3 * percentile(bench.first_byte_s, 50),
        "first_byte_p95_ms": 1e3 * percentile(bench.first_byte_s, 95),
        "rates_kib_s": {
            str(each.size_bytes): {"up": each.up_kib_s, "down": each.down_kib_s}
            for each in bench.transfers
        },
        "sentence": sentence(bench),
    }


def save(bench: Bench, home: NodeHome) -> Path:
    """Write JSON and picture into a folder of their own; returns it."""
    from federation.ledger.plots import way_picture

    name = bench.at.replace(":", "").replace("-", "").partition("+")[0]
    folder = durable.make_folder(home.runs / "tor_bench" / name)
    text = json.dumps(content(bench), indent=2, ensure_ascii=False)
    durable.write_text(folder / "bench.json", text + "\n")
    rates = {size_words(t.size_bytes): (t.up_kib_s, t.down_kib_s) for t in bench.transfers}
    way_picture(rates, [1e3 * each for each in bench.first_byte_s], folder / "bench.png")
    return folder


def percentile(values: Sequence[float], percent: int) -> float:
    """The value below which `percent` of a hundred lie."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def size_words(size_bytes: int) -> str:
    """A probe's size in words: 256 KiB, 4 MiB."""
    mib = KIB * KIB
    return f"{size_bytes // mib} MiB" if size_bytes >= mib else f"{size_bytes // KIB} KiB"


def _connect_s(way: Way, certificate: str) -> float:
    moments: dict[str, float] = {}

    def note(event: str, _info: object) -> None:
        moments[event] = time.perf_counter()

    with link.connect(way, certificate) as client:
        client.get(clock.HEALTH_PATH, extensions={"trace": note})
    return moments["connection.start_tls.complete"] - moments["connection.connect_tcp.started"]


def _first_byte(client: httpx.Client) -> float:
    begun = time.perf_counter()
    with client.stream("GET", clock.HEALTH_PATH) as response:
        taken = time.perf_counter() - begun
        response.read()
    return taken


def _transfers(
    client: httpx.Client, key: SigningKey, say: Callable[[str], None], now: Callable[[], float]
) -> Iterator[Transfer]:
    for size in probe.SIZES:
        say(_("Measuring {size} up and down …").format(size=size_words(size)))
        repeats = range(REPEATS[size])
        up = tuple(_up(client, key, size, now()) for _each in repeats)
        down = tuple(_down(client, key, size, now()) for _each in repeats)
        yield Transfer(size, up, down)


def _up(client: httpx.Client, key: SigningKey, size: int, now: float) -> float:
    headers = probe.headers(key, "POST", size, now=now) | {"content-length": str(size)}
    chunks = (CHUNK for _each in range(size // len(CHUNK)))
    begun = time.perf_counter()
    response = client.post(probe.path_of(size), content=chunks, headers=headers)
    taken = time.perf_counter() - begun
    _require(response)
    return taken


def _down(client: httpx.Client, key: SigningKey, size: int, now: float) -> float:
    headers = probe.headers(key, "GET", size, now=now)
    begun = time.perf_counter()
    response = client.get(probe.path_of(size), headers=headers)
    taken = time.perf_counter() - begun
    _require(response)
    if len(response.content) != size:
        raise NetworkError(_("The server's answer makes no sense; it may be of another version."))
    return taken


def _require(response: httpx.Response) -> None:
    if (problem := refusal_of(response)) is not None:
        raise problem
