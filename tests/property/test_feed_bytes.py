"""Any bytes at all as a feed or a file: entries or a named error, and clean text either way."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import re
import tempfile
import zipfile
import zlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.errors import ConfigError, FormatError
from rag.ingest.clean import one_line, paragraphs, safe_link, text_of_html
from rag.ingest.dates import read_date
from rag.ingest.duplicates import bands, likeness, sketch
from rag.ingest.entries import Entry
from rag.ingest.feeds import read_feeds
from rag.ingest.files import SUFFIXES
from rag.ingest.identity import canonical_link, content_sha256
from rag.ingest.inflate import TooLargeError, gunzip
from rag.ingest.parse import first_entries, parse_feed
from rag.ingest.reading import do
from rag.ingest.tongue import language_of
from rag.ingest.topics import matching
from rag.ingest.words import words_of
from tests.feed_samples import item, rss, text_of
from tests.file_samples import docx, pdf

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RARE = "\u200b\u202e\u2066\U000e0041\x00\x1b\ud800\ue000\ufeff"
RARELY_SEEN = re.compile(f"[{RARE}]")
ATOM = (
    b'<feed xmlns="http://www.w3.org/2005/Atom"><title>T</title><entry><id>1</id><title>A</title>'
    b'<content type="html">&lt;p&gt;x&lt;/p&gt;</content><link href="/x"/></entry></feed>'
)
PIECES = st.sampled_from(
    [b"<item>", b"</item>", b"<entry>", b"<title>", b"]]>", b"<![CDATA[", b"&#0;", b"&lt;", b"<!--",
     b"\xff\xfe", b"<?xml version='1.0' encoding='utf-16'?>", b"<!DOCTYPE x [",
     b"<link href='\\'/>", b"<pubDate>", b"base64", b"\x00", b"&x;", b"<content type='base64'>", b"xml:base='http://['"]
)  # fmt: skip
texts = st.text(st.characters() | st.sampled_from(RARE), max_size=300)
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """A file with bytes put in, taken out or written over."""
    body = bytearray(draw(whole))
    for _edit in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(0, len(body) - 1)))
        length = draw(st.integers(0, 40))
        body[place : place + length] = draw(PIECES | st.binary(max_size=12))
    return bytes(body)


def check(entry: Entry) -> None:
    assert entry.text
    for text in (entry.title, entry.text, entry.licence):
        assert not RARELY_SEEN.search(text)
    assert "\n" not in entry.title
    assert entry.link == "" or entry.link.startswith(("http://", "https://"))
    if entry.published:
        assert datetime.fromisoformat(entry.published).tzinfo is not None


def read(body: bytes) -> None:
    try:
        content = parse_feed(
            body, url="https://a.example/", content_type="", tag="", max_items=50, now=NOW
        )
    except FormatError:
        return
    assert 0 <= len(content.entries) <= 50
    for entry in content.entries:
        check(entry)


@quick
@given(st.binary(max_size=400) | st.lists(PIECES, max_size=20).map(b"".join))
def test_any_bytes_as_a_feed(body: bytes) -> None:
    read(body)


@quick
@given(damaged(st.sampled_from([rss([item(n) for n in range(3)]), ATOM])))
def test_any_damage_to_a_feed(body: bytes) -> None:
    read(body)


@quick
@given(texts, texts, texts)
def test_any_texts_in_an_entry(title: str, description: str, link: str) -> None:
    def inside(text: str) -> str:
        return f"<![CDATA[{text.replace(']]>', '')}]]>".encode("utf-8", "replace").decode()

    read(rss([item(1, title=inside(title), description=inside(description), link=inside(link))]))


@quick
@given(st.binary(max_size=300) | texts.map(lambda text: text.encode("utf-8", "replace")),
       st.sampled_from(SUFFIXES))  # fmt: skip
def test_any_bytes_as_a_file(body: bytes, suffix: str) -> None:
    read_or_named(body, suffix)


@cache
def samples() -> dict[str, bytes]:
    return {".pdf": pdf("words of a page"), ".docx": docx("a letter", "of two paragraphs")}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([".pdf", ".docx"]).flatmap(
    lambda suffix: st.tuples(damaged(st.just(samples()[suffix])), st.just(suffix))))  # fmt: skip
def test_any_damage_to_a_pdf_or_word_file(sample: tuple[bytes, str]) -> None:
    read_or_named(*sample)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(damaged(st.just(zipfile.ZipFile(io.BytesIO(docx("words"))).read("word/document.xml"))))
def test_any_damage_inside_a_word_file(body: bytes) -> None:
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(samples()[".docx"])) as whole,
        zipfile.ZipFile(packed, "w") as changed,
    ):
        for name in whole.namelist():
            changed.writestr(name, body if name == "word/document.xml" else whole.read(name))
    read_or_named(packed.getvalue(), ".docx")


def read_or_named(body: bytes, suffix: str) -> None:
    answer = do({"kind": "file", "name": f"x{suffix}", "now": NOW.isoformat()}, body)
    if "error" in answer:
        assert answer["error"]
        return
    for fields in answer["entries"]:
        check(Entry._make(fields))


@quick
@given(texts)
def test_any_text_comes_out_clean_and_cleaning_again_changes_nothing(text: str) -> None:
    for clean in (paragraphs(text), text_of_html(text), one_line(text)):
        assert not RARELY_SEEN.search(clean)
        clean.encode()
    once = paragraphs(text)
    assert paragraphs(once) == once
    assert "\n\n\n" not in once


@quick
@given(texts)
def test_any_text_as_a_link_a_date_a_topic_and_a_language(text: str) -> None:
    link = safe_link(text, "https://a.example/")
    assert link == "" or link.startswith(("http://", "https://"))
    canonical_link(link)
    read_date(None, text, NOW)
    matching((text,), text)
    assert len(language_of(text, text)) in (0, 2)


@quick
@given(texts | st.text(st.characters(codec="ascii")) | st.text(st.characters(codec="cp1252")))
def test_words_are_the_same_whatever_letters_stand_beside_them(text: str) -> None:
    assert words_of(text) == words_of(f"ñ {text}")[1:] == words_of(f"Ω {text}")[1:]


@quick
@given(st.text(st.characters(codec="cp1252")))
def test_a_western_text_is_cleaned_like_any_other(text: str) -> None:
    beside_others = paragraphs(f"Ω\n{text}").partition("\n")[2]
    assert paragraphs(text) == beside_others.strip()


@quick
@given(texts | st.text(" \n\t\u00a0\u2028ab\u00e9"), texts)
def test_a_text_is_hashed_whatever_the_spaces_in_it(title: str, text: str) -> None:
    spaced = "\n".join(" ".join(part.split()) for part in (title, text))
    expected = hashlib.sha256(spaced.encode("utf-8", "replace")).hexdigest()
    assert content_sha256(title, text) == expected


@quick
@given(texts, texts)
def test_likeness_is_symmetric_and_whole_for_equal_texts(one: str, other: str) -> None:
    first, second = sketch(one + text_of(1)), sketch(other + text_of(1))
    assert likeness(first, second) == likeness(second, first)
    assert likeness(first, first) == 1.0
    assert len(bands(first)) == 8


@quick
@given(st.integers(0, 60), st.integers(1, 60))
def test_cutting_off_entries_keeps_the_first_ones(count: int, most: int) -> None:
    body = rss([item(number) for number in range(count)])
    assert first_entries(body, most).count(b"<item>") == min(count, most)


@quick
@given(st.binary(max_size=2000), st.integers(0, 3000), st.booleans())
def test_unpacking_stops_at_the_limit_or_gives_all(
    body: bytes, limit: int, is_packed: bool
) -> None:
    data = gzip.compress(body) if is_packed else body
    try:
        out = gunzip(data, limit)
    except TooLargeError:
        assert is_packed
        assert len(body) > limit
    except zlib.error:
        assert not is_packed
    else:
        assert out == body or not is_packed


@quick
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["feeds", "url", "name", "topics", "x"]), inner, max_size=4),
    max_leaves=12,
))  # fmt: skip
def test_any_json_as_a_feeds_file_is_read_or_named(content: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "feeds.json"
        path.write_text(json.dumps(content))
        with contextlib.suppress(ConfigError):
            read_feeds(path)
