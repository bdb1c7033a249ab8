"""The gateway's route for measuring: sizes, paths, and how an admitted node asks for it.

    GET  /probe/<size>    the gateway sends so many bytes
    POST /probe/<size>    the gateway counts so many bytes and throws them away

A plain HTTP client has none of the signatures that Flower's SuperNode makes, so the node signs the
request with the key that its packages are signed with. A header that somebody saw is good for the
same request within `LIFE_S`, and for nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from federation.adapter.signing import SigningKey, pseudonym, verify_bytes

Method = Literal["GET", "POST"]
SIZES = (256 * 1024, 4 * 1024 * 1024)
LIFE_S = 300.0
NODE_HEADER, TIME_HEADER, PROOF_HEADER = (
    "conscience-node",
    "conscience-time",
    "conscience-proof",
)
_PATHS = {f"/probe/{size}": size for size in SIZES}
_PURPOSE = "conscience-probe-1"


def path_of(size: int) -> str:
    """Path for a probe of `size` bytes, one of `SIZES`."""
    return f"/probe/{size}"


def size_of(path: str) -> int | None:
    """Bytes of the probe at `path`; None if it is no probe's."""
    return _PATHS.get(path)


def headers(key: SigningKey, method: Method, size: int, *, now: float) -> dict[str, str]:
    """Headers of a node's request at Unix time `now`."""
    return {
        NODE_HEADER: pseudonym(key.public_hex),
        TIME_HEADER: str(int(now)),
        PROOF_HEADER: key.sign(_message(method, size, str(int(now)))),
    }


def holds(given: Mapping[str, str], method: str, size: int, *, public_key: str, now: float) -> bool:
    """Whether the node with the signing key `public_key` (hex) asked for exactly this, lately."""
    moment = given.get(TIME_HEADER, "")
    if not (moment.isascii() and moment.isdigit() and len(moment) <= 12):
        return False
    if abs(now - int(moment)) > LIFE_S:
        return False
    message = _message(method, size, moment)
    return verify_bytes(message, given.get(PROOF_HEADER, ""), public_key=public_key)


def _message(method: str, size: int, moment: str) -> bytes:
    return f"{_PURPOSE}\n{method} {path_of(size)}\n{moment}".encode("ascii")
