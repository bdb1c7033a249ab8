"""What node and operator say to each other in a round: hello, collect, deploy.

One night is three exchanges, each begun by the server. The bodies travel as JSON text beside at
most one blob (a package, see `federation.adapter.package`). Nothing here knows Flower.

    hello    server: "what do you hold?"            node: versions held, packages waiting
    collect  server: "hand over this one"           node: that package, or nothing
    deploy   server: "here is vN, here are verdicts" node: receipt and its own held-out loss
"""

from __future__ import annotations

from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from federation.errors import FormatError

PROTOCOL_VERSION = 1
MAX_OFFERS = 16
BODY_KEY = "body"  # ConfigRecord {BODY_KEY: JSON text}
BLOB_KEY = "blob"  # ArrayRecord {BLOB_KEY: one array of raw bytes}
BASE_KEY = "base"  # in the same record, where a version adds to the base model and rows are lacking
BLOB_KIND = "conscience.package"
HELLO_ACTION = "hello"
M = TypeVar("M", bound="Body")


class Body(BaseModel):
    """Base of all bodies: frozen, unknown keys refused, one protocol version."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    protocol: int = PROTOCOL_VERSION


class Offer(BaseModel):
    """One package in a node's outbox."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    global_version: int = Field(ge=0)
    size_bytes: int = Field(ge=0)


class Verdict(BaseModel):
    """What became of one package."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    state: Literal["merged", "refused", "expired"]
    version: int | None = None
    reason: str = Field(default="", max_length=400)


class Hello(Body):
    """Server to node: what do you hold?"""

    current_version: int = Field(ge=0)
    mode: Literal["collect", "live"] = "collect"


class HelloReply(Body):
    """Node to server: the version held (-1: none) and the packages waiting, oldest first."""

    node: str = Field(pattern=r"^[0-9a-f]{16}$")
    held_version: int = Field(ge=-1)
    offers: tuple[Offer, ...] = Field(default=(), max_length=MAX_OFFERS)


class Collect(Body):
    """Server to node: hand over package `want`; with mode live, train first and hand over that.

    A live node that trained the same before, and so makes nothing new, hands over `want`.
    A blob beside it, if any, is the current global adapter with its chain of manifests.
    """

    mode: Literal["collect", "live"] = "collect"
    want: str = ""
    verdicts: tuple[Verdict, ...] = ()
    version: int = Field(default=-1, ge=-1)
    chain: tuple[str, ...] = ()


class CollectReply(Body):
    """Node to server: the package rides beside it as a blob, or `sha256` is empty.

    Attributes:
        size_bytes: of the package; the blob is longer, see `federation.padding`.
    """

    node: str = Field(pattern=r"^[0-9a-f]{16}$")
    held_version: int = Field(default=-1, ge=-1)
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    size_bytes: int = Field(default=0, ge=0)
    note: str = Field(default="", max_length=400)


class Deploy(Body):
    """Server to node: version now current, verdicts on the node's packages.

    Attributes:
        version: the current global version.
        chain: signed manifests (JSON texts) after the version the node holds, oldest first.
        verdicts: only those on this node's own packages.
        address: "host:port" that this node should dial from now on; "" means no change.
    """

    version: int = Field(ge=0)
    chain: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    address: str = Field(default="", max_length=300, repr=False)


class DeployReply(Body):
    """Node to server: the version now held, and its held-out loss before and after if measured."""

    node: str = Field(pattern=r"^[0-9a-f]{16}$")
    held_version: int = Field(ge=-1)
    accepted: bool
    reason: str = Field(default="", max_length=400)
    loss: float | None = None
    examples: int = Field(default=0, ge=0)


def parse(kind: type[M], text: str) -> M:
    """Read a body of `kind` from JSON `text`.

    Raises:
        FormatError: not that body, or from a newer protocol.
    """
    try:
        body = kind.model_validate_json(text)
    except ValidationError as err:
        raise FormatError(f"not a valid {kind.__name__} message: {err.errors()[0]['msg']}") from err
    if body.protocol > PROTOCOL_VERSION:
        raise FormatError(
            f"{kind.__name__} message of protocol {body.protocol}; this is {PROTOCOL_VERSION}",
            hint="Install the newer version of conscienceai.",
        )
    return body
