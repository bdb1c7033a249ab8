"""An invitation, and a gateway that redeems it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from federation import bundle, invitation
from federation.adapter.format import AdapterSpec
from federation.adapter.signing import pseudonym
from federation.invitation import EnrolReply, EnrolRequest, Invitation
from federation.model.choose import SEMILLA, identity
from tests.adapter_samples import make_spec
from tests.fake_gateway import Answer, FakeGateway
from tests.global_samples import Chain

TOKEN = "5e" * 32


def invite(gateway: FakeGateway, chain: Chain, **other: object) -> Invitation:
    """A signed invitation, good for a week."""
    values = {
        "label": "alba",
        "address": gateway.address,
        "ca_certificate": gateway.ca_certificate,
        "base_ref": "semilla",
        "base_hash": chain.spec.base_hash,
        "spec_hash": chain.spec.spec_hash,
        "bundle_hash": bundle.bundle_hash(),
        "token": TOKEN,
        "operator_key": chain.key.public_hex,
        "expires_at": (datetime.now(UTC) + timedelta(days=7)).isoformat(timespec="seconds"),
    }
    return invitation.seal(Invitation.model_validate(values | other), chain.key)


def accept(
    spec: AdapterSpec | None = None, *, package: bytes = b"", pseudonym_of: str | None = None
) -> Callable[[bytes], Answer]:
    """Answer an enrolment as the real gateway does."""

    def enrol(body: bytes) -> Answer:
        request = EnrolRequest.model_validate_json(body)
        assert request.token == TOKEN
        assert invitation.proof_holds(request)
        reply = EnrolReply(
            name="alba",
            pseudonym=pseudonym(pseudonym_of or request.signing_key),
            flower_node_id="123",
            spec=(spec or make_spec(base_hash=identity(SEMILLA))).to_json(),
            current_version=1,
            package=base64.b64encode(package).decode(),
        )
        return 200, reply.model_dump_json().encode()

    return enrol
