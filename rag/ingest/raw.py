"""A feed's bytes to feedparser's dictionaries: the one door to feedparser.

feedparser is only ever given bytes in a BytesIO: a text that looks like a path or an address it
would open itself. It cleans no HTML here: all becomes plain text in `clean`, which is stricter and
much faster. What feedparser does with an element is its own code; how an element finds that code,
and how a text is put away, is written again here, for less than half of the time. `Handler` says
where it stops short of what feedparser does; the tests compare both.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from types import FunctionType
from typing import Any, NamedTuple
from xml.sax import saxutils

from feedparser import api
from feedparser.datetimes import _parse_date
from feedparser.html import _cp1252
from feedparser.urls import make_safe_absolute_uri

from rag.ingest.dates import has_foreign_month, of_struct, usual_date
from rag.ingest.expat import is_unused
from rag.ingest.xhtml import unwrapped

XHTML = "application/xhtml+xml"
_ROOTS = ("feed", "rss")
_WRAPPERS = ("xhtml:div", "div")
_IN_TEXTINPUT = ("title", "link", "description", "name")
_IN_IMAGE = ("title", "link", "description", "url", "href", "width", "height")
_DATE_FAULTS = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
_LOWER = ("rel", "type")  # attributes whose values are
_NOT_KEPT = ("category", "tags", "itunes_keywords")
_ENTITY = re.compile("&([A-Za-z0-9_]+);")
_CP1252 = re.compile("[\x80-\x9f]")
_strict: Any = api.StrictFeedParser


def read_raw(body: bytes, content_type: str) -> Any:  # noqa: ANN401 - feedparser's dict
    """Read a feed; dates are left as they stand, for `moment`.

    Raises:
        Exception: many kinds, for hostile bytes.
    """
    for held in (moment, _base, _attribute, _written, _content_type):
        held.cache_clear()  # of another feed; a hostile one's names may be long
    # No content-location: every element would cost a look at it. Links are made absolute later.
    return _parse(
        io.BytesIO(body),
        response_headers={"content-type": content_type or "application/xml"},
        sanitize_html=False,
        resolve_relative_uris=False,
    )


@lru_cache(maxsize=256)
def moment(date: str | time.struct_time | None) -> datetime | None:
    """A date as it stands in a feed, or as feedparser's parser of broken feeds gives it."""
    if not isinstance(date, str):
        return of_struct(date)
    usual = usual_date(date)
    if usual is None and not has_foreign_month(date):
        with suppress(*_DATE_FAULTS):
            return of_struct(_parse_date(date))
    return usual


class _Kind(NamedTuple):
    """How feedparser knows an element, under the prefixes that are declared where it stands.

    `key` is the name in its dictionaries; `leaves_*`: a text input or an image ends with it.
    """

    is_unused: bool
    tag: str
    key: str
    start: Callable[[Any, dict[str, str]], object] | None
    end: Callable[[Any], object] | None
    is_drawn: bool
    leaves_textinput: bool
    leaves_image: bool


_base = lru_cache(maxsize=256)(make_safe_absolute_uri)


