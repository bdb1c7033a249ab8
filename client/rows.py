"""One row of a node's files as a document: which columns count, and HTML taken out. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

from federation.language import _
from federation.model.documents import Document

QUESTION = ("question", "instruction")
ANSWER = ("answer", "response", "output")
BLOCKS = frozenset(
    (
        *("address", "article", "blockquote", "br", "dd", "div", "dl", "dt", "figure", "hr", "li"),
        *("h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre", "section", "table", "td", "th"),
        *("tr", "ul"),
    )
)
HIDDEN = frozenset(("script", "style", "template", "noscript"))


class RowError(ValueError):
    """Why a row cannot be used; the caller adds file and line."""


def parse_row(line: bytes) -> Mapping[str, Any]:
    """Read one line of JSON.

    Raises:
        RowError: not UTF-8, not JSON, or not an object.
    """
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as err:
        raise RowError(_("not UTF-8")) from err
    except (ValueError, RecursionError) as err:
        raise RowError(_("not valid JSON")) from err
    if not isinstance(row, dict):
        raise RowError(_("not a JSON object"))
    return {str(key).strip().lower(): value for key, value in row.items()}


def to_document(row: Mapping[str, Any]) -> Document:
    """Recognise a row by its columns, lower case.

    `question|instruction` (+ `input`) with `answer|response|output` is a pair; `text` (+ `title`)
    is a text; `title`, `summary`, `content` is an entry of a feed, whose HTML is taken out.

    Raises:
        RowError: no such columns, or they are empty.
    """
    labels = {
        "lang": _label(row, "lang", "language"),
        "field": _label(row, "field", "topic"),
        "id": _label(row, "id"),
    }
    question, answer = _first(row, QUESTION), _first(row, ANSWER)
    if question is not None and answer is not None:
        extra = _string(row, "input")
        asked = f"{question}\n{extra}" if question and extra else question or extra
        if not asked or not answer:
            raise RowError(_("the question or the answer is empty"))
        return Document(question=asked, answer=answer, **labels)
    text = _text(row)
    if not text:
        raise RowError(_("no question and answer, no text, no title and summary"))
    return Document(text=text, **labels)


def strip_html(text: str) -> str:
    """Readable text of an HTML fragment; plain text comes through as it is."""
    if "<" not in text and "&" not in text:
        return text.strip()
    reader = _TextOfHtml()
    reader.feed(text)
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.parts).splitlines())
    return "\n".join(line for line in lines if line)


class _TextOfHtml(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag in HIDDEN:
            self._hidden += 1
        elif tag in BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        elif tag in BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)


def _text(row: Mapping[str, Any]) -> str:
    title = _string(row, "title")
    if "text" in row:
        body = _string(row, "text")
    else:
        summary, content = strip_html(_string(row, "summary")), strip_html(_string(row, "content"))
        body, title = content or summary, strip_html(title)
    return f"{title}\n{body}" if title and body and title != body else body or title


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    present = [name for name in names if name in row]
    return _string(row, present[0]) if present else None


def _string(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if isinstance(value, list):  # feed readers give content as a list of {"value": …}
        values = [item.get("value", "") if isinstance(item, dict) else item for item in value]
        value = "\n".join(item for item in values if isinstance(item, str))
    if not isinstance(value, str):
        raise RowError(_("'{column}' is not a text").format(column=name))
    return value.encode("utf-8", "replace").decode("utf-8").strip()  # lone surrogates become "?"


def _label(row: Mapping[str, Any], *names: str) -> str:
    values = (row.get(name) for name in names)
    return next((str(value) for value in values if isinstance(value, str | int)), "")
