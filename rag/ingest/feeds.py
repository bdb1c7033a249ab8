"""The feeds file: which feeds a node reads. Its owner's file, changed only where it has to be."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator

from federation import durable, settings
from federation.errors import ConfigError
from federation.language import _
from rag.ingest.topics import unique

MAX_FEEDS = 5000
MAX_FILE_BYTES = 5_000_000


class Feed(settings.Settings):
    """One feed.

    Attributes:
        url: http or https.
        name: for people; "" uses the feed's own title, or its host.
        active: false is passed over.
        priority: 1 (first) to 5.
        topics: what it is about; searched in its entries beside the general topics.
        language: two letters that decide where an entry's words do not; "" for none.
        train: false: its texts are searched and quoted, never learnt from.
        former: addresses it had before, oldest first; the first one is its identity for ever.
    """

    url: str = Field(max_length=2000)
    name: str = Field(default="", max_length=200)
    active: bool = True
    priority: int = Field(default=3, ge=1, le=5)
    topics: tuple[str, ...] = ()
    language: str = Field(default="", max_length=16)
    train: bool = True
    former: tuple[str, ...] = ()

    @field_validator("url")
    @classmethod
    def _url_can_be_fetched(cls, value: str) -> str:
        return check_url(value)

    @field_validator("topics", mode="before")
    @classmethod
    def _topics_may_be_one_text(cls, value: object) -> object:
        if isinstance(value, str):
            return unique(re.split(r"[;,]", value))
        return value

    @property
    def key(self) -> str:
        """What its entries' ids are made with: the first address it ever had."""
        return self.former[0] if self.former else self.url

    @property
    def host(self) -> str:
        """Its present host."""
        return urlsplit(self.url).hostname or ""


def check_url(url: str) -> str:
    """Refuse what is no http or https address.

    Raises:
        ValueError: says why.
    """
    stripped = url.strip()
    try:
        parts = urlsplit(stripped)
        host, _port = parts.hostname, parts.port
    except ValueError as err:
        raise ValueError(_("'{url}' is no address").format(url=url)) from err
    if parts.scheme == "file":
        raise ValueError(_("'{url}': files are read by: ingest --path").format(url=url))
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(_("'{url}' is no http or https address").format(url=url))
    if parts.username is not None or re.search(r"[\s\x00-\x1f]", stripped):
        raise ValueError(_("'{url}' has a password or a space in it").format(url=url))
    return stripped


def read_feeds(path: Path) -> tuple[Feed, ...]:
    """Read a feeds file: `{"feeds": […]}` or a bare list, of objects or of addresses.

    Raises:
        ConfigError: names the file, the feed and the key that is wrong.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(_("{path} is too large for a feeds file").format(path=path))
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as err:
        hint = _("Add a feed: flower-client feeds add https://…")
        raise ConfigError(_("there is no feeds file {path}").format(path=path), hint=hint) from err
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as err:
        sentence = _("{path} is not valid JSON: {why}")
        raise ConfigError(sentence.format(path=path, why=err)) from err
    return _feeds_of(content, path)


def write_feeds(path: Path, feeds: Sequence[Feed]) -> None:
    """Replace the feeds file, its mode kept."""
    mode = path.stat().st_mode & 0o777 if path.exists() else durable.PRIVATE_FILE
    rows = [feed.model_dump(mode="json", exclude_defaults=True) | _always(feed) for feed in feeds]
    text = json.dumps({"feeds": rows}, indent=2, ensure_ascii=False)
    durable.write_text(path, text + "\n", mode=mode)


def change_feeds(path: Path, change: Callable[[Feed], Feed]) -> bool:
    """Read, change and write the file if anything is different; returns whether it was."""
    before = read_feeds(path)
    after = tuple(map(change, before))
    if after != before:
        write_feeds(path, after)
    return after != before


def _always(feed: Feed) -> dict[str, Any]:
    shown = ("url", "name", "active", "priority", "topics", "language", "train")
    return {name: value for name, value in feed.model_dump(mode="json").items() if name in shown}


def _feeds_of(content: object, path: Path) -> tuple[Feed, ...]:
    rows = content
    if isinstance(content, dict):
        for key in content:
            if key != "feeds":
                raise ConfigError(
                    _("unknown key '{key}' in {path}").format(key=key, path=path),
                    hint=_('It should read {"feeds": […]}, or be a list of addresses.'),
                )
        rows = content.get("feeds")
    if not isinstance(rows, list):
        raise ConfigError(
            _("{path} holds no list of feeds").format(path=path),
            hint=_('It should read {"feeds": […]}, or be a list of addresses.'),
        )
    if len(rows) > MAX_FEEDS:
        raise ConfigError(
            _("{path} holds more than {most} feeds").format(path=path, most=MAX_FEEDS)
        )
    feeds = {feed.key: feed for feed in (_feed(row, n, path) for n, row in enumerate(rows, 1))}
    return tuple(feeds.values())


def _feed(row: object, number: int, path: Path) -> Feed:
    if isinstance(row, str):
        row = {"url": row}
    if not isinstance(row, dict):
        sentence = _("feed {number} of {path} is neither an object nor an address")
        raise ConfigError(sentence.format(number=number, path=path))
    return feed_of(row, where=_("feed {number} of {path}").format(number=number, path=path))


def feed_of(row: Mapping[str, Any], *, where: str) -> Feed:
    """One feed of its JSON object.

    Raises:
        ConfigError: names the key that is wrong, and `where`.
    """
    for key in row:
        if key not in Feed.model_fields:
            raise settings.unknown_key(str(key), Feed, where=where)
    try:
        return Feed.model_validate(row)
    except ValidationError as err:
        why = "; ".join(
            f"'{'.'.join(map(str, item['loc']))}': {item['msg'].removeprefix('Value error, ')}"
            for item in err.errors()
        )
        raise ConfigError(f"{where}: {why}", hint=_("Correct it and try again.")) from err
