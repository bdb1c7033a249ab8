"""HTML to plain text: nothing hidden, nothing that runs, paragraphs kept."""

from __future__ import annotations

from urllib.parse import urljoin

import pytest

from rag.ingest.clean import (
    MAX_LINK,
    MAX_TEXT,
    MAX_TITLE,
    one_line,
    paragraphs,
    safe_link,
    text_of_html,
)


def test_paragraphs_lines_and_inline_tags_come_out_as_a_person_reads_them() -> None:
    source = "<p>One <b>bold</b>er\nword.</p><p>Two<br>three</p><ul><li>a<li>b</ul>"
    assert text_of_html(source) == "One bolder word.\n\nTwo\nthree\n\na\nb"


def test_tags_in_upper_case_are_tags_too() -> None:
    source = "<P>One</P><p>Two<BR>three</p><UL><LI>a</UL><TABLE><TR><TD>x<TD>y</TABLE>"
    assert text_of_html(source) == "One\n\nTwo\nthree\n\na\n\nx y"


def test_entities_are_read_and_plain_text_is_left_alone() -> None:
    assert text_of_html("caf&eacute; &amp; t&#233;") == "café & té"
    assert text_of_html("a < b and c > d") == "a < b and c > d"


@pytest.mark.parametrize(
    "source",
    [
        "<p>good</p><script>bad()</script>",
        "<p>good</p><style>bad{}</style>",
        "<p onclick='bad'>good</p>",
        "<p>good</p><img src=x onerror=bad alt=bad>",
        "<p>good</p><iframe>bad</iframe>",
        "<p>good</p><svg><text>bad</text></svg>",
        "<p>good</p><!-- bad -->",
        "<template>bad</template><p>good</p>",
    ],
)
def test_no_script_style_attribute_or_comment_comes_through(source: str) -> None:
    assert text_of_html(source) == "good"


@pytest.mark.parametrize(
    "hidden",
    [
        "\u200b", "\u200e", "\u202e", "\u2066", "\u00ad", "\ufeff", "\x00", "\x01", "\x02", "\x07",
        "\x9b", "\U000e0041", "\U000e0100", "\ufe0f", "\u115f", "\ue000", "\ue001", "\u2028",
        "\ud800",
    ],
)  # fmt: skip
def test_characters_that_nobody_sees_are_removed(hidden: str) -> None:
    for cleaned in (paragraphs(f"pass{hidden}word é"), text_of_html(f"<b>pass{hidden}word é</b>")):
        assert cleaned.replace("\n", "").replace(" ", "") == "passwordé"
    assert hidden not in one_line(f"pass{hidden}word é")


def test_a_title_is_one_line_of_bounded_length() -> None:
    assert one_line(" a\n b\t c ") == "a b c"
    assert len(one_line("x" * 5000)) == MAX_TITLE
    assert one_line("x" * 5000).endswith("…")


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("https://a.example/x?y=1", "https://a.example/x?y=1"),
        ("/x", "https://feed.example/x"),
        ("//b.example/x", "https://b.example/x"),
        ("javascript:alert(1)", ""),
        ("JaVaScRiPt:alert(1)", ""),
        ("java\nscript:alert(1)", ""),
        ("&#106;avascript:alert(1)", ""),
        ("data:text/html,x", ""),
        ("file:///etc/passwd", ""),
        ("ftp://a.example/x", ""),
        ("https://user:pass@a.example/", ""),
        ("https://a.example/\"onmouseover='x'", ""),
        ("http://[broken", ""),
        ("https://a.example/" + "x" * MAX_LINK, ""),
        ("", ""),
    ],
)
def test_only_web_links_come_through(link: str, expected: str) -> None:
    assert safe_link(link, "https://feed.example/rss") == expected


def test_a_text_is_cut_at_its_limit() -> None:
    assert len(paragraphs("word " * 100_000)) <= MAX_TEXT
    assert len(text_of_html("<p>" + "word " * 100_000)) <= MAX_TEXT
    assert text_of_html("<p>one two three", 7) == "one two"
    assert paragraphs("one two three", 7) == "one two"


def test_twenty_thousand_nested_tags_are_no_trouble() -> None:
    assert text_of_html("<div>" * 20_000 + "deep") == "deep"


@pytest.mark.parametrize(
    "link",
    [
        "https://a.example", "http://a.example/", "https://a.example/b/../c//d;e", "https://a.example/?",
        "https://a.example/a?b=c&d", "https://a.example/a?b=/c:d", "https://a.example#", "http://a:80/b",
        "https://a.example/%2e/~x_y,z!", "https://a..example/+", "https://a.example./b?c?d",
    ],
)  # fmt: skip
def test_a_link_without_oddities_is_what_joining_it_makes_of_it(link: str) -> None:
    assert safe_link(link, "https://base.example/x/") == urljoin("https://base.example/x/", link)
