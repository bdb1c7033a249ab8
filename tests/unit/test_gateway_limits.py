"""What one node may ask of the gateway: requests a minute, bytes a day, probes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from federation import probe
from federation.adapter.signing import SigningKey
from server.config import ServerHome
from server.limits import REQUESTS_AT_ONCE, Allowance, RateLimits
from server.nodes import Nodes
from server.probe import PROBES_AT_ONCE
from server.traffic import Traffic
from tests.gateway_bench import Bench, Upstream, admit, fresh, serving
from tests.server_home import node_keys

SMALL, LARGE = probe.SIZES
DAY_S = 86_400


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[ServerHome, Upstream]]:
    with serving(tmp_path_factory.mktemp("gateway")) as made:
        yield made


@pytest.fixture
def bench(shared: tuple[ServerHome, Upstream]) -> Bench:
    return fresh(*shared)


def asked(
    key: SigningKey, method: probe.Method, size: int = SMALL, *, body: bytes | None = None
) -> httpx.Request:
    content = b"" if method == "GET" else bytes(size) if body is None else body
    return httpx.Request(
        method,
        f"https://gateway{probe.path_of(size)}",
        content=content,
        headers=probe.headers(key, method, size, now=time.time()),
    )


@pytest.mark.security
def test_h21_a_burst_of_one_node_is_answered_503_and_another_node_is_not(bench: Bench) -> None:
    ben = node_keys()
    admit(bench.nodes, "ben", ben)
    for _ in range(REQUESTS_AT_ONCE - 1):
        assert bench.allowance.permits(bench.keys.header)
    last, over = bench.send(bench.fleet(), bench.fleet())
    assert (last.status_code, over.status_code) == (200, 503)
    other = bench.fleet()
    other.headers["flwr-public-key"] = ben.header
    assert bench.send(other)[0].status_code == 200


def test_a_bucket_fills_again() -> None:
    now = [0.0]
    limits = RateLimits(per_minute=60, burst=2, clock=lambda: now[0])
    assert [limits.allows("a") for _ in range(3)] == [True, True, False]
    assert limits.allows("b")
    now[0] = 1.0
    assert [limits.allows("a") for _ in range(2)] == [True, False]


@pytest.mark.security
def test_h08_bytes_of_a_day_have_a_limit_that_a_restart_does_not_lift(bench: Bench) -> None:
    now = [20_000.0 * DAY_S]
    nodes = Nodes(bench.home.nodes_db, clock=lambda: now[0])
    key = bench.keys.header
    traffic = Traffic(nodes)
    allowance = Allowance(traffic, max_daily_bytes=100)
    traffic.add(key, up=60, down=39)
    assert allowance.permits(key)
    traffic.flush()
    assert allowance.permits(key)
    traffic.add(key, down=1)
    assert not allowance.permits(key)
    traffic.flush()
    assert not Allowance(Traffic(nodes), max_daily_bytes=100).permits(key)
    now[0] += DAY_S
    assert Allowance(Traffic(nodes), max_daily_bytes=100).permits(key)
    assert (nodes.by_name("ana").bytes_up, nodes.by_name("ana").bytes_down) == (60, 40)


def test_beyond_the_bytes_of_its_day_a_node_is_told_to_try_again_later(bench: Bench) -> None:
    bench.allowance = Allowance(bench.traffic, max_daily_bytes=10)
    first, second = bench.send(bench.fleet(body=b"x" * 10), bench.fleet())
    assert (first.status_code, second.status_code) == (200, 503)


@pytest.mark.parametrize("size", probe.SIZES)
def test_a_probe_sends_and_takes_bytes_that_are_counted(bench: Bench, size: int) -> None:
    key = bench.keys.signing
    down, up = bench.send(asked(key, "GET", size), asked(key, "POST", size))
    assert (down.status_code, len(down.content)) == (200, size)
    assert (up.status_code, up.json()) == (200, {"bytes": size})
    bench.traffic.flush()
    node = bench.nodes.by_name("ana")
    assert (node.bytes_up, node.bytes_down) == (size, size)
    assert bench.upstream.seen == []


@pytest.mark.security
def test_h25_a_probe_needs_the_signature_of_an_active_node(bench: Bench) -> None:
    stranger = asked(SigningKey.generate(), "GET")
    bare = asked(bench.keys.signing, "GET")
    for name in (probe.NODE_HEADER, probe.PROOF_HEADER):
        bare.headers.pop(name)
    replayed = asked(bench.keys.signing, "GET")
    replayed.method = "POST"
    late = asked(bench.keys.signing, "GET")
    late.headers.update(probe.headers(bench.keys.signing, "GET", SMALL, now=time.time() - 400))
    answers = bench.send(stranger, bare, replayed, late)
    assert [(answer.status_code, answer.content) for answer in answers] == [(401, b"")] * 4
    bench.nodes.ban("ana")
    assert bench.send(asked(bench.keys.signing, "GET"))[0].status_code == 401


@pytest.mark.parametrize("body", [b"", b"x", bytes(SMALL + 1)])
def test_a_probe_of_another_length_is_refused_unread(bench: Bench, body: bytes) -> None:
    assert bench.send(asked(bench.keys.signing, "POST", body=body))[0].status_code == 404


@pytest.mark.parametrize("path", ["/probe/1", "/probe/0262144", "/probe", "/probe/262144?a=1"])
def test_other_sizes_are_no_route(bench: Bench, path: str) -> None:
    request = httpx.Request("GET", f"https://gateway{path}")
    request.headers.update(probe.headers(bench.keys.signing, "GET", SMALL, now=time.time()))
    assert bench.send(request)[0].status_code == 404


def test_a_node_probes_one_at_a_time(bench: Bench) -> None:
    class Slow(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield bytes(SMALL - 1)
            await asyncio.sleep(0.5)
            yield b"x"

    slow = asked(bench.keys.signing, "POST")
    slow.stream = Slow()
    others = [asked(bench.keys.signing, method) for method in ("GET", "POST")]
    statuses = [answer.status_code for answer in bench.send(slow, *others, at_once=True)]
    assert statuses == [200, 503, 503]
    assert bench.send(asked(bench.keys.signing, "POST"))[0].status_code == 200


def test_probes_are_limited_to_a_few_a_minute(bench: Bench) -> None:
    requests = [asked(bench.keys.signing, "GET") for _ in range(PROBES_AT_ONCE + 1)]
    statuses = [answer.status_code for answer in bench.send(*requests)]
    assert statuses == [200] * PROBES_AT_ONCE + [503]
