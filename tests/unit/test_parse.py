"""A feed's bytes to entries: what real feeds do, and what hostile ones try."""

from __future__ import annotations

import gzip
import time
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import pytest

from federation.errors import FormatError
from rag.ingest.entries import Entry, FeedContent
from rag.ingest.expat import is_unused
from rag.ingest.inflate import gunzip
from rag.ingest.parse import first_entries, parse_feed
from tests.feed_samples import item, rss, text_of, twenty

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "feeds"
ATOM = """<feed xmlns="http://www.w3.org/2005/Atom" xml:lang="es">
<title>Ciencia</title><rights>CC BY 4.0</rights>
<entry><id>urn:1</id><title type="html">Un &lt;b&gt;río&lt;/b&gt;</title>
<link href="/uno"/><author><name>Ana</name></author><updated>2025-08-05T10:00:00Z</updated>
<content type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml"><p>El agua de la <em>sierra</em>.
</p><p>Se acaba.</p></div></content><summary>El agua</summary></entry></feed>"""


def read(
    body: bytes, *, tag: str = "", max_items: int = 500, content_type: str = ""
) -> FeedContent:
    return parse_feed(
        body,
        url="https://news.example/rss",
        content_type=content_type,
        tag=tag,
        max_items=max_items,
        now=NOW,
    )


def one(**fields: str) -> Entry:
    (entry,) = read(rss([item(1, **fields)])).entries
    return entry


def test_an_rss_item_comes_out_whole() -> None:
    content = read(rss([item(1)], more="<ttl>90</ttl><copyright>CC0</copyright>"))
    assert (content.title, content.warning, content.ttl_s) == ("News", "", 5400.0)
    (entry,) = content.entries
    assert entry.key == "tag:news.example,1"
    assert entry.title == "Item 1"
    assert entry.text == text_of(1)
    assert entry.link == "https://news.example/1"
    assert entry.published == "2025-08-05T10:00:00+00:00"
    assert entry.licence == "CC0"
    assert entry.sketch


def test_an_atom_entry_comes_out_whole() -> None:
    (entry,) = read(ATOM.encode()).entries
    assert (entry.key, entry.title, entry.link) == ("urn:1", "Un río", "https://news.example/uno")
    assert entry.text == "El agua de la sierra.\n\nSe acaba."
    assert (entry.language, entry.licence) == ("es", "CC BY 4.0")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1", "windows-1252"])
def test_encodings_that_are_declared_are_read(encoding: str) -> None:
    text = rss([item(1, title="Año ñandú")]).decode().replace("utf-8", encoding)
    (entry,) = read(text.encode(encoding)).entries
    assert entry.title == "Año ñandú"


def test_spaces_before_the_feed_and_a_missing_mark_of_utf16_are_mended() -> None:
    assert read(b" \n\n" + twenty()).warning == ""
    body = "<rss version='2.0'><channel>" + item(1, title="Año") + "</channel></rss>"
    for encoding in ("utf-16-be", "utf-16-le"):
        for whole in (body, body.replace("><", ">\n  <"), f'<?xml encoding="utf-16"?>\n{body}'):
            for marked in (whole, f"\ufeff{whole}"):
                (entry,) = read(marked.encode(encoding)).entries
                assert entry.title == "Año"


def test_what_is_not_well_formed_is_a_warning_as_long_as_entries_come_out() -> None:
    broken = rss([item(1, title="this & that"), item(2)])
    content = read(broken)
    assert [entry.title for entry in content.entries] == ["this & that", "Item 2"]
    assert "not well-formed" in content.warning


def test_the_zone_of_a_date_counts_also_where_a_feed_is_broken() -> None:
    dated = rss([item(1)]).replace(b"10:00:00 GMT", b"10:00:00 EST")
    assert b"EST" in dated
    for body in (dated, dated.replace(b"<title>", b"<title>this & that", 1)):
        assert read(body).entries[0].published == "2025-08-05T15:00:00+00:00"


