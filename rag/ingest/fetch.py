"""A feed's bytes over the network: the one file that fetches.

Bounded in every way: time, bytes before and after unpacking, redirects; each address is judged
before it is connected to. No cookies, no proxy variables, gzip alone.
"""

from __future__ import annotations

import asyncio
import http
import ssl
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Protocol
from urllib.parse import urljoin

import httpx

from federation.errors import NetworkError
from federation.language import _
from rag.ingest.address_guard import Place, RefusedError, place_of
from rag.ingest.inflate import Inflater, TooLargeError, gunzip

MAX_BYTES = 5_000_000
MAX_REDIRECTS = 5
AGENT = "conscienceai (reads feeds its owner subscribed to)"
TOR_AGENT = "Mozilla/5.0 (Windows NT 10.0; rv:128.0) Gecko/20100101 Firefox/128.0"
ACCEPT = "application/rss+xml, application/atom+xml, application/xml;q=0.9, */*;q=0.5"
_LASTING = (301, 308)
_REDIRECTS = (301, 302, 303, 307, 308)


class Route(Protocol):
    """How hosts are reached."""

    @property
    def is_tor(self) -> bool:
        """Whether it is slow and must not tell who we are."""

    def open(self, place: Place) -> AbstractAsyncContextManager[tuple[str, int]]:
        """The address and port to connect to; raises NetworkError."""


@dataclass(frozen=True)
class Patience:
    """How long one feed may take, in seconds."""

    connect_s: float = 10.0
    read_s: float = 20.0
    total_s: float = 60.0

    def times(self, factor: float) -> Patience:
        """So many times as long."""
        return Patience(self.connect_s * factor, self.read_s * factor, self.total_s * factor)


@dataclass(frozen=True)
class Request:
    """What is asked for; `etag` and `modified` of the last answer, "" for none."""

    url: str
    etag: str = ""
    modified: str = ""


@dataclass(frozen=True)
class Fetched:
    """An answer.

    Attributes:
        url: where it came from in the end.
        moved_to: the feed's lasting new address; "" if it has not moved.
        body: unpacked; None if nothing has changed (304).
        content_type, etag, modified: as the server said.
        wish_s: how long the server wants it to be kept.
    """

    url: str
    moved_to: str
    body: bytes | None
    content_type: str = ""
    etag: str = ""
    modified: str = ""
    wish_s: float = 0.0


@dataclass
class Contact:
    """One request, as far as it came; a host that was only looked up counts too.

    Attributes:
        host: that was asked.
        is_tor: through Tor.
        sent_bytes: before TLS; 0 if no answer began to come.
        received_bytes: as they came, packed.
    """

    host: str
    is_tor: bool
    sent_bytes: int = 0
    received_bytes: int = 0


class FetchError(NetworkError):
    """A feed that did not come.

    Attributes:
        retry_after_s: when the server wants to be asked again; None if it did not say.
        is_gone: for good (410).
    """

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, is_gone: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.is_gone = is_gone


