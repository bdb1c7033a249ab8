"""The invitation an operator hands to one volunteer, and what is said to redeem it.

One string, `conscience1:` and base64url of canonical JSON, holds all that a node must pin before
its first connection: where the server is, its certificate authority, the operator's signing key,
the base model and the code bundle, and a one-use token. The operator signs the whole, so an edited
invitation is noticed before anything is sent. The token is a secret: neither string nor file may
appear in a log or on a command line that others can read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from federation.adapter.manifest import canonical
from federation.adapter.signing import SigningKey, verify_bytes
from federation.errors import InvitationError
from federation.language import _

PREFIX = "conscience1:"
FORMAT = 1
MAX_TEXT = 32_768
ENROL_PATH = "/enrol"
HEALTH_PATH = "/health"
MAX_ENROL_BYTES = 16_384
_HEX64 = r"^[0-9a-f]{64}$"
_PROOF_PURPOSE = b"conscience-enrol-1\n"


class Invitation(BaseModel):
    """Everything a node needs to join; see the module's first lines.

    Attributes:
        address: "host:port" of the gateway, for TLS with `ca_certificate` alone as trust.
        ca_certificate: PEM.
        base_hash: identity of the base model (`federation.model.choose.identity`).
        base_ref: a person's name for that model.
        bundle_hash: sha256 of the installed rooms (`federation.bundle`).
        token: 64 hex digits, good for one enrolment.
        onion_key: private half of this node's key to the onion service at `address`, in the form
            of `federation.tor.keys.ClientKey`; "" if `address` is none.
        expires_at: ISO 8601 with UTC offset, seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int = FORMAT
    kind: str = Field(default="invitation", pattern="^invitation$")
    label: str = Field(max_length=64)
    address: str = Field(max_length=300)
    ca_certificate: str = Field(max_length=8192)
    base_ref: str = Field(max_length=300)
    base_hash: str = Field(pattern=_HEX64)
    spec_hash: str = Field(pattern=_HEX64)
    bundle_hash: str = Field(pattern=_HEX64)
    token: str = Field(pattern=_HEX64, repr=False)
    onion_key: str = Field(default="", pattern=r"^([A-Z2-7]{52})?$", repr=False)
    operator_key: str = Field(pattern=_HEX64)
    expires_at: str = Field(max_length=40)
    signature: str = Field(default="", pattern=r"^([0-9a-f]{128})?$")

    def expired(self, now: datetime) -> bool:
        """Whether `now` (with a zone) lies after the invitation's end."""
        return now >= datetime.fromisoformat(self.expires_at)


class EnrolRequest(BaseModel):
    """Node to gateway, `POST /enrol` as JSON of at most `MAX_ENROL_BYTES`.

    Attributes:
        supernode_key: OpenSSH public key line of an ECDSA P-384 key ("ecdsa-sha2-nistp384 AAAA…").
        signing_key: the node's Ed25519 public key, hex.
        proof: `enrol_proof`: the holder of the signing key asked for exactly this.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    token: str = Field(pattern=_HEX64, repr=False)
    supernode_key: str = Field(max_length=1024)
    signing_key: str = Field(pattern=_HEX64)
    proof: str = Field(pattern=r"^[0-9a-f]{128}$")


class EnrolReply(BaseModel):
    """Gateway to node, status 200.

    Attributes:
        pseudonym: `federation.adapter.signing.pseudonym` of the node's signing key.
        flower_node_id: decimal text, up to 64 bits.
        spec: `AdapterSpec.to_json()`; its hash is the invitation's `spec_hash`.
        current_version: the current global version.
        package: its three-member zip, base64, so that a new node can train the same evening.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    pseudonym: str
    flower_node_id: str
    spec: dict[str, Any]
    current_version: int = Field(ge=0)
    package: str = Field(default="", repr=False)