def test_a_declaration_that_breaks_the_parser_is_left_out() -> None:
    content = read(twenty().replace(b'encoding="utf-8"', b'encoding="\xff\xfeutf-8"'))
    assert len(content.entries) == 20


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no feed"),
        (b"<html><body>Not found</body></html>", "no feed"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "no feed"),
        (b"/etc/passwd", "no feed"),
        (b"https://news.example/rss", "no feed"),
        (rss([]), "no entries"),
    ],
)
def test_no_entries_is_an_error_that_says_so(body: bytes, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        read(body)


def test_an_entry_without_guid_is_known_by_its_link_and_without_both_by_its_text() -> None:
    assert one(guid="").key == "//news.example/1"
    assert one(guid="", link="").key == ""
    assert one(guid="", link="").sha256 != one(guid="", link="", title="Other").sha256


def test_entries_of_one_feed_with_the_same_guid_are_told_apart_by_their_links() -> None:
    entries = read(rss([item(1, guid="same"), item(2, guid="same")])).entries
    assert len({entry.key for entry in entries}) == 2


def test_an_entry_of_title_alone_is_its_title_and_one_of_nothing_is_none() -> None:
    assert one(description="").text == "Item 1"
    entries = read(rss([item(1), item(2, title="", description="")])).entries
    assert len(entries) == 1


def test_the_longer_of_summary_and_content_is_the_text() -> None:
    more = f"<content:encoded>{escape('<p>' + text_of(5, 200) + '</p>')}</content:encoded>"
    body = rss([item(1).replace("</item>", f"{more}</item>")]).replace(
        b"<rss", b'<rss xmlns:content="http://purl.org/rss/1.0/modules/content/"'
    )
    (entry,) = read(body).entries
    assert entry.text == text_of(5, 200)


@pytest.mark.security
def test_h23_markup_and_script_of_titles_texts_and_links_do_not_come_through() -> None:
    entry = one(
        title=escape("<script>alert(1)</script>Real <img src=x onerror=alert(2)>news"),
        description=escape("<p>Text</p><script>alert(3)</script><a href='javascript:4'>x</a>"),
        link="javascript:alert(5)",
    )
    assert (entry.title, entry.text, entry.link) == ("Real news", "Text\n\nx", "")


@pytest.mark.security
def test_h23_an_image_tag_in_a_title_of_plain_text_is_shown_as_text() -> None:
    title = '<title type="html">Un &lt;b&gt;río&lt;/b&gt;</title>'
    body = ATOM.replace(title, "<title>&lt;img onerror=x&gt;</title>")
    (entry,) = read(body.encode()).entries
    assert entry.title == "<img onerror=x>"


@pytest.mark.security
def test_h23_entities_are_neither_fetched_nor_multiplied(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the secret")
    declared = f'<!DOCTYPE rss [<!ENTITY x SYSTEM "{secret.as_uri()}"><!ENTITY y "{"y" * 50}">'
    declared += "".join(f'<!ENTITY y{n} "{f"&y{n - 1};" * 10}">' for n in range(1, 9)) + "]>"
    body = rss([item(1, title="A &x; &y8;")]).replace(b"<rss", declared.encode() + b"<rss")
    started = time.monotonic()
    try:
        texts = [f"{entry.title} {entry.text}" for entry in read(body).entries]
    except FormatError:
        texts = []
    assert time.monotonic() - started < 60
    assert all("secret" not in text and len(text) < 100_000 for text in texts)


def test_further_entries_are_cut_off_before_parsing_and_the_rest_stays_well_formed() -> None:
    body = rss([item(number) for number in range(5000)])
    assert len(first_entries(body, 30)) < len(body) / 100
    content = read(body, max_items=30)
    assert [entry.title for entry in content.entries] == [f"Item {number}" for number in range(30)]
    assert content.warning == ""
    assert first_entries(twenty(), 20) == twenty()


@pytest.mark.parametrize(
    ("more", "ttl_s"),
    [
        ("<ttl>60</ttl>", 3600),
        ("<ttl>lots</ttl>", 0),
        ("<ttl>-5</ttl>", 0),
        ("<ttl>99999999</ttl>", 86_400),
        ("<ttl>nan</ttl>", 0),
        (
            "<sy:updatePeriod>daily</sy:updatePeriod><sy:updateFrequency>4</sy:updateFrequency>",
            21600,
        ),
    ],
)
def test_how_long_a_feed_asks_to_be_left_alone(more: str, ttl_s: float) -> None:
    body = rss([item(1)], more=more).replace(
        b"<rss", b'<rss xmlns:sy="http://purl.org/rss/1.0/modules/syndication/"'
    )
    assert read(body).ttl_s == ttl_s


def test_the_words_of_an_entry_go_before_the_owner_s_tag_and_that_before_the_feed_s() -> None:
    english = "The people of the town have to go to the river for water."
    body = rss([item(1, description=english), item(2, title="X", description="")])
    languages = [entry.language for entry in read(body, tag="es").entries]
    assert languages == ["en", "es"]


def test_elements_without_use_never_reach_the_parser_and_web_pages_keep_theirs() -> None:
    assert is_unused("category")
    assert is_unused("http://www.w3.org/2005/Atom author")
    assert is_unused("http://purl.org/dc/elements/1.1/ creator dc")
    assert is_unused("http://prismstandard.org/namespaces/basic/2.0/ number prism")
    assert not is_unused("http://www.w3.org/1999/xhtml image")
    for name in ("item", "title", "http://www.w3.org/2005/Atom content"):
        assert not is_unused(name)
    noisy = "<category>x<b>y</b></category><author>z</author>"
    body = rss([item(1).replace("</item>", f"{noisy}</item>"), item(2)])
    assert read(body) == read(rss([item(1), item(2)]))


@pytest.mark.skipif(not SHARED.exists(), reason="needs the captured feeds")
def test_every_captured_feed_is_read_or_named() -> None:
    entries, named = 0, []
    for path in sorted(path for path in SHARED.iterdir() if path.is_file()):
        if path.suffix in (".md", ".tsv"):
            continue
        try:
            content = read(gunzip(path.read_bytes(), 5_000_000))
        except FormatError:
            named.append(path.name)
            continue
        entries += len(content.entries)
        assert all(entry.text and entry.sha256 for entry in content.entries)
        assert all(not entry.link or entry.link.startswith("http") for entry in content.entries)
    assert entries > 1300
    assert named == []


def test_a_body_that_is_still_packed_is_named() -> None:
    with pytest.raises(FormatError):
        read(gzip.compress(twenty()))
