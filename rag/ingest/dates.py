"""Dates of feeds as ISO 8601: also those that name days and months in Spanish or Portuguese."""

from __future__ import annotations

import re
import time
import unicodedata
from calendar import timegm
from datetime import UTC, datetime, timedelta, timezone

AHEAD = timedelta(days=2)  # a feed's clock may be wrong; more than that is no date of an entry
EARLIEST = datetime(1970, 1, 2, tzinfo=UTC)
_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "ene enero jan janeiro january",
            "feb febrero fev fevereiro february",
            "mar marzo marco march",
            "abr abril apr april",
            "may mayo mai maio",
            "jun junio junho june",
            "jul julio julho july",
            "ago agosto aug august",
            "sep sept set septiembre setiembre setembro september",
            "oct octubre out outubro october",
            "nov noviembre novembro november",
            "dic diciembre dez dezembro dec december",
        ),
        start=1,
    )
    for name in names.split()
}
# Rare: compiled, as `re` does it, when the first is seen.
_NAMED = r"\b(\d{1,2})(?:º|o)?[\s.\-/]+(?:de\s+)?([a-z]{3,10})\.?,?[\s.\-/]+(?:de[l]?\s+)?(\d{4})\b"
_NAMED_FIRST = r"\b([a-z]{3,10})\.?\s+(\d{1,2}),?\s+(?:de\s+)?(\d{4})\b"
_ISO = r"\b(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:\b|t)"
_DAY_FIRST = r"\b(\d{1,2})[-/.](\d{1,2})[-/.](\d{4})\b"
_CLOCK = r"(?<!\d)(\d{1,2})[:h](\d{2})(?::(\d{2}))?"
_ZONE = r"(?:\b(?:gmt|utc|z)\b|([+-])(\d{2}):?(\d{2}))\s*$"
# The usual forms of RSS and of Atom; any other takes its time.
_RSS = re.compile(
    "(?:[A-Z][a-z][a-z], )?([0-9][0-9]?) ([A-Z][a-z][a-z]) ([0-9]{4}) "
    "([0-9]{2}):([0-9]{2}):([0-9]{2}) {1,2}(?:([A-Z]{1,3})|([+-])([0-9]{2})([0-9]{2}))"
)
_ATOM = re.compile(
    "[0-9]{4}-[0-9]{2}-[0-9]{2}"
    "(T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.][0-9]{1,6})?(?:Z|[+-][0-9]{2}:[0-9]{2}))?"
)
_ENGLISH = frozenset(
    ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
)
_HOURS = {"GMT": 0, "UTC": 0, "UT": 0, "Z": 0, "EST": -5, "EDT": -4, "CST": -6, "CDT": -5}
_HOURS |= {"MST": -7, "MDT": -6, "PST": -8, "PDT": -7}  # east of Greenwich, RFC 822
_ZONES = {name: timezone(timedelta(hours=hours)) for name, hours in _HOURS.items()}


def usual_date(text: str) -> datetime | None:
    """A date in the usual form of RSS or Atom, as feedparser reads it; None for any other."""
    match = _RSS.fullmatch(text)
    try:
        if match is None:
            return _atom_date(text)
        day, month, year, hour, minute, second, name, sign, hours, minutes = match.groups()
        if name:
            zone = _ZONES.get(name)
        else:
            offset = timedelta(hours=int(hours), minutes=int(minutes))
            zone = timezone(-offset if sign == "-" else offset)
        if zone is None or month not in _ENGLISH:
            return None
        date = int(year), _MONTHS[month.lower()], int(day)
        return datetime(*date, int(hour), int(minute), int(second), tzinfo=zone)
    except ValueError:
        return None


def has_foreign_month(text: str) -> bool:
    """Whether it has the usual form of RSS but for its month: feedparser makes nothing of that."""
    match = _RSS.fullmatch(text)
    return match is not None and match[2] not in _ENGLISH


def _atom_date(text: str) -> datetime | None:
    match = _ATOM.fullmatch(text)
    if match is None:
        return None
    found = datetime.fromisoformat(text)
    return found.replace(microsecond=0, tzinfo=found.tzinfo if match[1] else UTC)


def read_date(parsed: datetime | None, text: str, now: datetime) -> str:
    """ISO 8601 in UTC, or "" where there is no date that an entry could have.

    Args:
        parsed: what the feed's parser made of it.
        text: as it stands in the feed.
        now: later dates are not believed.
    """
    moment = parsed or _of_text(text[:200])
    if moment is None or not EARLIEST <= moment <= now + AHEAD:
        return ""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def of_struct(parsed: time.struct_time | None) -> datetime | None:
    """A moment in UTC as feedparser gives it; None where there is no such time."""
    if parsed is None:
        return None
    try:
        return datetime.fromtimestamp(timegm(parsed), UTC)
    except (ValueError, OverflowError, OSError, TypeError):
        return None


def _of_text(text: str) -> datetime | None:
    flat = unicodedata.normalize("NFKD", text.strip().lower())
    flat = "".join([mark for mark in flat if not unicodedata.combining(mark)])
    day = _day(flat)
    if day is None:
        return None
    hour, minute, second = _clock(flat)
    try:
        return datetime(*day, hour, minute, second, tzinfo=_zone(flat))
    except ValueError:
        return None


def _day(flat: str) -> tuple[int, int, int] | None:
    """Year, month, day."""
    for match in re.finditer(_NAMED, flat):
        if match[2] in _MONTHS:
            return int(match[3]), _MONTHS[match[2]], int(match[1])
    for match in re.finditer(_NAMED_FIRST, flat):
        if match[1] in _MONTHS:
            return int(match[3]), _MONTHS[match[1]], int(match[2])
    if (iso := re.search(_ISO, flat)) is not None:
        return int(iso[1]), int(iso[2]), int(iso[3])
    if (numbers := re.search(_DAY_FIRST, flat)) is not None:
        day, month = int(numbers[1]), int(numbers[2])
        if month > 12 >= day:  # 08/25/2025 can only be meant the other way round
            day, month = month, day
        return int(numbers[3]), month, day
    return None


def _clock(flat: str) -> tuple[int, int, int]:
    match = re.search(_CLOCK, flat)
    if match is None:
        return 0, 0, 0
    return int(match[1]), int(match[2]), int(match[3] or 0)


def _zone(flat: str) -> timezone:
    match = re.search(_ZONE, flat)
    if match is None or match[1] is None:
        return UTC
    offset = timedelta(hours=min(int(match[2]), 23), minutes=min(int(match[3]), 59))
    return timezone(-offset if match[1] == "-" else offset)
