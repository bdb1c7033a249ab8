"""Feeds over HTTP from a server of this machine: bounded in bytes, time, redirects and places."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from federation.errors import NetworkError
from rag.ingest.address_guard import DirectRoute, Place
from rag.ingest.fetch import Fetched, Fetcher, FetchError, Patience, Request, Route
from server import ca
from tests.feed_samples import twenty
from tests.feed_server import FeedServer, ok, with_etag

NEAR = DirectRoute(allow_loopback=True)
BRISK = Patience(connect_s=2, read_s=2, total_s=3)


def fetch(
    url: str,
    *,
    route: Route = NEAR,
    patience: Patience | None = None,
    max_bytes: int = 5_000_000,
    etag: str = "",
    modified: str = "",
) -> Fetched:
    fetcher = Fetcher(route, patience=patience, max_bytes=max_bytes)
    return asyncio.run(fetcher.fetch(Request(url, etag, modified)))


def test_a_feed_comes_with_what_its_server_says_of_it() -> None:
    headers = {"etag": '"x"', "last_modified": "Tue, 05 Aug 2025 10:00:00 GMT"}
    page = ok(twenty(), content_type="application/rss+xml", cache_control="max-age=60", **headers)
    with FeedServer({"/rss": page}) as server:
        fetched = fetch(server.url("/rss#top"))
        assert fetched.body == twenty()
        assert (fetched.etag, fetched.modified) == ('"x"', "Tue, 05 Aug 2025 10:00:00 GMT")
        assert (fetched.content_type, fetched.wish_s) == ("application/rss+xml", 60.0)
        assert fetched.moved_to == ""
        ((path, asked),) = server.asked
    assert path == "/rss"
    assert asked["host"] == f"127.0.0.1:{server.port}"
    assert asked["accept-encoding"] == "gzip"
    assert not {"cookie", "if-none-match", "if-modified-since", "referer"} & set(asked)


def test_what_has_not_changed_is_not_sent_again() -> None:
    with FeedServer({"/rss": with_etag(twenty())}) as server:
        first = fetch(server.url("/rss"))
        second = fetch(server.url("/rss"), etag=first.etag, modified="x")
        assert second.body is None
        assert server.asked[1][1]["if-modified-since"] == "x"


def test_a_304_that_nobody_asked_for_is_a_failure() -> None:
    with FeedServer({"/rss": (304, {}, b"")}) as server, pytest.raises(FetchError, match="304"):
        fetch(server.url("/rss"))


@pytest.mark.parametrize("says_so", [True, False])
def test_a_packed_feed_is_unpacked(says_so: bool) -> None:
    headers = {"content_encoding": "gzip"} if says_so else {}
    with FeedServer({"/rss": ok(gzip.compress(twenty()), **headers)}) as server:
        assert fetch(server.url("/rss")).body == twenty()


@pytest.mark.security
@pytest.mark.parametrize("says_so", [True, False])
def test_h23_a_gzip_bomb_is_refused(says_so: bool) -> None:
    headers = {"content_encoding": "gzip"} if says_so else {}
    bomb = gzip.compress(b" " * 60_000_000)
    with (
        FeedServer({"/rss": ok(bomb, **headers)}) as server,
        pytest.raises(FetchError, match="larger"),
    ):
        fetch(server.url("/rss"))


@pytest.mark.security
def test_a_body_that_is_too_large_is_refused_wherever_its_end_is() -> None:
    with FeedServer({"/rss": ok(b"x" * 1001), "/fits": ok(b"x" * 1000)}) as server:
        assert len(fetch(server.url("/fits"), max_bytes=1000).body or b"") == 1000
        with pytest.raises(FetchError, match="larger"):
            fetch(server.url("/rss"), max_bytes=1000)


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip"])
def test_other_packings_are_refused(coding: str) -> None:
    with (
        FeedServer({"/rss": ok(b"xx", content_encoding=coding)}) as server,
        pytest.raises(FetchError, match="packed"),
    ):
        fetch(server.url("/rss"))


def test_damaged_packing_is_a_sentence() -> None:
    page = ok(b"\x1f\x8b" + b"\xff" * 50, content_encoding="gzip")
    with FeedServer({"/rss": page}) as server, pytest.raises(FetchError, match="damaged"):
        fetch(server.url("/rss"))


@pytest.mark.security
def test_a_server_that_drips_is_left_after_the_whole_time() -> None:
    with FeedServer({"/rss": ok(twenty())}, slow={"/rss": 0.3}) as server:
        started = time.monotonic()
        with pytest.raises(FetchError, match="longer than 1 s"):
            fetch(server.url("/rss"), patience=Patience(2, 2, 1))
        assert time.monotonic() - started < 60  # the whole page would take minutes


def test_a_server_that_says_nothing_is_left() -> None:
    with FeedServer({}, silent={"/rss"}) as server, pytest.raises(FetchError, match="in time"):
        fetch(server.url("/rss"), patience=Patience(1, 0.5, 10))


def test_nobody_there_is_a_sentence() -> None:
    with FeedServer() as server:
        url = server.url("/rss")
    with pytest.raises(FetchError, match="cannot be reached"):
        fetch(url, patience=BRISK)


def test_a_lasting_move_is_told_and_a_passing_one_is_not() -> None:
    with FeedServer() as server:
        server.pages = {
            "/rss": ok(twenty()),
            "/301": (301, {"location": "/308"}, b""),
            "/308": (308, {"location": server.url("/rss")}, b""),
            "/302": (302, {"location": "/301"}, b""),
            "/both": (301, {"location": "/302"}, b""),
        }
        assert fetch(server.url("/301")).moved_to == server.url("/rss")
        assert fetch(server.url("/302")).moved_to == ""
        both = fetch(server.url("/both"))
        assert (both.moved_to, both.body) == (server.url("/302"), twenty())


def test_redirects_without_end_are_left() -> None:
    with FeedServer(
        {"/a": (302, {"location": "/b"}, b""), "/b": (302, {"location": "/a"}, b"")}
    ) as s:
        with pytest.raises(FetchError, match="5 redirects"):
            fetch(s.url("/a"))
        assert len(s.asked) == 6


@pytest.mark.security
@pytest.mark.parametrize(
    "target",
    [
        "http://10.1.2.3/rss",
        "http://192.168.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:10.0.0.1]/",
        "http://0x0a000001/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "http://user:pass@127.0.0.1/",
        "javascript:alert(1)",
        "http://[::1",
    ],
)
def test_h23_a_redirect_to_a_private_place_is_refused(target: str) -> None:
    with FeedServer({"/rss": (302, {"location": target}, b"")}) as server:
        with pytest.raises(NetworkError):
            fetch(server.url("/rss"), patience=BRISK)
        assert server.paths() == ["/rss"]


class PublicRoute:
    """As if `news.example` were a public server: it is one of this machine; else the real guard."""

    is_tor = False

    def __init__(self, port: int, hosts: Sequence[str] = ("news.example",)) -> None:
        self.port, self.hosts = port, hosts

    @asynccontextmanager
    async def open(self, place: Place) -> AsyncIterator[tuple[str, int]]:
        if place.host in self.hosts:
            yield "127.0.0.1", self.port
            return
        async with DirectRoute().open(place) as target:
            yield target


@pytest.mark.security
def test_h23_a_public_feed_that_redirects_to_this_machine_is_refused() -> None:
    with FeedServer({"/rss": (302, {"location": "http://127.0.0.1:5180/"}, b"")}) as server:
        with pytest.raises(NetworkError, match="5180"):
            fetch("http://news.example/rss", route=PublicRoute(server.port))
        server.pages["/rss"] = (301, {"location": "http://localhost/"}, b"")
        with pytest.raises(NetworkError, match="no public address"):
            fetch("http://news.example/rss", route=PublicRoute(server.port))
        assert server.asked[0][1]["host"] == "news.example"


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [("120", 120.0), ("", None), ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)
@pytest.mark.parametrize("code", [429, 503])
def test_a_busy_server_says_when_to_come_back(code: int, value: str, wait_s: float | None) -> None:
    headers = {"retry-after": value} if value else {}
    with (
        FeedServer({"/rss": (code, headers, b"")}) as server,
        pytest.raises(FetchError, match=str(code)) as caught,
    ):
        fetch(server.url("/rss"))
    assert caught.value.retry_after_s == wait_s


@pytest.mark.parametrize(
    ("code", "is_gone"), [(410, True), (404, False), (500, False), (206, False)]
)
def test_other_answers_are_named(code: int, is_gone: bool) -> None:
    with (
        FeedServer({"/rss": (code, {}, b"x")}) as server,
        pytest.raises(FetchError, match=str(code)) as caught,
    ):
        fetch(server.url("/rss"))
    assert caught.value.is_gone is is_gone


@pytest.mark.security
def test_a_certificate_of_nobody_known_is_refused() -> None:
    with FeedServer({"/rss": ok(twenty())}) as server:
        url = server.url("/rss").replace("http:", "https:")
        with pytest.raises(FetchError, match="cannot be reached"):
            fetch(url, patience=BRISK)
        assert server.asked == []


@pytest.mark.security
def test_the_name_of_a_certificate_counts_and_https_is_never_given_up(tmp_path: Path) -> None:
    files = ca.create(tmp_path, name="t", addresses=["news.example"], now=datetime.now(UTC))
    shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shown.load_cert_chain(files.certificate, files.key)
    trust = ssl.create_default_context(cafile=str(files.ca_certificate))
    names = []
    shown.sni_callback = lambda _socket, name, _context: names.append(name)
    pages = {"/rss": ok(twenty()), "/down": (301, {"location": "http://news.example/rss"}, b"")}
    with FeedServer(pages, trust=shown) as server:
        fetcher = Fetcher(PublicRoute(server.port, ("news.example", "b.example")), trust=trust)
        fetched = asyncio.run(fetcher.fetch(Request("https://news.example/rss")))
        assert fetched.body == twenty()
        with pytest.raises(FetchError, match=r"b\.example"):
            asyncio.run(fetcher.fetch(Request("https://b.example/rss")))
        with pytest.raises(NetworkError, match="https to http"):
            asyncio.run(fetcher.fetch(Request("https://news.example/down")))
        assert server.paths() == ["/rss", "/down"]
    assert names == ["news.example", "b.example", "news.example"]


@pytest.mark.security
def test_proxy_variables_are_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    with FeedServer({"/rss": ok(twenty())}) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        assert fetch(server.url("/rss")).body == twenty()
