"""Onion addresses and the x25519 keys that let one volunteer in: their forms, made and checked."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field

from federation.language import _

SUFFIX = ".onion"
KEY_BYTES = 32
_V2 = re.compile(r"[a-z2-7]{16}")
_V3 = re.compile(r"[a-z2-7]{56}")
_BASE32 = re.compile(r"[A-Z2-7]{52}")


@dataclass(frozen=True)
class ClientKey:
    """One volunteer's key pair; each half is 52 characters of base32, upper case."""

    public: str
    private: str = field(repr=False)


def new_client_key() -> ClientKey:
    """Make a key pair."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return _pair(X25519PrivateKey.generate().private_bytes_raw())


def key_of(private: str) -> ClientKey:
    """The pair that `private` belongs to.

    Raises:
        ValueError: it is not 52 characters of base32.
    """
    return _pair(_raw(private))


def service_line(public: str) -> str:
    """Content of a file of `authorized_clients`.

    Raises:
        ValueError: malformed: tor would pass over such a file, and let everybody in if it has
            no other.
    """
    _raw(public)
    return f"descriptor:x25519:{public}"


def client_line(host: str, private: str) -> str:
    """Content of a file of ClientOnionAuthDir (`*.auth_private`).

    Raises:
        ValueError: the address or the key is malformed.
    """
    _raw(private)
    return f"{check_onion(host).removesuffix(SUFFIX)}:descriptor:x25519:{private}"


def control_key(private: str) -> str:
    """The form that the control command ONION_CLIENT_AUTH_ADD takes.

    Raises:
        ValueError: malformed.
    """
    return base64.b64encode(_raw(private)).decode("ascii")


def is_onion(host: str) -> bool:
    """Whether a host is meant as an onion address, a right one or not."""
    return host.lower().rstrip(".").endswith(SUFFIX)


def check_onion(host: str) -> str:
    """Check a version 3 address, its checksum too; returns it in lower case.

    Raises:
        ValueError: what is wrong with it; the address is not repeated.
    """
    label = host.lower().removesuffix(SUFFIX)
    if not is_onion(host) or "." in label:
        raise ValueError(_("an onion address is 56 characters followed by .onion"))
    if _V2.fullmatch(label):
        raise ValueError(_("this is an onion address of version 2, which Tor no longer knows"))
    if len(label) != 56:
        raise ValueError(
            _("an onion address has 56 characters before .onion, this one {count}").format(
                count=len(label)
            )
        )
    if not _V3.fullmatch(label):
        raise ValueError(_("an onion address holds letters a to z and digits 2 to 7 only"))
    raw = base64.b32decode(label.upper())
    public, checksum, version = raw[:32], raw[32:34], raw[34:]
    if version != b"\x03":
        raise ValueError(_("this onion address is of a version other than 3"))
    if hashlib.sha3_256(b".onion checksum" + public + version).digest()[:2] != checksum:
        raise ValueError(
            _("the checksum of the onion address is wrong: look for a mistyped letter")
        )
    return label + SUFFIX


def _pair(private: bytes) -> ClientKey:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    return ClientKey(_base32(public), _base32(private))


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw).decode("ascii").rstrip("=")


def _raw(key: str) -> bytes:
    if _BASE32.fullmatch(key):
        raw = base64.b32decode(key + "====")
        if _base32(raw) == key:  # the last character has four bits too many
            return raw
    raise ValueError(_("an onion key is 52 characters of base32, upper case"))
