"""The XML parser that feedparser is given: the standard one, quicker in two ways.

Text is handed over in whole pieces: unbuffered, expat calls once for each line and each entity.
And elements that no document has any use for never reach feedparser, with all that is in them; of
real feeds these are a third of all elements. `xml.sax.make_parser` finds `create_parser` by this
module's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.sax import expatreader

BUFFER_BYTES = 64 * 1024
UNUSED = frozenset(
    (
        *("author", "category", "cloud", "comments", "commentRss", "contributor", "creator"),
        *("credit", "enclosure", "generator", "identifier", "image", "items", "managingEditor"),
        *("primary_category", "publisher", "skipDays", "skipHours", "subject", "textInput"),
        *("thumbnail", "webMaster"),
    )
)
_XHTML = "http://www.w3.org/1999/xhtml"
_SVG = "http://www.w3.org/2000/svg"
_UNUSED_NAMESPACES = (
    "http://prismstandard.org/",
    "http://purl.org/rss/1.0/modules/prism/",
    "http://purl.org/rss/1.0/modules/slash/",
    "http://purl.org/syndication/thread/",
    "http://rssnamespace.org/feedburner/",
    "http://arxiv.org/schemas/",
    "http://www.georss.org/georss",
)


class BufferedParser(expatreader.ExpatParser):
    """expat with its text buffer on; external entities are off by feedparser's own setting."""

    def reset(self) -> None:
        """Make the parser, buffered."""
        super().reset()
        self._expat: Any = self._parser  # type: ignore[attr-defined]  # of the standard library
        self._expat.buffer_text = True
        self._expat.buffer_size = BUFFER_BYTES
        self._depth = 0  # inside an element that is not used
        self._characters: Any = None

    def start_element_ns(self, name: str, attrs: Mapping[str, str]) -> None:
        """Pass an element on, unless it or one around it is not used."""
        if self._depth:
            self._depth += 1
            return
        handler = self._cont_handler  # type: ignore[attr-defined]  # likewise
        kind = handler.kinds.get(name) or handler.learn(name)
        if kind.is_unused:
            self._depth = 1
            self._characters = self._expat.CharacterDataHandler
            self._expat.CharacterDataHandler = None
        elif not handler.opened(kind, attrs):
            super().start_element_ns(name, attrs)

    def end_element_ns(self, name: str) -> None:
        """Pass its end on likewise."""
        if not self._depth:
            handler = self._cont_handler  # type: ignore[attr-defined]  # likewise
            if not handler.closed(handler.kinds.get(name) or handler.learn(name)):
                super().end_element_ns(name)
            return
        self._depth -= 1
        if not self._depth:
            self._expat.CharacterDataHandler = self._characters


def is_unused(name: str) -> bool:
    """Whether no document is made of this element.

    Args:
        name: as expat has it: "local", "namespace local" or "namespace local prefix".
    """
    namespace, _space, rest = name.partition(" ")
    local = rest.partition(" ")[0] if rest else namespace
    if rest and namespace.startswith(_UNUSED_NAMESPACES):
        return True
    return local in UNUSED and namespace not in (_XHTML, _SVG)


def create_parser() -> BufferedParser:
    """A fresh parser."""
    return BufferedParser()
