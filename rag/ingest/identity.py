"""What makes two entries the same one, and two texts the same text."""

from __future__ import annotations

import hashlib
from urllib.parse import parse_qsl, urlencode, urlsplit

_TRACKING = ("utm_", "fbclid", "gclid", "mc_cid", "mc_eid")
ID_LENGTH = 32


def content_sha256(title: str, text: str) -> str:
    """Hash of title and text, whatever the spaces in them."""
    normal = f"{_spaced(title)}\n{_spaced(text)}"
    return hashlib.sha256(normal.encode("utf-8", "replace")).hexdigest()


def _spaced(text: str) -> str:
    """Words apart by one space."""
    flat = text.replace("\n\n", " ").replace("\n", " ").strip()
    if flat.isprintable() and "  " not in flat:  # the space is the one printable white character
        return flat
    return " ".join(text.split())


def document_id(source: str, key: str) -> str:
    """32 hex digits for one entry of one source: the same as long as its key stays."""
    return hashlib.sha256(f"{source}\n{key}".encode("utf-8", "replace")).hexdigest()[:ID_LENGTH]


def canonical_link(link: str) -> str:
    """A link without what changes between visits: scheme, case of the host, fragment, tracking."""
    parts = urlsplit(link)
    query = [
        pair
        for pair in parse_qsl(parts.query, keep_blank_values=True)
        if not pair[0].lower().startswith(_TRACKING)
    ]
    host = (parts.hostname or "").removeprefix("www.")
    return f"//{host}{parts.path.rstrip('/')}" + (f"?{urlencode(query)}" if query else "")
