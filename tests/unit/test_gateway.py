"""The gateway: twelve Fleet methods pass, small and streamed; everything else stays outside."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from federation.processes import free_port
from server.ca import TlsFiles
from server.config import ServerHome
from server.fleet import MAX_BODY_BYTES, METHODS, Forwarder
from tests.gateway_bench import Bench, Upstream, fresh, serving
from tests.server_home import make_home, node_keys


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[ServerHome, Upstream]]:
    with serving(tmp_path_factory.mktemp("gateway")) as made:
        yield made


@pytest.fixture
def bench(shared: tuple[ServerHome, Upstream]) -> Bench:
    return fresh(*shared)


@pytest.mark.parametrize("method", METHODS)
def test_every_fleet_method_passes_with_body_and_answer(bench: Bench, method: str) -> None:
    (answer,) = bench.send(bench.fleet(method, b"hello"))
    assert (answer.status_code, answer.content) == (200, b"reply")
    ((path, _headers, size),) = bench.upstream.seen
    assert (path, size) == (f"/v1/fleet/{method}", 5)


@pytest.mark.security
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/control/start-run"),
        ("POST", "/v1/runtime/acquire-task"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/v1/fleet/get-run"),
        ("PUT", "/v1/fleet/get-run"),
        ("OPTIONS", "/v1/fleet/get-run"),
        ("POST", "/v1/fleet//get-run"),
        ("POST", "/v1/fleet/get%2drun"),
        ("POST", "/v1/fleet/get-run/"),
        ("POST", "/v1/fleet/get-run?a=1"),
        ("POST", "/v1/fleet/%2e%2e/control/start-run"),
        ("GET", "/enrol"),
        ("POST", "/health"),
        ("GET", "/probe"),
    ],
)
def test_h25_everything_else_is_404_and_reaches_no_upstream(
    bench: Bench, method: str, path: str
) -> None:
    url = httpx.URL("https://gateway").copy_with(raw_path=path.encode())
    request = httpx.Request(method, url, headers={"flwr-public-key": bench.keys.header})
    (answer,) = bench.send(request)
    assert (answer.status_code, answer.content) == (404, b"")
    assert bench.upstream.seen == []


def test_only_flowers_headers_pass_and_nothing_comes_back_but_the_body(bench: Bench) -> None:
    request = bench.fleet(
        content_type="application/protobuf",
        accept="application/protobuf",
        x_flwr_client="1",
        flwr_signature="s",
        cookie="c",
        authorization="a",
        x_forwarded_for="f",
        user_agent="ua",
        origin="https://evil.example",
    )
    (answer,) = bench.send(request)
    ((_path, headers, _size),) = bench.upstream.seen
    passed = {"content-type", "accept", "x-flwr-client", "flwr-signature", "flwr-public-key"}
    assert passed <= set(headers)
    assert not {"cookie", "authorization", "x-forwarded-for", "origin"} & set(headers)
    assert "ua" not in headers.values()
    assert set(answer.headers) <= {"content-type", "content-length"}


@pytest.mark.security
def test_h08_a_body_over_the_cap_is_answered_503_and_reaches_no_upstream(bench: Bench) -> None:
    (answer,) = bench.send(bench.fleet("push-object", bytes(MAX_BODY_BYTES + 1)))
    assert (answer.status_code, answer.headers["connection"]) == (503, "close")
    assert bench.upstream.seen == []


def test_a_body_of_just_the_cap_passes_in_small_pieces(bench: Bench) -> None:
    (answer,) = bench.send(bench.fleet("push-object", bytes(MAX_BODY_BYTES)))
    assert answer.status_code == 200
    assert bench.upstream.seen[0][2] == MAX_BODY_BYTES
    assert bench.upstream.largest_chunk < 2**20


@pytest.mark.security
@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "9" * 13, "1, 1", "", "١"])
def test_h08_a_length_that_is_no_number_is_answered_404(bench: Bench, length: str) -> None:
    request = bench.fleet()
    request.headers["content-length"] = length.encode("utf-8").decode("latin-1")
    (answer,) = bench.send(request)
    assert answer.status_code == 404
    assert bench.upstream.seen == []


@pytest.mark.security
def test_h08_a_body_that_trickles_is_given_up(bench: Bench) -> None:
    class Trickle(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for _ in range(1000):
                yield b"x"
                await asyncio.sleep(0.1)

    key = bench.keys.header
    request = httpx.Request(
        "POST",
        "https://gateway/v1/fleet/push-object",
        stream=Trickle(),
        headers={"flwr-public-key": key, "content-length": "1000"},
    )
    started = time.monotonic()
    (answer,) = bench.send(request)
    assert answer.status_code == 503
    assert time.monotonic() - started < 60  # 1000 pieces would take 100 s


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_failing_superlink_is_503(bench: Bench, status: int) -> None:
    bench.upstream.status = status
    (answer,) = bench.send(bench.fleet())
    assert (answer.status_code, answer.content) == (503, b"")


@pytest.mark.parametrize("status", [400, 401, 403, 412])
def test_the_superlinks_own_refusals_pass(bench: Bench, status: int) -> None:
    bench.upstream.status = status
    (answer,) = bench.send(bench.fleet())
    assert (answer.status_code, answer.content) == (status, b"reply")


def test_a_superlink_that_is_down_is_503(bench: Bench) -> None:
    away = replace(bench, port=free_port())
    health = httpx.Request("GET", "https://gateway/health")
    fleet, health_answer = away.send(away.fleet(), health)
    assert fleet.status_code == 503
    assert (health_answer.status_code, health_answer.json()) == (503, {"status": "superlink down"})


@pytest.mark.security
def test_a_banned_key_is_refused_at_once_and_learns_why_when_it_starts(bench: Bench) -> None:
    assert bench.send(bench.fleet())[0].status_code == 200
    bench.nodes.ban("ana")
    bench.upstream.seen.clear()
    pulled, activated = bench.send(bench.fleet("pull-messages"), bench.fleet("activate-node"))
    assert (pulled.status_code, pulled.content) == (401, b"")
    assert activated.status_code == 412
    assert activated.json()["code"] == 2004
    assert bench.upstream.seen == []


@pytest.mark.security
def test_h06_an_unknown_key_reaches_no_upstream(bench: Bench) -> None:
    stranger, nobody = bench.fleet(), bench.fleet()
    stranger.headers["flwr-public-key"] = node_keys().header
    del nobody.headers["flwr-public-key"]
    assert [answer.status_code for answer in bench.send(stranger, nobody)] == [401, 401]
    assert bench.upstream.seen == []


def test_bytes_are_counted_per_node(bench: Bench) -> None:
    bench.upstream.chunks = (b"12345", b"678")
    bench.send(bench.fleet(body=b"x" * 10), bench.fleet(body=b"y" * 5))
    bench.traffic.flush()
    bench.traffic.flush()
    node = bench.nodes.by_name("ana")
    assert (node.bytes_up, node.bytes_down) == (15, 16)


def test_the_gateways_end_flushes_the_counts(bench: Bench) -> None:
    async def live() -> None:
        events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
        sent: list[str] = []

        async def receive() -> dict[str, str]:
            event = next(events)
            if event["type"] == "lifespan.shutdown":
                bench.traffic.add(bench.keys.header, up=7)
            return event

        async def send(event: dict[str, str]) -> None:
            sent.append(event["type"])

        async with bench.running() as gateway:
            await gateway({"type": "lifespan"}, receive, send)  # type: ignore[arg-type]
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    asyncio.run(live())
    assert bench.nodes.by_name("ana").bytes_up == 7


@pytest.mark.security
def test_h29_no_header_no_body_and_no_token_is_logged(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    made, keys = bench.invite("ben"), node_keys()
    big = bench.fleet("push-object", bytes(MAX_BODY_BYTES + 1))
    forged = bench.enrolment(made.model_copy(update={"token": "9" * 64}), keys)
    with caplog.at_level(logging.DEBUG, logger="server"):
        bench.send(bench.enrolment(made, keys), forged, bench.fleet(body=b"secret body"), big)
    assert "has enrolled" in caplog.text
    for hidden in (made.token, "9" * 64, keys.line, bench.keys.header, "secret body"):
        assert hidden not in caplog.text


@pytest.mark.security
def test_h17_no_origin_is_welcomed_and_no_host_is_echoed(bench: Bench) -> None:
    headers = {"origin": "https://evil.example", "host": "evil.example"}
    preflight = httpx.Request("OPTIONS", "https://gateway/enrol", headers=headers)
    simple = httpx.Request("POST", "https://gateway/enrol", headers=headers, content=b"{}")
    for answer in bench.send(preflight, simple):
        assert "evil" not in str(answer.headers) + answer.text
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_superlink_is_trusted_by_our_authority_alone(bench: Bench, tmp_path: Path) -> None:
    other = make_home(tmp_path / "other")
    certificate = TlsFiles(other.tls).ca_certificate

    async def ask() -> bool:
        forwarder = Forwarder(bench.port, certificate, bench.nodes, bench.traffic, bench.allowance)
        found = await forwarder.is_up()
        await forwarder.close()
        return found

    assert asyncio.run(ask()) is False