class EnrolRefusal(BaseModel):
    """Gateway to node, any other status: a code and one sentence in English.

    Codes: used | expired | unknown | malformed | busy | unavailable | key-in-use.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    code: str
    message: str = ""


def seal(invitation: Invitation, key: SigningKey) -> Invitation:
    """Fill in the operator's key and signature."""
    unsigned = invitation.model_copy(update={"operator_key": key.public_hex, "signature": ""})
    return unsigned.model_copy(update={"signature": key.sign(_signed_bytes(unsigned))})


def encode(invitation: Invitation) -> str:
    """Write the one string that is handed over."""
    text = canonical(invitation)
    return PREFIX + base64.urlsafe_b64encode(text).decode("ascii").rstrip("=")


def decode(text: str) -> Invitation:
    """Read and verify the string; whether it has expired is the caller's question.

    Raises:
        InvitationError: malformed, from a newer version, or its signature does not match.
    """
    text = "".join(text.split())
    if not text.startswith(PREFIX) or len(text) > MAX_TEXT:
        raise _malformed()
    body = text[len(PREFIX) :]
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        content = json.loads(raw)
    except (binascii.Error, ValueError, RecursionError) as err:
        raise _malformed() from err
    if isinstance(content, dict) and _is_newer(content.get("format")):
        raise InvitationError(
            _("This invitation was made by a newer version of conscienceai."),
            hint=_("Install the newer version, then try again."),
        )
    try:
        invitation = Invitation.model_validate(content)
        datetime.fromisoformat(invitation.expires_at).utctimetuple()
        has_zone = datetime.fromisoformat(invitation.expires_at).tzinfo is not None
    except (ValidationError, ValueError):
        # The chained error would quote the content, and the token is in it.
        raise _malformed() from None
    if not has_zone:
        raise _malformed()
    _verify(invitation)
    return invitation


def read(source: str) -> Invitation:
    """Read an invitation from the string itself or from a file that holds it.

    Raises:
        InvitationError: as `decode`, or no such file.
    """
    if source.lstrip().startswith(PREFIX):
        return decode(source)
    path = Path(source).expanduser()
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEXT + 1)
    except (OSError, ValueError) as err:
        raise InvitationError(
            _("No invitation here: '{source}' is neither a file nor an invitation.").format(
                source=source[:60]
            ),
            hint=_("Paste the whole text that starts with {prefix}").format(prefix=PREFIX),
        ) from err
    return decode(data.decode("utf-8", errors="replace"))


def token_hash(token: str) -> str:
    """What the server keeps instead of the token: sha256, hex."""
    return hashlib.sha256(token.encode("ascii")).hexdigest()


def proof_message(token: str, supernode_key: str) -> bytes:
    """Bytes that a node signs to enrol: the token's hash and the SuperNode key it is for."""
    return _PROOF_PURPOSE + f"{token_hash(token)}\n{supernode_key.strip()}".encode()


def enrol_request(token: str, supernode_key: str, key: SigningKey) -> EnrolRequest:
    """Build the request of a node whose signing key is `key`."""
    return EnrolRequest(
        token=token,
        supernode_key=supernode_key.strip(),
        signing_key=key.public_hex,
        proof=key.sign(proof_message(token, supernode_key)),
    )


def proof_holds(request: EnrolRequest) -> bool:
    """Whether the holder of `request.signing_key` signed this very request."""
    message = proof_message(request.token, request.supernode_key)
    return verify_bytes(message, request.proof, public_key=request.signing_key)


def _verify(invitation: Invitation) -> None:
    unsigned = invitation.model_copy(update={"signature": ""})
    signed = _signed_bytes(unsigned)
    if not verify_bytes(signed, invitation.signature, public_key=invitation.operator_key):
        raise InvitationError(
            _("This invitation was changed after the operator signed it."),
            hint=_("Do not use it. Ask the operator for a new one."),
        )


def _signed_bytes(invitation: Invitation) -> bytes:
    return canonical(invitation.model_dump(mode="json", exclude={"signature"}))


def _is_newer(version: object) -> bool:
    return isinstance(version, int) and version > FORMAT


def _malformed() -> InvitationError:
    return InvitationError(
        _("This is not a complete invitation."),
        hint=_("Copy all of it, from {prefix} to its last character.").format(prefix=PREFIX),
    )