class Fetcher:
    """Fetches feeds over one route.

    Args:
        route: how hosts are reached.
        patience: for each feed; three times as much through Tor.
        max_bytes: of an unpacked body.
        trust: certificates; None: the usual ones.
        heard: told of each request, whatever came of it.
    """

    def __init__(
        self,
        route: Route,
        *,
        patience: Patience | None = None,
        max_bytes: int = MAX_BYTES,
        trust: ssl.SSLContext | None = None,
        heard: Callable[[Contact], None] = lambda _contact: None,
    ) -> None:
        self._route = route
        self._patience = (patience or Patience()).times(3.0 if route.is_tor else 1.0)
        self._max_bytes = max_bytes
        self._trust = trust or httpx.create_ssl_context(trust_env=False)
        self._heard = heard

    async def fetch(self, request: Request) -> Fetched:
        """One feed.

        Raises:
            FetchError: it did not come; says why.
            NetworkError: it is not to be asked for (`RefusedError`), or cannot be reached.
        """
        try:
            async with asyncio.timeout(self._patience.total_s):
                return await self._follow(request)
        except TimeoutError as err:
            raise FetchError(
                _("it took longer than {seconds:.0f} s").format(seconds=self._patience.total_s)
            ) from err
        except TooLargeError as err:
            raise FetchError(
                _("it is larger than {size} MB").format(size=self._max_bytes / 1e6)
            ) from err
        except zlib.error as err:
            raise FetchError(_("what came is damaged")) from err
        except httpx.TimeoutException as err:
            raise FetchError(_("no answer in time")) from err
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as err:
            why = str(err) or type(err).__name__
            raise FetchError(_("it cannot be reached ({why})").format(why=why[:200])) from err

    async def _follow(self, request: Request) -> Fetched:
        url, moved_to, is_lasting = request.url, "", True
        for _hop in range(MAX_REDIRECTS + 1):
            answer, target = await self._once(replace(request, url=url))
            if answer is not None:
                return replace(answer, moved_to=moved_to)
            code, there = target
            is_lasting = is_lasting and code in _LASTING
            _require_no_downgrade(url, there)
            url = there
            moved_to = url if is_lasting else moved_to
        raise FetchError(_("more than {count} redirects").format(count=MAX_REDIRECTS))

    async def _once(self, request: Request) -> tuple[Fetched | None, tuple[int, str]]:
        """One request: an answer, or the code and target of a redirect."""
        place = place_of(request.url)
        contact = Contact(place.host, self._route.is_tor)
        try:
            return await self._ask(request, place, contact)
        finally:
            self._heard(contact)

    async def _ask(
        self, request: Request, place: Place, contact: Contact
    ) -> tuple[Fetched | None, tuple[int, str]]:
        times = self._patience
        async with (
            self._route.open(place) as (address, port),
            httpx.AsyncClient(
                verify=self._trust,
                trust_env=False,
                follow_redirects=False,
                timeout=httpx.Timeout(times.read_s, connect=times.connect_s),
            ) as client,
            client.stream(
                "GET",
                httpx.URL(request.url).copy_with(host=address, port=port, fragment=None),
                headers=self._headers(request, place),
                extensions={"sni_hostname": place.host},
            ) as response,
        ):
            try:
                return await self._outcome(request, response)
            finally:
                contact.sent_bytes = _size_of_request(response.request)
                contact.received_bytes = _size_of(response.headers) + response.num_bytes_downloaded

    async def _outcome(
        self, request: Request, response: httpx.Response
    ) -> tuple[Fetched | None, tuple[int, str]]:
        code = response.status_code
        if code in _REDIRECTS and "location" in response.headers:
            return None, (code, urljoin(request.url, response.headers["location"]))
        return await self._answer(request, response), (code, "")

    async def _answer(self, request: Request, response: httpx.Response) -> Fetched:
        code, headers = response.status_code, response.headers
        wish_s = _max_age(headers)
        if code == httpx.codes.NOT_MODIFIED and (request.etag or request.modified):
            return Fetched(request.url, "", None, wish_s=wish_s)
        if code != httpx.codes.OK:
            raise FetchError(
                _("the server answers {code} {words}").format(code=code, words=_words(code)),
                retry_after_s=_retry_after(headers) if code in (429, 503) else None,
                is_gone=code == httpx.codes.GONE,
            )
        return Fetched(
            url=request.url,
            moved_to="",
            body=await self._body(response),
            content_type=headers.get("content-type", "")[:200],
            etag=headers.get("etag", "")[:500],
            modified=headers.get("last-modified", "")[:100],
            wish_s=wish_s,
        )

    async def _body(self, response: httpx.Response) -> bytes:
        coding = response.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("identity", "gzip", "x-gzip", ""):
            raise FetchError(_("it is packed in a way that was not asked for"))
        inflater = Inflater(self._max_bytes) if "gzip" in coding else None
        body = bytearray()
        async for piece in response.aiter_raw(chunk_size=64 * 1024):
            body += piece if inflater is None else inflater.add(piece)
            if len(body) > self._max_bytes:
                raise TooLargeError
        return gunzip(bytes(body), self._max_bytes)  # some are packed and do not say so

    def _headers(self, request: Request, place: Place) -> dict[str, str]:
        asked = {"if-none-match": request.etag, "if-modified-since": request.modified}
        return {
            "host": place.authority,
            "user-agent": TOR_AGENT if self._route.is_tor else AGENT,
            "accept": ACCEPT,
            "accept-encoding": "gzip",
            "connection": "close",
        } | {name: value for name, value in asked.items() if value}


def _require_no_downgrade(here: str, there: str) -> None:
    if place_of(here).scheme == "https" and place_of(there).scheme == "http":
        raise RefusedError(_("it redirects from https to http"))


def _size_of_request(request: httpx.Request) -> int:
    line = len(f"{request.method}  HTTP/1.1\r\n") + len(request.url.raw_path)
    return line + _size_of(request.headers) + len("\r\n")


def _size_of(headers: httpx.Headers) -> int:
    return sum(len(name) + len(value) + len(": \r\n") for name, value in headers.raw)


def _words(code: int) -> str:
    try:
        return http.HTTPStatus(code).phrase
    except ValueError:
        return ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(min(int(value[:9]), 10**8))
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _max_age(headers: Mapping[str, str]) -> float:
    for part in headers.get("cache-control", "").lower().split(","):
        name, _equals, value = part.strip().partition("=")
        if name == "max-age" and value.strip('"').isdecimal():
            return float(min(int(value.strip('"')[:9]), 10**8))
    return 0.0
