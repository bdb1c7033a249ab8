"""A file's bytes to plain texts: txt, md, html, pdf, docx, jsonl. What it is, its bytes tell.

Runs in the child of `rag.ingest.reader`: what a hostile file does to a library, it does there.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import PurePath
from typing import Any

from federation.errors import FormatError
from federation.language import _
from rag.ingest.clean import one_line, paragraphs, safe_link, text_of_html
from rag.ingest.dates import read_date
from rag.ingest.entries import Entry
from rag.ingest.identity import content_sha256
from rag.ingest.tongue import language_of, primary

SUFFIXES = (".txt", ".md", ".markdown", ".html", ".htm", ".pdf", ".docx", ".jsonl")
MAX_FILE_BYTES = 50_000_000
MAX_PAGES = 2000
MAX_ROWS = 100_000
MAX_DOCUMENT = 2_000_000  # characters of one file
MAX_UNPACKED = 200_000_000  # bytes of a docx
Texts = Iterator[tuple[str, str]]


def read_file(body: bytes, name: str, now: datetime) -> list[Entry]:
    """The texts of one file: one, or one a row of a JSON Lines file.

    Raises:
        FormatError: of no kind that is read, damaged, locked, or without text.
    """
    kind = sniff(body, name)
    if kind == "jsonl":
        entries = list(_rows(body, now))
    else:
        title, text = _READERS[kind](body)
        title = one_line(title) or PurePath(name).stem
        entries = [_entry(title, text, "")] if text else []
    if not entries:
        raise FormatError(_("there is no text in it"))
    return entries


def sniff(body: bytes, name: str) -> str:
    """Which reader a file wants: by its first bytes, then by the ending of its name.

    Raises:
        FormatError: none of ours.
    """
    suffix = PurePath(name).suffix.lower()
    head = body[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"%PDF-"):
        return "pdf"
    if head.startswith(b"PK\x03\x04"):
        return "docx"
    is_utf16 = body.startswith((b"\xff\xfe", b"\xfe\xff"))
    if suffix in (".pdf", ".docx") or (b"\0" in body[:8192] and not is_utf16):
        raise FormatError(_("its content is not what its name says"))
    if suffix == ".jsonl":
        return "jsonl"
    if suffix in (".html", ".htm") or head[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "html"
    return "md" if suffix in (".md", ".markdown") else "text"


def decode(body: bytes) -> str:
    """UTF-8, UTF-16 with its mark, else windows-1252, which takes nearly anything."""
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        return body.decode("utf-16", "replace")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        return body.decode("windows-1252", "replace")


def _text(body: bytes) -> tuple[str, str]:
    return "", _long(decode(body).split("\n\n"))


def _markdown(body: bytes) -> tuple[str, str]:
    text = decode(body)
    title = next((line[2:] for line in text.splitlines()[:50] if line.startswith("# ")), "")
    return title, _long(text.split("\n\n"))


def _html(body: bytes) -> tuple[str, str]:
    from selectolax.lexbor import LexborHTMLParser

    source = decode(body)
    tree = LexborHTMLParser(source)
    title = tree.css_first("title")
    part = tree.css_first("main") or tree.css_first("article") or tree.body
    for unwanted in part.css("nav, footer, aside, form") if part is not None else ():
        unwanted.decompose()
    return title.text() if title else "", text_of_html(
        (part.html or "") if part else source, MAX_DOCUMENT
    )


def _pdf(body: bytes) -> tuple[str, str]:
    import pypdf
    from pypdf.errors import PyPdfError

    try:
        reader = pypdf.PdfReader(io.BytesIO(body))
        if reader.is_encrypted and not reader.decrypt(""):
            raise FormatError(_("it is locked with a password"))
        pages = [page.extract_text() for page in list(reader.pages)[:MAX_PAGES]]
        title = str(reader.metadata.title or "") if reader.metadata else ""
    except PyPdfError as err:
        raise FormatError(_("the PDF is damaged ({why})").format(why=one_line(str(err)))) from err
    return title, _long(pages)


def _docx(body: bytes) -> tuple[str, str]:
    import docx
    from docx.opc.exceptions import OpcError

    try:
        with zipfile.ZipFile(io.BytesIO(body)) as packed:
            if sum(member.file_size for member in packed.infolist()) > MAX_UNPACKED:
                raise FormatError(_("unpacked it would be too large"))
        document: Any = docx.Document(io.BytesIO(body))
    except (OpcError, zipfile.BadZipFile, KeyError) as err:
        raise FormatError(_("it is no Word document, or a damaged one")) from err
    parts = [paragraph.text for paragraph in document.paragraphs]
    for table in document.tables:
        parts += [" | ".join(cell.text for cell in row.cells) for row in table.rows]
    return str(document.core_properties.title or ""), _long(parts)


_READERS: dict[str, Callable[[bytes], tuple[str, str]]] = {
    "text": _text,
    "md": _markdown,
    "html": _html,
    "pdf": _pdf,
    "docx": _docx,
}


def _rows(body: bytes, now: datetime) -> Iterator[Entry]:
    """One entry for each row with a text; those that are none are left out."""
    for line in decode(body).splitlines()[:MAX_ROWS]:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and (entry := _row(row, now)) is not None:
            yield entry


def _row(row: dict[str, Any], now: datetime) -> Entry | None:
    values = {str(key).lower(): value for key, value in row.items() if isinstance(value, str | int)}

    def first(*names: str) -> str:
        return next((str(values[name]) for name in names if values.get(name)), "")

    question, answer = first("question", "instruction"), first("answer", "response", "output")
    title = one_line(first("title") or question)
    text = text_of_html(first("text", "content", "body", "summary") or answer)
    if not text:
        return None
    link = safe_link(first("link", "url", "href"))
    published = read_date(None, first("published", "date"), now)
    entry = _entry(title, text, first("language", "lang"), link=link, published=published)
    return _keyed(entry, first("_id", "id") or entry.sha256)


def _keyed(entry: Entry, key: str) -> Entry:
    return entry._replace(key=key[:200])


def _entry(title: str, text: str, tag: str, *, link: str = "", published: str = "") -> Entry:
    return Entry(
        key="",
        title=title,
        text=text,
        link=link,
        published=published,
        language=language_of(f"{title}\n{text}", primary(tag)),
        licence="",
        sha256=content_sha256(title, text),
        sketch="",
    )


def _long(parts: list[str]) -> str:
    """Parts as paragraphs; the length of each is bounded, and that of all."""
    kept: list[str] = []
    room = MAX_DOCUMENT
    for part in parts:
        text = paragraphs(part, room) if room > 0 else ""
        if text:
            kept.append(text)
            room -= len(text) + 2
    return "\n\n".join(kept)