class Handler(_strict):  # type: ignore[misc]  # feedparser has no types
    """feedparser's strict parser, quicker.

    It stops short of feedparser in two things: a date stays a text, and whether a text of RSS is
    HTML is not guessed. Whatever is out of the ordinary takes feedparser's own way.
    """

    baseuri: str
    lang: str | None
    contentparams: dict[str, Any]

    def __init__(self, baseuri: str, baselang: str | None, encoding: str) -> None:
        self.kinds: dict[str, _Kind] = {}
        self._depths: dict[str, int] = {}
        self._depths_of: Any = None
        super().__init__(baseuri, baselang, encoding)

    def learn(self, name: str) -> _Kind:
        """Put into `kinds` what an element is.

        Args:
            name: as expat has it: "local", "namespace local" or "namespace local prefix".
        """
        tag = self._tag(name)
        prefix, colon, suffix = tag.partition(":")
        if not colon:
            prefix, suffix = "", tag
        prefix = self.namespacemap.get(prefix, prefix)
        key = f"{prefix}_{suffix}" if prefix else suffix
        kind = self.kinds[name] = _Kind(
            is_unused(name),
            tag,
            key,
            getattr(type(self), f"_start_{key}", None),
            getattr(type(self), f"_end_{key}", None),
            suffix in ("svg", "math"),
            not prefix and tag not in _IN_TEXTINPUT,
            not prefix and tag not in _IN_IMAGE,
        )
        return kind

    def _tag(self, name: str) -> str:
        parts = name.split()
        namespace, local = parts[:2] if len(parts) > 1 else ("", name)
        lower = namespace.lower()
        if "backend.userland.com/rss" in lower:
            namespace = lower = "http://backend.userland.com/rss"
        prefix = self._matchnamespaces.get(lower)
        if not prefix and namespace:
            named = self.namespaces_in_use.items()
            prefix = next((each for each, uri in named if each and uri == namespace), "")
        return f"{prefix}:{local}".lower() if prefix else local.lower()

    def track_namespace(self, prefix: str | None, uri: str) -> None:
        """Forget what elements are where their names mean something else now."""
        before = self.namespaces_in_use.copy(), prefix and self.namespacemap.get(prefix)
        super().track_namespace(prefix, uri)
        if before != (self.namespaces_in_use, prefix and self.namespacemap.get(prefix)):
            self.kinds.clear()

    def opened(self, kind: _Kind, attributes: Mapping[str, str]) -> bool:
        """An element begins; False: nothing is done, it has to go feedparser's own way."""
        if self.decls or kind.is_drawn:
            return False
        attrs = self._named(attributes) if attributes else {}
        self.depth += 1
        self._scope(kind.tag, attrs)
        if self.incontent and self._is_written(kind.tag, attrs):
            return True
        if kind.leaves_textinput:
            self.intextinput = 0
        if kind.leaves_image:
            self.inimage = 0
        if kind.start is None:
            self._unknown(kind.key, attrs)
            return True
        try:
            kind.start(self, attrs)
        except AttributeError:  # feedparser does so too
            self._unknown(kind.key, attrs)
        return True

    def _named(self, attributes: Mapping[str, str]) -> dict[str, str]:
        """Attributes by feedparser's names for them, and by those of the feed."""
        named = {_attribute(name): value for name, value in attributes.items()}
        if any(" " in name for name in attributes):
            named.update({_written(name): value for name, value in attributes.items()})
        for name in _LOWER:
            if name in named:
                named[name] = named[name].lower()
        return named

    def _scope(self, tag: str, attrs: Mapping[str, str]) -> None:
        """What base and language hold inside an element."""
        lang = self.lang
        base = self.baseuri
        if attrs:
            base = attrs.get("xml:base", attrs.get("base", "")) or base
            lang = attrs.get("xml:lang", attrs.get("lang", lang)) or None
        if self.baseuri:
            self.baseuri = _base(self.baseuri, base) or self.baseuri
        elif base:
            self.baseuri = self.resolve_uri(base)
        if lang and tag in _ROOTS:
            self.feeddata["language"] = lang.replace("_", "-")
        self.lang = lang
        self.basestack.append(self.baseuri)
        self.langstack.append(lang)

    def _is_written(self, tag: str, attrs: Mapping[str, str]) -> bool:
        """Whether an element inside a text is part of it; if so, it is put there as markup."""
        kind = self.contentparams.get("type", "xml")
        if not kind.endswith("xml"):
            if tag in _WRAPPERS:
                return True
            self.contentparams["type"] = kind = XHTML
        if kind != XHTML:
            return False
        local = tag.rpartition(":")[2]
        self.handle_data(f"<{local}{self.strattrs(attrs.items())}>", escape=0)
        return True

    def _unknown(self, key: str, attrs: dict[str, str]) -> None:
        if attrs:
            self._get_context()[key] = attrs
        else:
            self.elementstack.append([key, 1, []])

    def closed(self, kind: _Kind) -> bool:
        """An element ends; False as for `opened`."""
        if self.svgOK:
            return False
        if kind.end is None:
            self.pop(kind.key)
        else:
            try:
                kind.end(self)
            except AttributeError:  # feedparser does so too
                self.pop(kind.key)
        if self.incontent and self._is_end_of_wrapper(kind.tag):
            return True
        if self.basestack:
            self.basestack.pop()
            if self.basestack and self.basestack[-1]:
                self.baseuri = self.basestack[-1]
        if self.langstack:
            self.langstack.pop()
            if self.langstack:
                self.lang = self.langstack[-1]
        self.depth -= 1
        return True

    def _is_end_of_wrapper(self, tag: str) -> bool:
        kind = self.contentparams.get("type", "xml")
        if not kind.endswith("xml"):
            if tag in _WRAPPERS:
                return True
            self.contentparams["type"] = kind = XHTML
        if kind == XHTML:
            self.handle_data(f"</{tag.rpartition(':')[2]}>", escape=0)
        return False

    def characters(self, content: str) -> None:
        """Text."""
        if self.elementstack:
            is_escaped = self.contentparams.get("type") == XHTML
            self.elementstack[-1][2].append(saxutils.escape(content) if is_escaped else content)

    def resolve_uri(self, uri: str) -> str:
        """An address made absolute, if there is a base."""
        resolved: str = uri if not self.baseuri and "///" not in uri else super().resolve_uri(uri)
        return resolved

    def push_content(
        self, tag: str, attrs_d: Mapping[str, str], default_content_type: str, expecting_text: int
    ) -> None:
        """A text begins."""
        self.incontent += 1
        self.lang = self.lang and self.lang.replace("_", "-")
        kind, is_base64 = _content_type(attrs_d.get("type", default_content_type))
        self.contentparams = {"type": kind, "language": self.lang, "base": self.baseuri}
        self.contentparams["base64"] = 1 if attrs_d.get("mode") == "base64" else is_base64
        self.elementstack.append([tag, expecting_text, []])

    def pop(self, element: str, strip_whitespace: int = 1) -> str | None:
        """The text of the element that ends, put where it belongs; None: another one is open."""
        if not self.elementstack or self.elementstack[-1][0] != element:
            return None
        params = self.contentparams
        if params and params.get("base64"):
            slowly: str | None = super().pop(element, strip_whitespace)
            return slowly
        _element, expecting_text, pieces = self.elementstack.pop()
        is_xhtml = params and params.get("type") == XHTML and self.version == "atom10"
        output = "".join(unwrapped(pieces) if is_xhtml else pieces)
        if strip_whitespace:
            output = output.strip()
        if not expecting_text:
            return output
        output = self._mended(element, output)
        if element in _NOT_KEPT or (element == "title" and -1 < self.title_depth <= self.depth):
            return output
        if self.inentry and not self.insource:
            self._keep(element, output)
        elif self.infeed or self.insource:
            self._keep_of_feed(element, output)
        return output

    def _mended(self, element: str, output: str) -> str:
        if output and element in self.can_be_relative_uri and (element != "id" or self.guidislink):
            output = self.resolve_uri(output)
        if params := self.contentparams:
            is_guessed = not self.version and params.get("type") == "text/plain"
            if is_guessed and self.looks_like_html(output):
                params["type"] = "text/html"
            params.pop("base64", None)
        if output.isascii():
            return output
        with suppress(UnicodeError):  # UTF-8 that was taken for Latin-1
            output = output.encode("iso-8859-1").decode()
        return output.translate(_cp1252) if _CP1252.search(output) else output

    def _keep(self, element: str, output: str) -> None:
        """Into the entry that is open."""
        entry = self.entries[-1]
        if element == "content":
            entry.setdefault(element, []).append(self.contentparams | {"value": output})
        elif element == "link":
            if not self.inimage:
                if "&" in output:
                    output = _mended_query(output.replace("&amp;", "&"))
                entry[element] = output
                if output:
                    entry["links"][-1]["href"] = output
        else:
            element = "summary" if element == "description" else element
            if entry is not self._depths_of:
                self._depths_of = entry
                self._depths = self.property_depth_map.setdefault(entry, {})
            known = self._depths.get(element)
            if known is None or self.depth <= known:
                self._depths[element] = self.depth
                entry[element] = output
            if self.incontent:
                entry[f"{element}_detail"] = self.contentparams | {"value": output}

    def _keep_of_feed(self, element: str, output: str) -> None:
        context = self._get_context()
        element = "subtitle" if element == "description" else element
        context[element] = output
        if element == "link":
            context[element] = output = _mended_query(output)
            context["links"][-1]["href"] = output
        elif self.incontent:
            context[f"{element}_detail"] = self.contentparams | {"value": output}

    def _save(self, key: str, value: object, overwrite: bool = False) -> None:
        context = self._get_context()
        if overwrite or not dict.__contains__(context, key):
            dict.__setitem__(context, key, value)

    def _end_published(self) -> None:
        self._save("published_parsed", self.pop("published"), overwrite=True)

    def _end_updated(self) -> None:
        self._save("updated_parsed", self.pop("updated"), overwrite=True)

    def _end_created(self) -> None:
        self._save("created_parsed", self.pop("created"), overwrite=True)

    _end_issued = _end_pubdate = _end_published
    _end_modified = _end_lastbuilddate = _end_updated


