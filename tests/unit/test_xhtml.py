"""Markup of an Atom text: the div around all of it goes, others stay."""

from __future__ import annotations

import pytest

from rag.ingest.xhtml import unwrapped


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["<div>", "a", "</div>"], "a"),
        (
            [" ", "<div xmlns='x'>", "a", "<br/>", "<p>", "b", "</p>", "</div>", "\n"],
            "a<br/><p>b</p>",
        ),
        (["<div>", "<div>", "a", "</div>", "</div>"], "<div>a</div>"),
        (["<div>", "a", "</div>", "<div>", "b", "</div>"], "<div>a</div><div>b</div>"),
        (["<divan>", "a", "</div>"], "<divan>a</div>"),
        (["<p>", "a", "</p>"], "<p>a</p>"),
        (["</div>"], "</div>"),
        (["<div>"], "<div>"),
        (["  "], "  "),
        ([], ""),
    ],
)
def test_the_div_around_everything_goes(pieces: list[str], expected: str) -> None:
    before = list(pieces)
    assert "".join(unwrapped(pieces)) == expected
    assert pieces == before
