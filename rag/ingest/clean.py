"""From HTML to plain text, and from any text to characters that a person can see."""

from __future__ import annotations

import html
import re
import unicodedata
from urllib.parse import urljoin, urlsplit

from selectolax.lexbor import LexborHTMLParser

MAX_TITLE = 300
MAX_TEXT = 100_000
MAX_LINK = 2000
HTML_PER_TEXT = 20  # characters of source that are looked at for one of text
# Stand in the source before tags that begin or end a paragraph or a line; both are removed from
# what comes in, as all control characters are. Of one byte: western texts stay small.
_PARAGRAPH, _LINE = "\x01", "\x02"
_BLOCKS = (
    "address|article|aside|blockquote|dd|div|dl|dt|fieldset|figure|figcaption|footer|form|h[1-6]"
    "|header|hr|main|nav|ol|p|pre|section|table|ul"
)
_BREAKS = (
    (f"<(?=/?(?:{_BLOCKS})\\b)", f"{_PARAGRAPH}<"),
    (r"<(?=(?:br|li|tr|option)\b)", f"{_LINE}<"),
    (r"<(?=(?:td|th)\b)", " <"),  # cells
)
_UPPER = re.compile("</?[A-Z]")  # rare, and without it tags are found three times as fast
_MARKUP = re.compile(r"<[a-zA-Z/!?][^<>]*>|&[#\w]+;")
_UNSEEN = ("script", "style", "template", "noscript", "iframe", "object", "embed", "svg", "math")
# Control, soft hyphen, zero width, bidirectional, invisible operators, variation selectors, private
# use, interlinear, surrogates, non-characters, tags: nothing of it is seen, all of it can deceive.
_INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-"
    "\u200f\u202a-\u202e\u2060-\u206f\u3164\ud800-\uf8ff\ufdd0-\ufdef\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff0-\ufffb\ufffe\uffff\U0001fffe\U0001ffff\U000e0000-\U0010ffff]"
)
# Whatever is done with such a link, it stays as it is.
_PLAIN_LINK = re.compile(
    r"https?://[a-z0-9.-]*[a-z0-9](?:/[\w.~%=:,+!/-]*(?:\?[\w.~%=:,+!/-]+)?)?", re.ASCII
)
_MANY_SPACES = re.compile("  +")
_MANY_LINES = re.compile(r"\n{3,}")


def text_of_html(source: str, limit: int = MAX_TEXT) -> str:
    """Readable text of an HTML fragment, paragraphs apart by an empty line.

    No script, no style, no attribute of any tag comes through. Text without markup stays as it is.
    """
    if not _MARKUP.search(source):
        return paragraphs(source, limit)
    bare = source[: limit * HTML_PER_TEXT].replace(_PARAGRAPH, "").replace(_LINE, "")
    flags = re.IGNORECASE if _UPPER.search(bare) else re.NOFLAG
    for tag, mark in _BREAKS:
        bare = re.sub(tag, mark, bare, flags=flags)
    tree = LexborHTMLParser(bare)
    tree.strip_tags(list(_UNSEEN))
    body = tree.body
    text = body.text(deep=True, separator="") if body is not None else ""
    text = text.replace("\n", " ").replace(_PARAGRAPH, "\n\n").replace(_LINE, "\n")
    return paragraphs(text, limit)


def paragraphs(text: str, limit: int = MAX_TEXT) -> str:
    """Plain text with invisible characters gone, single spaces, at most one empty line.

    At most `limit` characters of it.
    """
    lines = text.replace("\xa0", " ").replace("\t", " ")
    if lines.replace("\n", "").isprintable():  # the space is its one white character
        if "  " in lines:
            lines = _MANY_SPACES.sub(" ", lines)
        lines = lines.replace(" \n", "\n").replace("\n ", "\n")
        is_plain = _is_western(lines) or _is_seen(lines)
    else:
        lines = "\n".join([" ".join(line.split()) if line else "" for line in text.splitlines()])
        is_plain = _is_seen(lines)
    if not is_plain:
        lines = "\n".join([visible(line).strip() for line in lines.split("\n")])
    if "\n\n\n" in lines:
        lines = _MANY_LINES.sub("\n\n", lines)
    return lines.strip()[:limit].rstrip()


def one_line(text: str, limit: int = MAX_TITLE) -> str:
    """A title: one line of visible characters."""
    line = visible(" ".join(text[: limit * 20].split())).strip()
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def visible(text: str) -> str:
    """Remove what cannot be seen from one line."""
    if text.isprintable() and _is_western(text):
        return text
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text))


def _is_western(printable: str) -> bool:
    """Whether all of it is in a code whose printable characters are seen, and composed."""
    if printable.isascii():
        return True
    try:
        printable.encode("cp1252")
    except UnicodeEncodeError:
        return False
    return True


def _is_seen(lines: str) -> bool:
    """Whether `visible` would change none of the lines."""
    return not _INVISIBLE.search(lines.replace("\n", " ")) and unicodedata.is_normalized(
        "NFC", lines
    )


def safe_link(link: str, base: str = "") -> str:
    """An http or https address, made absolute; "" for anything else.

    Args:
        link: as the feed has it.
        base: the feed's own address.
    """
    if len(link) <= MAX_LINK and _PLAIN_LINK.fullmatch(link):
        return link
    bare = "".join(visible(html.unescape(link)).split())
    if not bare or len(bare) > MAX_LINK:
        return ""
    try:
        whole = urljoin(base, bare)
        parts = urlsplit(whole)
        host, _port = parts.hostname, parts.port
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        return ""
    return whole if len(whole) <= MAX_LINK and not re.search(r"[\s<>\"'`\\]", whole) else ""
