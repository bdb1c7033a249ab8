"""Joining after an earlier federation: a clean start, and nothing of the owner's is lost."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.adapters import AdapterStore
from client.config import NodeConfig, NodeHome, load_federation
from client.leftovers import put_aside
from client.outbox import open_outbox
from tests.adapter_samples import make_spec
from tests.global_samples import Chain, joined_home, put_package

NOW = datetime(2026, 3, 1, 20, 0, tzinfo=UTC)
STAMP = "20260301T200000Z"
SPEC = make_spec(layers=1)


@pytest.fixture
def chain() -> Chain:
    made = Chain(SPEC)
    for _ in range(4):
        made.publish()
    return made


def left_home(folder: Path, chain: Chain, version: int) -> NodeHome:
    """A home that held `version` of a federation and no longer belongs to it."""
    home = joined_home(folder, chain)
    AdapterStore(home, load_federation(home)).install(chain.packages[version])
    home.federation.unlink()
    return home


def test_a_fresh_home_has_nothing_to_put_aside(tmp_path: Path) -> None:
    home = NodeHome(tmp_path)
    with open_outbox(home, NodeConfig()):
        pass  # looking at an empty outbox makes its database
    assert put_aside(home, NodeConfig(), NOW) is None
    assert not home.earlier.exists()


def test_everything_of_the_earlier_federation_is_kept_as_it_was(
    tmp_path: Path, chain: Chain
) -> None:
    home = left_home(tmp_path, chain, 3)
    sha256 = put_package(home, SPEC)
    weights = (home.adapters / "v3" / "adapter_model.safetensors").read_bytes()
    package = (home.outbox / f"{sha256}.zip").read_bytes()

    folder = put_aside(home, NodeConfig(), NOW)

    assert folder == home.earlier / STAMP
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "global" / "v3" / "adapter_model.safetensors").read_bytes() == weights
    assert (folder / "current").read_text() == "v3\n"
    assert (folder / "outbox" / f"{sha256}.zip").read_bytes() == package
    with open_outbox(home, NodeConfig()) as outbox:
        assert outbox.entries() == []
    assert put_aside(home, NodeConfig(), NOW) is None


def test_a_second_time_in_the_same_second_has_a_folder_of_its_own(
    tmp_path: Path, chain: Chain
) -> None:
    home = left_home(tmp_path, chain, 3)
    put_aside(home, NodeConfig(), NOW)
    put_package(home, SPEC)
    assert put_aside(home, NodeConfig(), NOW) == home.earlier / f"{STAMP}-2"


def test_a_damaged_outbox_is_put_aside_too(tmp_path: Path) -> None:
    home = NodeHome(tmp_path)
    sha256 = put_package(home, SPEC)
    for path in home.outbox.glob("outbox.sqlite*"):
        path.unlink()
    (home.outbox / "outbox.sqlite").write_bytes(b"not a database" * 100)
    folder = put_aside(home, NodeConfig(), NOW)
    assert folder is not None
    assert (folder / "outbox" / f"{sha256}.zip").is_file()


@pytest.mark.parametrize("same_operator", [False, True])
def test_the_new_federation_starts_at_its_own_version(
    tmp_path: Path, chain: Chain, same_operator: bool
) -> None:
    home = left_home(tmp_path, chain, 3)
    other = Chain(SPEC, chain.key if same_operator else None)
    other.publish()
    put_aside(home, NodeConfig(), NOW)
    joined_home(tmp_path, other)
    store = AdapterStore(home, load_federation(home))
    assert store.install(other.packages[0]) == 0
