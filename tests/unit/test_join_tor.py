"""Joining through Tor: the key first, everything by the onion, nothing around it."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client.config import NodeConfig, NodeHome, load_federation
from client.join import join
from client.keys import onion_key
from federation import invitation
from federation.errors import (
    BaseMismatchError,
    ConfigError,
    ConscienceError,
    InvitationError,
    TorError,
)
from federation.model.choose import SEMILLA, identity
from federation.tor import forwarder
from federation.tor.forwarder import Patience
from federation.tor.keys import new_client_key
from federation.tor.settings import TorSettings
from tests.adapter_samples import make_spec
from tests.fake_gateway import FakeGateway, serve_gateway
from tests.fake_socks import FakeSocks, refused
from tests.global_samples import Chain
from tests.invited import accept, invite
from tests.onion_home import ONION

KEY = new_client_key().private
HASTE = Patience(dial_s=1.0, first_pause_s=0.05, longest_pause_s=0.1)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGateway]:
    with serve_gateway(tmp_path_factory.mktemp("tls")) as served:
        served.enrol = accept()
        yield served


@pytest.fixture(scope="module")
def chain() -> Chain:
    return Chain(make_spec(base_hash=identity(SEMILLA)))


@pytest.fixture(autouse=True)
def _haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not online is given up after a second, not after 25."""
    monkeypatch.setattr(forwarder, "PATIENCE", HASTE)


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return NodeHome(tmp_path / "node")


@pytest.fixture
def socks(gateway: FakeGateway) -> Iterator[FakeSocks]:
    """A SOCKS port that leads to the gateway."""
    with FakeSocks(target=int(gateway.address.rpartition(":")[2])) as tor:
        yield tor


@pytest.fixture
def text(gateway: FakeGateway, chain: Chain) -> str:
    """An invitation to an onion."""
    return invitation.encode(invite(gateway, chain, address=f"{ONION}:443", onion_key=KEY))


def through(socks: FakeSocks, **other: object) -> NodeConfig:
    tor = TorSettings(mode="address", socks=socks.address)
    return NodeConfig.model_validate({"tor": tor, **other})


def fails(home: NodeHome, config: NodeConfig, text: str) -> ConscienceError:
    """How joining fails; no federation is left, and no sentence names the onion or its key."""
    with pytest.raises(ConscienceError) as caught:
        join(home, config, text)
    said = f"{caught.value.message} {caught.value.hint}"
    assert ONION[:16] not in said
    assert KEY not in said
    assert not home.federation.exists()
    return caught.value


def test_a_node_joins_by_the_onion_alone(home: NodeHome, socks: FakeSocks, text: str) -> None:
    join(home, through(socks), text)
    assert load_federation(home).address == f"{ONION}:443"
    assert {(asked.host, asked.port, asked.user) for asked in socks.asked} == {(ONION, 443, "join")}
    assert onion_key(home.onion_key) == KEY
    assert stat.S_IMODE(home.onion_key.stat().st_mode) == 0o600
    assert KEY not in home.federation.read_text()


@pytest.mark.parametrize(
    ("code", "sentence"), [(0xF0, "not online"), (0xF4, "not loaded"), (0xF5, "does not accept")]
)
def test_what_tor_answers_is_the_sentence_and_the_key_is_kept_before(
    home: NodeHome, socks: FakeSocks, text: str, code: int, sentence: str
) -> None:
    socks.reply = refused(code)
    error = fails(home, through(socks, use_tor=None), text)
    assert isinstance(error, TorError)
    assert sentence in error.message
    assert onion_key(home.onion_key) == KEY


@pytest.mark.security
def test_h27_where_tor_is_forbidden_an_onion_is_not_joined(
    home: NodeHome, socks: FakeSocks, text: str, gateway: FakeGateway
) -> None:
    gateway.asked.clear()
    error = fails(home, through(socks, use_tor=False), text)
    assert isinstance(error, ConfigError)
    assert (socks.asked, gateway.asked) == ([], [])


def test_an_onion_address_that_cannot_be_is_named_before_anything_is_dialled(
    home: NodeHome, socks: FakeSocks, gateway: FakeGateway, chain: Chain
) -> None:
    address = f"b{ONION[1:]}:443"
    damaged = invitation.encode(invite(gateway, chain, address=address, onion_key=KEY))
    fails(home, through(socks), damaged)
    assert socks.asked == []


@pytest.mark.security
def test_h27_no_hub_is_asked_around_tor(
    home: NodeHome, socks: FakeSocks, gateway: FakeGateway, chain: Chain
) -> None:
    absent = invite(
        gateway, chain, address=f"{ONION}:443", base_hash="cd" * 32, base_ref="org/other"
    )
    with pytest.raises(BaseMismatchError, match="not fetched around Tor") as caught:
        join(home, through(socks), invitation.encode(absent), allow_download=True)
    assert str(home.models) in caught.value.hint
    assert socks.asked == []


def test_an_expired_invitation_is_said_to_be_where_tor_fails_too(
    home: NodeHome, socks: FakeSocks, gateway: FakeGateway, chain: Chain
) -> None:
    past = (datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="seconds")
    expired = invite(gateway, chain, address=f"{ONION}:443", onion_key=KEY, expires_at=past)
    socks.reply = refused(0xF0)
    error = fails(home, through(socks), invitation.encode(expired))
    assert isinstance(error, InvitationError)
    assert "has expired" in error.message
