"""A feed's bytes to entries: what `raw` found in them, as clean text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from federation.errors import FormatError
from federation.language import _
from rag.ingest.clean import one_line, paragraphs, safe_link, text_of_html
from rag.ingest.dates import read_date
from rag.ingest.duplicates import sketch_of_words
from rag.ingest.entries import Entry, FeedContent
from rag.ingest.identity import canonical_link, content_sha256
from rag.ingest.tongue import language_of_words
from rag.ingest.words import words_of

PLAIN = "text/plain"
WORDS = ("text/", "application/xhtml")
MAX_KEY = 2000
MAX_LICENCE = 200
DAY_S = 86_400.0
FAULTS = (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError)
UTF_8_XML = "application/xml; charset=utf-8"
UTF_16 = {
    b"\xfe\xff": "utf-16-be",
    b"\xff\xfe": "utf-16-le",
    b"\0<": "utf-16-be",
    b"<\0": "utf-16-le",
}
_DECLARATION = re.compile(rb"^\s*<\?xml[^>]*>")
_END_OF_ENTRY = re.compile(rb"</(?:\w+:)?(?:item|entry)\s*>", re.IGNORECASE)


class _Facts(NamedTuple):
    """What is the same for all entries of a feed.

    `has_types`: it says of each text whether it is HTML; RSS does not, and feedparser's guess lets
    a script in a title pass for plain text.
    """

    url: str
    tag: str
    has_types: bool
    now: datetime


def parse_feed(
    body: bytes, *, url: str, content_type: str, tag: str, max_items: int, now: datetime
) -> FeedContent:
    """Read a feed.

    Args:
        body: decoded bytes, capped by the caller.
        url: where it came from, for relative links.
        content_type: as the server said.
        tag: language that the owner gave this feed, "" for none.
        max_items: further entries are cut off before parsing.
        now: later dates are not believed.

    Raises:
        FormatError: no entry came out.
    """
    started, content_type = _started(body, content_type)
    cut = first_entries(started, max_items)
    try:
        raw = _parsed(cut, content_type)
    except FAULTS:  # of what the declaration says of the encoding, most of the time
        raw = _parsed_again(_DECLARATION.sub(b"", cut, count=1), content_type)
    fault = str(raw.get("bozo_exception", "")) if raw.bozo else ""
    if not raw.entries:
        raise _no_entries(raw, fault)
    about = dict(raw.feed)
    facts = _Facts(
        url=url,
        tag=tag or str(about.get("language") or ""),
        has_types=str(raw.get("version") or "").startswith("atom"),
        now=now,
    )
    licence = _licence(about, facts)
    entries = [_entry(dict(each), facts, licence) for each in raw.entries[:max_items]]
    return FeedContent(
        title=one_line(_plain(about, "title", facts)),
        entries=tuple(_apart(entry for entry in entries if entry is not None)),
        warning=one_line(fault),
        ttl_s=_ttl_s(about),
    )


def _parsed(body: bytes, content_type: str) -> Any:  # noqa: ANN401 - feedparser's dict
    from rag.ingest.raw import read_raw

    return read_raw(body, content_type)


def _parsed_again(body: bytes, content_type: str) -> Any:  # noqa: ANN401 - likewise
    try:
        return _parsed(body, content_type)
    except FAULTS as err:
        why = type(err).__name__
        raise FormatError(_("it cannot be read ({why})").format(why=why)) from err


def first_entries(body: bytes, count: int) -> bytes:
    """The feed without the entries after the first `count`; its end stays, so it is well-formed."""
    if body.count(b"</") <= count:
        return body
    ends = [match.end() for match in _END_OF_ENTRY.finditer(body)]
    if len(ends) <= count:
        return body
    return body[: ends[count - 1]] + body[ends[-1] :]


def _started(body: bytes, content_type: str) -> tuple[bytes, str]:
    """Mend two common faults at the very start: spaces, and UTF-16, with its mark or without.

    feedparser itself reads UTF-16 only now and then.
    """
    bare = body.lstrip(b" \t\r\n")
    if bare.startswith(b"<") and not bare.startswith(b"<\0"):
        return bare, content_type
    for start, encoding in UTF_16.items():
        if body.startswith(start):
            text = body.decode(encoding, "replace").lstrip("\ufeff \t\r\n")
            return _DECLARATION.sub(b"", text.encode("utf-8", "replace"), count=1), UTF_8_XML
    return body, content_type


def _entry(raw: dict[str, Any], facts: _Facts, licence: str) -> Entry | None:
    from rag.ingest.raw import moment

    title = one_line(_plain(raw, "title", facts))
    text = _longest(raw, facts) or title
    if not text:
        return None
    words = words_of(f"{title}\n{text}")
    link = safe_link(str(raw.get("link") or ""), facts.url)
    guid = str(raw.get("id") or "")[:MAX_KEY]
    parsed = moment(raw.get("published_parsed")) or moment(raw.get("updated_parsed"))
    written = str(raw.get("published") or raw.get("updated") or raw.get("created") or "")
    return Entry(
        key=guid or (canonical_link(link) if link else ""),
        title=title,
        text=text,
        link=link,
        published=read_date(parsed, written, facts.now),
        language=language_of_words(words, facts.tag),
        licence=_licence(raw, facts) or licence,
        sha256=content_sha256(title, text),
        sketch=sketch_of_words(words),
    )


def _apart(entries: Iterable[Entry]) -> Iterable[Entry]:
    """Give entries of one feed that share a guid keys of their own by their links.

    Some feeds write the same guid into all entries; each would otherwise be a change of the last.
    """
    from collections import Counter

    listed = list(entries)
    counts = Counter(entry.key for entry in listed)
    for entry in listed:
        if counts[entry.key] > 1 and entry.link:
            yield entry._replace(key=f"{entry.key}\n{canonical_link(entry.link)}")
        else:
            yield entry


def _longest(raw: dict[str, Any], facts: _Facts) -> str:
    """The text of the longest part that is text at all: content or summary."""
    parts = [part for part in raw.get("content") or () if isinstance(part, dict)]
    detail = raw.get("summary_detail")
    if isinstance(detail, dict):
        parts.append(detail)
    usable = [part for part in parts if _type(part).startswith(WORDS) and part.get("value")]
    best = max(usable, key=lambda part: len(str(part["value"])), default=None)
    return "" if best is None else _readable(str(best["value"]), _type(best), facts)


def _plain(raw: dict[str, Any], name: str, facts: _Facts) -> str:
    detail = raw.get(f"{name}_detail")
    kind = _type(detail) if isinstance(detail, dict) else ""
    return _readable(str(raw.get(name) or ""), kind, facts)


def _readable(value: str, kind: str, facts: _Facts) -> str:
    return paragraphs(value) if facts.has_types and kind == PLAIN else text_of_html(value)


def _type(part: dict[str, Any]) -> str:
    return str(part.get("type") or "text/html").lower()


def _licence(raw: dict[str, Any], facts: _Facts) -> str:
    links = [link for link in raw.get("links") or () if isinstance(link, dict)]
    named = next((link for link in links if dict.get(link, "rel") == "license"), {}).get("href")
    if not named and not raw.get("rights"):
        return ""
    return one_line(str(named or _plain(raw, "rights", facts)), MAX_LICENCE)


def _ttl_s(about: dict[str, Any]) -> float:
    units = {"hourly": 3600.0, "daily": DAY_S, "weekly": 7 * DAY_S}
    try:
        minutes = float(str(about.get("ttl") or 0))
        frequency = max(1.0, float(str(about.get("sy_updatefrequency") or 1)))
    except ValueError:
        return 0.0
    period = units.get(str(about.get("sy_updateperiod") or "").strip().lower(), 0.0)
    wanted = max(minutes * 60, period / frequency)
    return min(wanted, DAY_S) if wanted > 0 else 0.0


def _no_entries(raw: Any, fault: str) -> FormatError:  # noqa: ANN401 - feedparser's dict
    if raw.get("version"):
        sentence = _("the feed holds no entries")
        return FormatError(f"{sentence} ({one_line(fault)})" if fault else sentence)
    return FormatError(
        _("this is no feed: {why}").format(why=one_line(fault) or _("no entries were found")),
        hint=_("Look for the address of the feed itself (RSS or Atom) on the site."),
    )