@lru_cache(maxsize=512)
def _attribute(name: str) -> str:
    namespace, _space, rest = name.partition(" ") if " " in name else ("", "", name)
    local = rest.partition(" ")[0]
    prefix = _strict._matchnamespaces.get(namespace.lower(), "")
    return f"{prefix}:{local}".lower() if prefix else local.lower()


@lru_cache(maxsize=512)
def _content_type(named: str) -> tuple[str, int]:
    """A text's type in full, and 1 if such texts are in base64."""
    kind: str = _strict.map_content_type(named)
    is_text = kind.startswith("text/") or kind.endswith(("+xml", "/xml"))
    return kind, 0 if is_text else 1


@lru_cache(maxsize=512)
def _written(name: str) -> str:
    _namespace, local, prefix = name.split() if name.count(" ") == 2 else ("", name, "")
    return f"{prefix}:{local}".lower() if prefix else local.lower()


def _mended_query(link: str) -> str:
    """A link whose "&a=1" was taken for an entity."""
    return _ENTITY.sub(r"&\g<1>", link)


# `feedparser.parse` with two of its globals replaced, here alone
_parse = FunctionType(
    api.parse.__code__,
    vars(api) | {"StrictFeedParser": Handler, "PREFERRED_XML_PARSERS": ["rag.ingest.expat"]},
    argdefs=api.parse.__defaults__,
)
