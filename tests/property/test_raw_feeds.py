"""Any feed: the quick handler finds in it what feedparser alone finds."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import feedparser  # noqa: TID253 - this is the door's other side
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.ingest import raw
from rag.ingest.inflate import gunzip
from rag.ingest.parse import FAULTS

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "feeds"
NAMESPACES = {
    "content": "http://purl.org/rss/1.0/modules/content/",
    "dc": "http://purl.org/dc/elements/1.1/",
    "dcterms": "http://purl.org/dc/terms/",
    "media": "http://search.yahoo.com/mrss/",
    "itunes": "http://www.itunes.com/dtds/podcast-1.0.dtd",
    "cc": "http://web.resource.org/cc/",
    "sy": "http://purl.org/rss/1.0/modules/syndication/",
    "h": "http://www.w3.org/1999/xhtml",
    "a": "http://www.w3.org/2005/Atom",
    "u": "http://backend.userland.com/rss2",
    "own": "https://own.example/ns",
    "xlink": "http://www.w3.org/1999/xlink",
    "svg": "http://www.w3.org/2000/svg",
}
DECLARED = "".join(f' xmlns:{prefix}="{uri}"' for prefix, uri in NAMESPACES.items())
RDF = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
SHELLS = (
    f'<rss version="2.0"{DECLARED} {RDF}><channel>%s</channel></rss>',
    f'<feed xmlns="http://www.w3.org/2005/Atom" xml:lang="es_CR"{DECLARED} {RDF}>%s</feed>',
    f'<feed version="0.3" xmlns="http://purl.org/atom/ns#"{DECLARED} {RDF}>%s</feed>',
    f'<rdf:RDF xmlns="http://purl.org/rss/1.0/"{DECLARED} {RDF}>%s</rdf:RDF>',
    f"<other{DECLARED} {RDF}>%s</other>",
)
ENTRIES = ("item", "entry", "a:entry")
ELEMENTS = """
title link guid id description summary content content:encoded dc:title dc:description dc:date
dc:creator dc:rights dc:language dcterms:modified dcterms:issued pubDate published updated issued
modified created date rights copyright language ttl sy:updatePeriod abstract body h:body fullitem
image url textInput name source author category enclosure media:group media:title media:description
media:content media:thumbnail itunes:summary itunes:image cc:license own:thing own:title u:title
a:title a:link a:content tagline info subtitle h:p h:div div p svg:svg svg:path svg math tags
keywords links
"""
ATTRIBUTES = """
type rel href url xml:lang xml:base base isPermaLink rdf:about rdf:resource mode src own:type
version xlink:href Title
"""
VALUES = """
html xhtml text text/plain application/xml image/svg+xml base64 alternate self license false es
https://b.example/c/ x/y?a=1&b=2
"""
PIECES = """
plain words| |\n|<p>markup</p> &amp; more|<script>x</script>|año|aÃ±o|\u0093quoted\u0094|Ω \u0085|
https:////a.example/x?a=1&amp;b=2|/relative|aGk=|Tue, 05 Aug 2025 10:00:00 GMT|2025-08-05T10:00:00Z|
2025-08|martes|<b>&copy;</b>
"""
names = st.sampled_from(ELEMENTS.split())
values = st.sampled_from(["", *VALUES.split()])
attributes = st.dictionaries(st.sampled_from(ATTRIBUTES.split()), values, max_size=3)
pieces = st.lists(st.sampled_from(PIECES.split("|")), max_size=2)


@st.composite
def elements(draw: st.DrawFn, depth: int = 3) -> str:
    name = draw(names)
    written = "".join(f' {key}="{escape(value)}"' for key, value in draw(attributes).items())
    inner = [escape(piece) for piece in draw(pieces)]
    if draw(st.integers(0, 9)) == 0:
        inner = [f"<![CDATA[{piece}]]>" for piece in draw(pieces)]
    if depth and draw(st.integers(0, 3)) == 0:
        inner += draw(st.lists(elements(depth - 1), max_size=3))
    inside = 'xmlns="http://www.w3.org/1999/xhtml"' if draw(st.integers(0, 19)) == 0 else ""
    return f"<{name} {inside}{written}>{''.join(draw(st.permutations(inner)))}</{name}>"


@st.composite
def feeds(draw: st.DrawFn) -> bytes:
    parts = draw(st.lists(elements(), max_size=4))
    for _entry in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(ENTRIES))
        parts.append(f"<{name}>{''.join(draw(st.lists(elements(), max_size=6)))}</{name}>")
    feed = (draw(st.sampled_from(SHELLS)) % "".join(parts)).encode()
    return feed.replace(b"</", b"<", 1) if draw(st.integers(0, 19)) == 0 else feed


def alone(body: bytes) -> Any:
    """As `read_raw`, by feedparser without us."""
    return feedparser.parse(
        io.BytesIO(body),
        response_headers={"content-type": "application/xml"},
        sanitize_html=False,
        resolve_relative_uris=False,
    )


def plainly(value: Any, key: str = "", *, is_typed: bool) -> Any:
    """A value without what the handler leaves undone: dates, and guesses of a text's type."""
    onward = partial(plainly, is_typed=is_typed)
    if key in ("published_parsed", "updated_parsed", "created_parsed"):
        return raw.moment(value)
    if isinstance(value, Mapping):
        return {name: onward(dict.__getitem__(value, name), name) for name in value.keys()}  # noqa: SIM118
    if isinstance(value, list):
        return [onward(each) for each in value]
    return "text" if key == "type" and not is_typed and value.startswith("text/") else value


def found(feed: Any) -> Any:
    is_typed = str(feed.get("version") or "").startswith("atom")
    names = ("feed", "entries", "version", "bozo", "namespaces")
    return {name: plainly(feed.get(name), is_typed=is_typed) for name in names}


def compare(body: bytes) -> None:
    try:
        expected = found(alone(body))
    except FAULTS:
        return  # then a feed is read otherwise, or named
    assert found(raw.read_raw(body, "application/xml")) == expected


@pytest.fixture
def with_all_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "is_unused", lambda _name: False)


@pytest.mark.usefixtures("with_all_elements")
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(feeds())
def test_any_feed_holds_what_feedparser_finds_in_it(body: bytes) -> None:
    compare(body)


@pytest.mark.usefixtures("with_all_elements")
@pytest.mark.skipif(not SHARED.exists(), reason="needs the captured feeds")
def test_every_captured_feed_holds_what_feedparser_finds_in_it() -> None:
    paths = [path for path in SHARED.iterdir() if path.suffix in (".xml", ".rss", ".atom", ".rdf")]
    assert len(paths) > 50
    for path in paths:
        compare(gunzip(path.read_bytes(), 5_000_000))
