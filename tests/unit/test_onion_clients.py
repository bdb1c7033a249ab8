"""Key files of the onion service: one a volunteer, whole, shared out, and never none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from federation.errors import ConfigError, PermissionsError
from federation.tor.address import PUBLIC, SECRET, make_address, read_address
from federation.tor.keys import check_onion, key_of, new_client_key
from server.onion_clients import SENTINEL, TRIAL, OnionClients, Shard, file_of


@pytest.fixture
def clients(tmp_path: Path) -> OnionClients:
    made = OnionClients(tmp_path / "onion", most=2)
    made.settle()
    return made


def keys_in(shard: Shard) -> set[str]:
    return {path.name for path in shard.path("").iterdir()}


def test_an_address_is_complete_private_and_its_own(tmp_path: Path) -> None:
    hosts = {make_address(tmp_path / str(number)) for number in range(8)}
    assert len(hosts) == 8
    for number in range(8):
        host = read_address(tmp_path / str(number))
        assert check_onion(host) in hosts
        for path in (tmp_path / str(number)).iterdir():
            assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "0" / SECRET).stat().st_size == 96
    assert (tmp_path / "0" / PUBLIC).stat().st_size == 64


def test_an_address_that_is_not_whole_is_refused_without_naming_it(tmp_path: Path) -> None:
    host = make_address(tmp_path)
    (tmp_path / "hostname").write_text(f"{host[1:]}\n")
    with pytest.raises(ConfigError, match="hostname") as damaged:
        read_address(tmp_path)
    assert host[1:20] not in damaged.value.message
    other = make_address(tmp_path / "other")
    (tmp_path / "hostname").write_text(f"{other}\n")
    with pytest.raises(ConfigError, match="not of one address"):
        read_address(tmp_path)
    (tmp_path / SECRET).chmod(0o644)
    with pytest.raises(PermissionsError):
        read_address(tmp_path)
    (tmp_path / SECRET).unlink()
    with pytest.raises(ConfigError, match="is missing"):
        read_address(tmp_path)


def test_a_first_address_has_a_sentinel_and_private_folders(clients: OnionClients) -> None:
    (shard,) = clients.shards()
    assert keys_in(shard) == {SENTINEL}
    assert shard.volunteers == 0
    for folder in (clients.root, shard.folder, shard.path("")):
        assert folder.stat().st_mode & 0o777 == 0o700
    clients.settle()
    assert clients.shards() == [shard]
    clients.require_closed()


def test_a_grant_is_a_key_file_of_the_private_half(clients: OnionClients) -> None:
    shard, private = clients.grant("Ana María")
    text = shard.path(file_of("Ana María")).read_text()
    assert text == f"descriptor:x25519:{key_of(private).public}\n"
    assert shard.path(file_of("Ana María")).stat().st_mode & 0o777 == 0o600
    assert clients.holder("Ana María") == shard
    assert clients.holder("ana maría") is None


def test_a_second_grant_replaces_the_first(clients: OnionClients) -> None:
    shard, first = clients.grant("ana")
    again, second = clients.grant("ana")
    assert shard == again
    assert first != second
    assert shard.volunteers == 1
    assert key_of(second).public in shard.path(file_of("ana")).read_text()


def test_volunteers_are_shared_out_over_addresses(clients: OnionClients) -> None:
    placed = [clients.grant(name)[0].folder.name for name in "abcde"]
    assert placed == ["hs0", "hs0", "hs1", "hs1", "hs2"]
    assert clients.remove("b") == [clients.shards()[0]]
    assert clients.grant("f")[0].folder.name == "hs0"
    assert len({shard.host for shard in clients.shards()}) == 3
    assert clients.remove("nobody") == []


def test_names_make_safe_file_names_one_each() -> None:
    names = ["ana", "Ana", "a n a", "á", "../x", "x" * 64, "ñ" * 64, "sentinel", "trial", "-", "."]
    files = [file_of(name) for name in names]
    assert len(set(files)) == len(names)
    for file in files:
        assert os.path.basename(file) == file  # noqa: PTH119
        assert file.isascii()
        assert len(file) < 64
        assert file not in (SENTINEL, TRIAL)


@pytest.mark.security
def test_h05_an_empty_folder_is_refused(clients: OnionClients) -> None:
    (shard,) = clients.shards()
    shard.path(SENTINEL).unlink()
    (shard.path("") / "notes.txt").write_text("nothing")
    with pytest.raises(ConfigError, match="open to everybody"):
        clients.require_closed()


@pytest.mark.security
@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n",
        "descriptor:x25519:",
        "descriptor:x25519:" + "A" * 51,
        "descriptor:x25519:" + "A" * 51 + "B",
        "descriptor:x25519:" + "a" * 52,
        "descriptor:x25519:" + "A" * 52 + " ",
        "descriptor:x25519:" + "A" * 52 + "\ndescriptor:x25519:" + "A" * 52 + "\n",
        "descriptor:x25519:" + "é" * 52,
    ],
)
def test_h05_a_malformed_key_file_is_refused_and_named(clients: OnionClients, content: str) -> None:
    (shard,) = clients.shards()
    clients.grant("ana")
    shard.path("ben.auth").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"ben\.auth is not a client key"):
        clients.require_closed()


def test_a_folder_under_a_key_files_name_is_refused(clients: OnionClients) -> None:
    clients.shards()[0].path("ben.auth").mkdir()
    with pytest.raises(ConfigError, match=r"ben\.auth"):
        clients.require_closed()


def test_more_keys_than_a_descriptor_holds_are_refused(clients: OnionClients) -> None:
    (shard,) = clients.shards()
    for number in range(300):
        shard.put(f"{number}.auth", new_client_key())
    clients.require_closed()
    shard.put(TRIAL, new_client_key())
    clients.require_closed()
    shard.put("300.auth", new_client_key())
    with pytest.raises(ConfigError, match="more than 300"):
        clients.require_closed()


def test_no_address_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no onion address"):
        OnionClients(tmp_path / "none", most=1).require_closed()


def test_a_rotation_makes_new_addresses_with_the_same_keys(clients: OnionClients) -> None:
    for name in "abc":
        clients.grant(name)
    clients.shards()[0].put(TRIAL, new_client_key())
    before = clients.current()
    clients.rotate(retires_at=1000.0)
    old, new = clients.shards()[:2], clients.current()
    assert [shard.folder for shard in old] == [shard.folder for shard in before]
    assert [shard.retires_at for shard in old] == [1000.0, 1000.0]
    assert not {shard.host for shard in old} & {shard.host for shard in new}
    for was, now in zip(old, new, strict=True):
        assert keys_in(now) == keys_in(was) - {TRIAL}
        for file in keys_in(now):
            same = now.path(file).read_bytes() == was.path(file).read_bytes()
            assert same == (file != SENTINEL), "a sentinel is its address's own"
    clients.require_closed()
    assert clients.holder("c") == new[1]


def test_after_a_rotation_grants_go_to_the_new_address_and_removals_to_both(
    clients: OnionClients,
) -> None:
    clients.grant("ana")
    clients.rotate(retires_at=1000.0)
    old, new = clients.shards()
    assert clients.grant("ben")[0] == new
    assert old.volunteers == 1
    assert clients.remove("ana") == [old, new]
    assert not old.path(file_of("ana")).exists()


def test_a_retired_address_goes_when_its_time_is_over(clients: OnionClients) -> None:
    clients.rotate(retires_at=1000.0)
    assert not clients.drop_retired(999.0)
    assert clients.drop_retired(1000.0)
    assert clients.shards() == clients.current()
    assert [shard.folder.name for shard in clients.shards()] == ["hs1"]
    clients.rotate(retires_at=2000.0)
    assert [shard.folder.name for shard in clients.shards()] == ["hs1", "hs2"]


def test_what_an_interrupted_rotation_left_is_no_address(clients: OnionClients) -> None:
    (clients.root / ".hs1.new" / "authorized_clients").mkdir(parents=True)
    assert len(clients.shards()) == 1
    clients.rotate(retires_at=1.0)
    assert len(clients.shards()) == 2
    assert not (clients.root / ".hs1.new").exists()


def test_a_volunteer_is_sent_to_the_new_address_until_the_old_one_is_gone(
    clients: OnionClients,
) -> None:
    for name in "abc":
        clients.grant(name)
    assert [clients.successor(name) for name in "abc"] == ["", "", ""]
    clients.rotate(retires_at=1000.0)
    first, second = (shard.host for shard in clients.current())
    assert [clients.successor(name) for name in "abc"] == [first, first, second]
    clients.grant("new")
    assert clients.successor("new") == ""
    clients.drop_retired(1000.0)
    assert clients.successor("a") == ""


def test_a_rotation_can_be_taken_back(clients: OnionClients) -> None:
    before = clients.shards()
    clients.take_back(clients.rotate(retires_at=1000.0))
    assert clients.shards() == before
