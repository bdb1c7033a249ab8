"""Feeds through Tor: by name, a circuit a host, and never around it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from client.cli import run
from client.config import Federation, NodeConfig, NodeHome
from client.feeds_way import TorRoute, needs_tor
from federation import settings
from federation.errors import NetworkError
from federation.tor.forwarder import Patience as TorPatience
from federation.tor.settings import TorSettings
from federation.tor.socks import SocksAddress
from federation.tor.way import Tor
from rag.ingest.fetch import Fetcher, FetchError, Patience, Request
from tests.fake_socks import FakeSocks, refused
from tests.feed_samples import twenty
from tests.feed_server import FeedServer, ok

ONION = f"{'a' * 51}m2dqd.onion"

pytestmark = pytest.mark.security


@pytest.fixture
def server() -> Iterator[FeedServer]:
    with FeedServer(
        {"/rss": ok(twenty()), "/in": (302, {"location": "http://10.0.0.1/"}, b"")}
    ) as it:
        yield it


def route_of(socks: FakeSocks) -> TorRoute:
    address = SocksAddress.parse(socks.address, is_extended=True)
    return TorRoute(Tor(lambda: address))


def fetch(socks: FakeSocks, *urls: str) -> list[bytes]:
    fetcher = Fetcher(route_of(socks), patience=Patience(10, 10, 12))
    return [asyncio.run(fetcher.fetch(Request(url))).body or b"" for url in urls]


def test_h27_tor_is_given_the_name_and_each_host_has_a_circuit_of_its_own(
    server: FeedServer,
) -> None:
    with FakeSocks(target=server.port) as socks:
        bodies = fetch(socks, "http://a.example/rss", "http://b.example/rss", f"http://{ONION}/rss")
    assert bodies == [twenty()] * 3
    assert [(asked.host, asked.port) for asked in socks.asked] == [
        ("a.example", 80),
        ("b.example", 80),
        (ONION, 80),
    ]
    assert [asked.user for asked in socks.asked] == [
        "feed a.example",
        "feed b.example",
        f"feed {ONION}",
    ]
    assert [headers["host"] for _path, headers in server.asked] == ["a.example", "b.example", ONION]


def test_through_tor_the_program_does_not_say_what_it_is(server: FeedServer) -> None:
    with FakeSocks(target=server.port) as socks:
        fetch(socks, "http://a.example/rss")
    headers = server.asked[0][1]
    assert "conscience" not in json.dumps(headers).lower()
    assert "Firefox" in headers["user-agent"]


@pytest.mark.parametrize(
    "url",
    ["http://10.0.0.1/", "http://127.0.0.1:80/", "http://localhost/", "http://a.example:8080/"],
)
def test_local_places_are_not_asked_for_through_tor(server: FeedServer, url: str) -> None:
    with FakeSocks(target=server.port) as socks, pytest.raises(NetworkError):
        fetch(socks, url)
    assert socks.asked == []


def test_nor_by_a_redirect(server: FeedServer) -> None:
    with FakeSocks(target=server.port) as socks, pytest.raises(NetworkError, match="public name"):
        fetch(socks, "http://a.example/in")
    assert len(socks.asked) == 1


def test_what_tor_says_of_a_host_is_a_sentence() -> None:
    with FakeSocks(reply=refused(0xF6)) as socks, pytest.raises(FetchError, match="not valid"):
        fetch(socks, f"http://{ONION}/rss")


def node(tmp_path: Path, **values: object) -> NodeHome:
    home = NodeHome(tmp_path / "node")
    settings.save(NodeConfig.model_validate(values), home.config)
    home.datasets.mkdir()
    return home


def test_h27_the_whole_command_goes_through_tor_and_a_tor_that_is_not_there_is_no_way(
    tmp_path: Path,
    server: FeedServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    brisk = partial(TorRoute, patience=TorPatience(dial_s=1.0))
    monkeypatch.setattr("client.feeds_way.TorRoute", brisk)
    with FakeSocks(target=server.port) as socks:
        tor = TorSettings(mode="address", socks=socks.address)
        home = node(tmp_path, use_tor=True, tor=tor, feeds={"allow_loopback": True})
        home.feeds.write_text(json.dumps(["http://a.example/rss"]))
        assert run(["--home", str(home.root), "ingest"]) == 0
        assert "new=20" in capsys.readouterr().out
    home.feeds.write_text(json.dumps(["http://b.example/rss", server.url("/rss")]))
    stats = home.feed_stats.read_bytes()
    assert run(["--home", str(home.root), "ingest"]) == 44
    assert "Tor is not running" in capsys.readouterr().err
    assert len(server.asked) == 1
    assert home.feed_stats.read_bytes() == stats


@pytest.mark.parametrize(
    ("use_tor", "address", "expected"),
    [
        (None, "", False),
        (True, "", True),
        (None, f"{ONION}:443", True),
        (None, "example.org:9443", False),
        (True, "example.org:9443", True),
        (False, "example.org:9443", False),
    ],
)
def test_h27_feeds_go_as_the_node_goes(
    tmp_path: Path, use_tor: bool | None, address: str, expected: bool
) -> None:
    home = node(tmp_path, use_tor=use_tor)
    if address:
        joined = Federation(
            address=address, base_ref="b", base_hash="h", spec={}, operator_key="k",
            bundle_hash="b", node="n", flower_node_id="1", joined_at="2026-01-01T00:00:00+00:00",
        )  # fmt: skip
        settings.save(joined, home.federation)
    assert needs_tor(home, NodeConfig(use_tor=use_tor)) is expected
