"""An onion address made here, so that invitations can be written before tor has ever run.

The three files of a HiddenServiceDir, as tor itself writes them (rend-spec-v3, "Encoding onion
addresses"; tor's key files carry a header of 32 bytes). tor takes them as they are.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from federation import durable, settings
from federation.errors import ConfigError
from federation.tor.keys import check_onion

SECRET, PUBLIC, HOST = "hs_ed25519_secret_key", "hs_ed25519_public_key", "hostname"
FILES = (SECRET, PUBLIC, HOST)
_VERSION = b"\x03"
_HEADER = "== ed25519v1-{half}: type0 =="


def make_address(folder: Path) -> str:
    """Put a new address into `folder`; returns its host."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    host = _host_of(public)
    durable.write_bytes(folder / SECRET, _header("secret") + _expanded(key.private_bytes_raw()))
    durable.write_bytes(folder / PUBLIC, _header("public") + public)
    durable.write_text(folder / HOST, host + "\n")
    return host


def read_address(folder: Path) -> str:
    """The host whose key lies in `folder`.

    Raises:
        ConfigError: a file is missing or damaged.
        PermissionsError: the key is open to other users.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise ConfigError(f"{folder / name} is missing", hint="Restore it from a backup.")
    settings.require_private(folder / SECRET)
    public = (folder / PUBLIC).read_bytes().removeprefix(_header("public"))
    try:
        host = check_onion((folder / HOST).read_text(encoding="ascii").strip())
    except ValueError as err:
        raise ConfigError(f"{folder / HOST} holds no onion address: {err}") from None
    if _host_of(public) != host:
        raise ConfigError(f"{folder / PUBLIC} and {HOST} are not of one address")
    return host


def control_key(folder: Path) -> str:
    """The key of the address in `folder`, in the form that the control command ADD_ONION takes."""
    secret = (folder / SECRET).read_bytes().removeprefix(_header("secret"))
    return f"ED25519-V3:{base64.b64encode(secret).decode('ascii')}"


def _host_of(public: bytes) -> str:
    checksum = hashlib.sha3_256(b".onion checksum" + public + _VERSION).digest()[:2]
    label = base64.b32encode(public + checksum + _VERSION).decode("ascii").lower()
    return f"{label}.onion"


def _expanded(seed: bytes) -> bytes:
    """The 64 bytes that an Ed25519 seed stands for (RFC 8032, section 5.1.5)."""
    digest = bytearray(hashlib.sha512(seed).digest())
    digest[0] &= 248
    digest[31] = digest[31] & 127 | 64
    return bytes(digest)


def _header(half: str) -> bytes:
    return _HEADER.format(half=half).encode("ascii").ljust(32, b"\0")
