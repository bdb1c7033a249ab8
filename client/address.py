"""The address of a server, as a node's owner may write it: https, an onion service or loopback."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from federation.language import _
from federation.tor.keys import check_onion, is_onion

ONION_PORT = 443  # an onion service offers the gateway there, and nothing else


def parse_address(url: str) -> tuple[str, int]:
    """Host and port of a server URL.

    Raises:
        ValueError: not https, an onion service or loopback; or an onion address that cannot be.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    default_port = {"https": 443, "http": 80}.get(parts.scheme)
    if not host or default_port is None:
        raise ValueError(_("'{url}' is not a URL such as https://host:9443").format(url=url))
    if is_onion(host):
        return check_onion(host), parts.port or ONION_PORT
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError(_("'{url}' must be https, an onion service or loopback").format(url=url))
    return host, parts.port or default_port


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
