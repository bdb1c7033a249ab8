"""Which addresses a feed may be fetched from."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from federation.errors import NetworkError
from rag.ingest.address_guard import (
    DirectRoute,
    RefusedError,
    is_public,
    place_of,
    require_public_name,
    resolve,
)

pytestmark = pytest.mark.security


def reach(url: str, addresses: Sequence[str], *, allow_loopback: bool = False) -> tuple[str, int]:
    asked = []

    async def answer(host: str, port: int) -> Sequence[str]:
        asked.append((host, port))
        return addresses

    async def go() -> tuple[str, int]:
        route = DirectRoute(allow_loopback, answer)
        async with route.open(place_of(url)) as target:
            return target

    target = asyncio.run(go())
    assert len(asked) == 1  # a second look-up could be told something else
    return target


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1",  # noqa: S104
        "172.16.0.1", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1",
        "::1", "::", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "fe80::1", "fe80::1%eth0", "fc00::1",
        "ff02::1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2001:0:7f00:1::", "no",
    ],
)  # fmt: skip
def test_h23_private_addresses_are_refused_however_they_are_wrapped(address: str) -> None:
    assert not is_public(address)
    for url in ("http://feeds.example/rss", "https://feeds.example/rss"):
        with pytest.raises(RefusedError):
            reach(url, [address])


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
def test_a_public_address_is_the_one_that_is_connected_to(address: str) -> None:
    assert reach("https://feeds.example/rss", [address, "8.8.8.8"]) == (address, 443)


def test_one_private_address_among_public_ones_refuses_the_name() -> None:
    with pytest.raises(RefusedError):
        reach("https://feeds.example/rss", ["8.8.8.8", "10.0.0.1"])
    with pytest.raises(RefusedError):
        reach("http://feeds.example:80/", ["127.0.0.1", "10.0.0.1"], allow_loopback=True)


@pytest.mark.parametrize("port", [22, 25, 5180, 8080, 9050])
def test_other_ports_than_the_web_s_are_refused(port: int) -> None:
    with pytest.raises(RefusedError, match=str(port)):
        reach(f"http://feeds.example:{port}/", ["8.8.8.8"])


def test_this_machine_is_reached_in_tests_alone() -> None:
    assert reach("http://localhost:5180/", ["127.0.0.1"], allow_loopback=True)[1] == 5180
    with pytest.raises(RefusedError):
        reach("http://localhost:80/", ["127.0.0.1"])


@pytest.mark.parametrize(
    "url",
    ["ftp://a.example/", "file:///etc/passwd", "http://", "http://u:p@a.example/", "gopher://a/",
     "http://a.example:99999/", "http://[::1", "javascript:1", "", "http://xn--\udcff.example/"],
)  # fmt: skip
def test_what_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(RefusedError):
        place_of(url)


def test_an_onion_needs_tor() -> None:
    with pytest.raises(RefusedError, match="Tor"):
        reach(f"http://{'a' * 51}m2dqd.onion/", ["8.8.8.8"])


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "10.1", "0x7f.1", "::1", "localhost", "router", "printer.local", "a.internal",
     "a.localhost", "1.0.168.192.in-addr.arpa", "2130706433"],
)  # fmt: skip
def test_through_a_proxy_local_names_and_addresses_are_refused(host: str) -> None:
    with pytest.raises(RefusedError):
        require_public_name(host)


def test_through_a_proxy_public_names_and_onions_pass() -> None:
    for host in ("feeds.example.org", f"{'a' * 51}m2dqd.onion"):
        require_public_name(host)


def test_a_name_that_is_not_known_is_a_sentence() -> None:
    with pytest.raises(NetworkError, match="not known"):
        asyncio.run(resolve("a..b", 80))


def test_names_are_compared_in_one_form() -> None:
    place = place_of("https://ÑANDÚ.example./rss")
    assert (place.host, place.port) == ("xn--and-6ma2c.example", 443)
    assert place.authority == "xn--and-6ma2c.example"
    assert place_of("http://A.example:8080/").authority == "a.example:8080"
    assert place_of("http://[2606:2800::1]/").authority == "[2606:2800::1]"
