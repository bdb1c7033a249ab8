"""Dates of feeds: what feedparser reads, what it does not, and what no entry can have."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from rag.ingest.dates import has_foreign_month, of_struct, read_date, usual_date

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mar, 05 Ago 2025", "2025-08-05T00:00:00+00:00"),
        ("martes, 5 de agosto de 2025", "2025-08-05T00:00:00+00:00"),
        ("05/08/2025", "2025-08-05T00:00:00+00:00"),
        ("08/25/2025", "2025-08-25T00:00:00+00:00"),
        ("Lun, 01 Dic 2025 09:30:00 +0100", "2025-12-01T08:30:00+00:00"),
        ("Miércoles 3 de septiembre del 2025, 18h05", "2025-09-03T18:05:00+00:00"),
        ("ter, 07 out 2025 10:00:00 -0300", "2025-10-07T13:00:00+00:00"),
        ("1º de março de 2025", "2025-03-01T00:00:00+00:00"),
        ("agosto 5, 2025", "2025-08-05T00:00:00+00:00"),
        ("2025-08-05T10:00:00Z", "2025-08-05T10:00:00+00:00"),
        ("2025.08.05", "2025-08-05T00:00:00+00:00"),
        ("ayer", ""),
        ("31/31/2025", ""),
        ("5 de brumario de 2025", ""),
        ("", ""),
        ("5 de agosto de 2035", ""),
        ("5 de agosto de 1925", ""),
        ("25:99 05/08/2025", ""),
    ],
)
def test_spanish_and_portuguese_dates_are_understood(text: str, expected: str) -> None:
    assert read_date(None, text, NOW) == expected


def test_what_the_parser_read_goes_before_the_text() -> None:
    parsed = time.struct_time((2025, 8, 5, 10, 0, 0, 1, 217, 0))
    assert read_date(of_struct(parsed), "06/08/2025", NOW) == "2025-08-05T10:00:00+00:00"


def test_a_date_that_cannot_be_is_none() -> None:
    for year in (0, 1, 9999):
        parsed = time.struct_time((year, 1, 1, 0, 0, 0, 0, 1, 0))
        assert read_date(of_struct(parsed), "", NOW) == ""


@pytest.mark.parametrize(
    "text",
    [
        "Tue, 05 Aug 2025 10:00:00 GMT",
        "Tue, 5 Aug 2025 23:59:59 +0530",
        "05 Aug 2025 00:00:00 -0330",
        "Tue, 05 Aug 2025 10:00:00 Z",
        "Tue, 05 Aug 2025 10:00:00 UTC",
        "2025-08-05T10:00:00Z",
        "2025-08-05T10:00:00.25Z",
        "2025-08-05T10:00:00.123456-03:30",
        "2025-12-31T23:59:59+05:45",
        "2025-08-05",
        "Tue, 05 Aug 2025 10:00:00 EST",
        "Tue, 05 Aug 2025 10:00:00  PDT",
        "Sat, 1 Mar 2025 10:00:00 UT",
    ],
)
def test_the_usual_forms_are_read_as_feedparser_reads_them(text: str) -> None:
    from feedparser.datetimes import _parse_date

    usual = usual_date(text)
    assert usual is not None
    assert usual == of_struct(_parse_date(text))


@pytest.mark.parametrize(
    "text",
    [
        "Tue, 05 Aug 2025 10:00:00 AST",
        "Tue, 05 AUG 2025 10:00:00 GMT",
        "Mar, 05 Ago 2025 10:00:00 GMT",
        "Tue, 05 Aug 25 10:00:00 GMT",
        "Tue, 32 Aug 2025 10:00:00 GMT",
        "Tue, 05 Aug 2025 24:00:00 GMT",
        "Tue, 05 Aug 2025 10:00:00 +9900",
        "2025-08-05T10:00:60Z",
        "2025-08-05T10:00:00",
        "2025-13-05T10:00:00Z",
        "٢٠٢٥-08-05T10:00:00Z",
        "2025-13-05",
        "2025-08",
        "",
    ],
)
def test_any_other_form_is_left_to_feedparser(text: str) -> None:
    assert usual_date(text) is None


@pytest.mark.parametrize(
    "text",
    ["Mar, 05 Ago 2025 10:00:00 GMT", "Seg, 24 Set 2018 19:42:40 -0300", "1 Xyz 2025 10:00:00 EST"],
)
def test_feedparser_makes_nothing_of_a_month_that_is_not_english(text: str) -> None:
    from feedparser.datetimes import _parse_date

    assert has_foreign_month(text)
    assert _parse_date(text) is None
    assert not has_foreign_month("Tue, 05 Aug 2025 10:00:00 GMT")
    assert not has_foreign_month("05/08/2025")
