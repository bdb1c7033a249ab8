"""Following a server whose onion address has changed."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from client.config import NodeHome, load_federation
from client.keys import keep_onion_key, onion_key
from client.relocation import follow
from federation import settings
from federation.errors import ConfigError, PermissionsError
from federation.tor.keys import new_client_key
from tests.adapter_samples import make_spec
from tests.global_samples import Chain, joined_home

OLD = f"{'a' * 51}m2dqd.onion"
NEW = "777777777777777777777777777777777777777777777777777vpaqd.onion"
KEY = new_client_key().private


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    """A node whose server is the onion `OLD`, with its key."""
    home = joined_home(tmp_path / "node", Chain(make_spec()))
    keep_onion_key(home.onion_key, OLD, KEY)
    move(home, f"{OLD}:443")
    return home


def move(home: NodeHome, address: str) -> None:
    federation = load_federation(home).model_copy(update={"address": address})
    settings.save(federation, home.federation)


def test_another_onion_is_followed_and_the_key_goes_along(home: NodeHome) -> None:
    before = load_federation(home)
    assert follow(home, f"{NEW.upper()}:443")
    assert load_federation(home) == before.model_copy(update={"address": f"{NEW}:443"})
    assert home.onion_key.read_text() == f"{NEW[:56]}:descriptor:x25519:{KEY}\n"
    assert onion_key(home.onion_key) == KEY
    assert not follow(home, f"{NEW}:443"), "nothing changes the second time"


@pytest.mark.security
@pytest.mark.parametrize(
    "address",
    [
        "",
        "192.0.2.1:9443",
        "127.0.0.1:9443",
        "example.org:443",
        f"{NEW}.example.org:443",
        f"{NEW[1:]}:443",
        f"{NEW}:0",
        f"{NEW}:https",
        NEW,
    ],
)
def test_h27_no_address_leads_a_node_out_of_tor(home: NodeHome, address: str) -> None:
    before = home.federation.read_bytes()
    assert not follow(home, address)
    assert home.federation.read_bytes() == before


def test_a_node_whose_server_is_no_onion_stays_with_it(home: NodeHome) -> None:
    move(home, "192.0.2.1:9443")
    assert not follow(home, f"{NEW}:443")
    assert load_federation(home).address == "192.0.2.1:9443"


@pytest.mark.security
def test_h30_the_onion_key_is_private_and_one_open_to_others_is_refused(home: NodeHome) -> None:
    assert stat.S_IMODE(home.onion_key.stat().st_mode) == 0o600
    home.onion_key.chmod(0o644)
    with pytest.raises(PermissionsError):
        onion_key(home.onion_key)


def test_no_file_is_no_key_and_a_damaged_one_is_named_without_its_content(home: NodeHome) -> None:
    home.onion_key.write_text(f"{OLD[:56]}:descriptor:x25519:{KEY[:-1]}\n")
    with pytest.raises(ConfigError, match=home.onion_key.name) as caught:
        onion_key(home.onion_key)
    assert KEY[:10] not in str(caught.value)
    home.onion_key.unlink()
    assert onion_key(home.onion_key) == ""
