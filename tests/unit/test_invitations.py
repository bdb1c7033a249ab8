"""Invitations: complete, signed, expiring, and silent about their secret."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from federation import invitation
from federation.adapter.signing import SigningKey
from federation.errors import InvitationError, UsageError
from federation.invitation import PREFIX, Invitation
from server.config import ServerHome, load_config
from server.invitations import invite, parse_life
from server.registry import Registry
from tests.server_home import make_home, node_keys


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    return make_home(tmp_path / "server", gateway_port=4433)


@pytest.fixture
def made(home: ServerHome) -> Invitation:
    return invite(home, load_config(home), "ana", life=timedelta(days=7))


def altered(made: Invitation, **changes: object) -> str:
    content = json.loads(_body(invitation.encode(made))) | changes
    return PREFIX + base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


def _body(text: str) -> bytes:
    body = text.removeprefix(PREFIX)
    return base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))


def test_an_invitation_survives_the_journey_as_text_and_as_file(
    made: Invitation, tmp_path: Path
) -> None:
    text = invitation.encode(made)
    assert text.startswith(PREFIX)
    assert invitation.decode(text) == made
    (tmp_path / "ana.txt").write_text(f"  {text[:50]}\n{text[50:]}\n")
    assert invitation.read(str(tmp_path / "ana.txt")) == made


def test_it_names_all_that_a_node_pins(home: ServerHome, made: Invitation) -> None:
    public = SigningKey.load(home.signing_key).public_hex
    spec = Registry(home.registry, None, public).spec
    assert made.operator_key == public
    assert (made.base_hash, made.spec_hash) == (spec.base_hash, spec.spec_hash)
    assert made.address == "127.0.0.1:4433"
    assert made.ca_certificate == (home.tls / "ca.crt").read_text()
    assert not made.expired(datetime.now(UTC) + timedelta(days=6))
    assert made.expired(datetime.now(UTC) + timedelta(days=8))


@pytest.mark.parametrize("field", ["address", "ca_certificate", "label", "expires_at", "token"])
def test_a_changed_field_is_noticed(made: Invitation, field: str) -> None:
    value = {"token": "0" * 64, "expires_at": "2099-01-01T00:00:00+00:00"}.get(field, "other")
    with pytest.raises(InvitationError, match="changed after the operator signed"):
        invitation.decode(altered(made, **{field: value}))


def test_another_signer_cannot_keep_the_operators_name(made: Invitation) -> None:
    forged = invitation.seal(made.model_copy(update={"address": "evil:1"}), SigningKey.generate())
    text = altered(forged, operator_key=made.operator_key)
    with pytest.raises(InvitationError, match="changed after the operator signed"):
        invitation.decode(text)


@pytest.mark.parametrize(
    "text",
    ["", "conscience1:", "conscience1:%%%", "conscience1:e30", "conscience1:bnVsbA", "x" * 40_000],
)
def test_malformed_text_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(InvitationError, match="not a complete invitation"):
        invitation.decode(text)


def test_a_cut_invitation_is_refused(made: Invitation) -> None:
    for cut in (10, 200, 900, 1500):
        with pytest.raises(InvitationError):
            invitation.decode(invitation.encode(made)[:-cut])


def test_a_time_without_zone_is_refused(made: Invitation) -> None:
    with pytest.raises(InvitationError, match="not a complete invitation"):
        invitation.decode(altered(made, expires_at="2030-01-01T00:00:00"))


def test_a_newer_format_asks_for_the_newer_version(made: Invitation) -> None:
    with pytest.raises(InvitationError, match="newer version"):
        invitation.decode(altered(made, format=2, surprise=True))


def test_the_token_shows_in_no_error_and_no_repr(made: Invitation) -> None:
    assert made.token not in repr(made)
    broken = altered(made, address=7)
    with pytest.raises(InvitationError) as caught:
        invitation.decode(broken)
    assert caught.value.__cause__ is None
    assert made.token not in str(caught.value)


def test_the_server_keeps_only_the_hash_of_the_token(home: ServerHome, made: Invitation) -> None:
    stored = b"".join(path.read_bytes() for path in home.root.rglob("*") if path.is_file())
    assert made.token.encode() not in stored
    assert invitation.token_hash(made.token).encode() in stored


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(InvitationError, match="neither a file nor an invitation"):
        invitation.read("nowhere.txt")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-x", "x" * 65, "a\nb"])
def test_an_unusable_name_is_refused(home: ServerHome, name: str) -> None:
    with pytest.raises(UsageError, match="not a usable name"):
        invite(home, load_config(home), name, life=timedelta(days=1))


@pytest.mark.parametrize(
    ("text", "life"),
    [("7d", timedelta(days=7)), ("12h", timedelta(hours=12)), ("90s", timedelta(seconds=90))],
)
def test_lengths_of_time(text: str, life: timedelta) -> None:
    assert parse_life(text) == life


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "0d", "1w", "1.5h"])
def test_other_lengths_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_life(text)


def test_a_proof_holds_for_its_own_request_only() -> None:
    keys, other = node_keys(), node_keys()
    request = invitation.enrol_request("ab" * 32, keys.line, keys.signing)
    assert invitation.proof_holds(request)
    for change in (
        {"token": "cd" * 32},
        {"supernode_key": other.line},
        {"signing_key": other.signing.public_hex},
    ):
        assert not invitation.proof_holds(request.model_copy(update=change))
