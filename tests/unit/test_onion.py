"""The onion service's commands against a tor that a test plays: what is asked of it, and when."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from federation.errors import ConfigError, ConscienceError, TorError, UsageError
from federation.invitation import decode, encode
from federation.tor.keys import key_of
from server.admission import admit, ban
from server.config import ServerHome, load_config
from server.invitations import invite
from server.nodes import EnrolmentError, Nodes
from server.onion import Onion, OpenServiceError
from server.onion_clients import SENTINEL, TRIAL, file_of
from server.onion_state import OFF, OnionState, read_state, write_state
from server.onion_tor import APART_S, STAMP, lets_strangers_in
from tests.fake_onion import PROGRAM, FakeTor, OnionOf
from tests.fake_socks import FakeSocks, refused
from tests.server_home import make_home, node_keys


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    program = tmp_path / "tor"
    program.write_text(PROGRAM)
    program.chmod(0o700)
    return make_home(tmp_path / "server", onion=True, tor={"program": str(program)})


@pytest.fixture
def onion(home: ServerHome) -> OnionOf:
    return OnionOf(home, load_config(home))


@pytest.fixture
def tor(onion: OnionOf) -> Iterator[FakeTor]:
    """A tor that runs, and turns strangers away."""
    with FakeSocks(reply=refused(0xF4)) as socks:
        onion.tor = FakeTor(socks.address)
        yield onion.tor


def keys(onion: Onion) -> list[str]:
    return sorted(
        path.name for shard in onion.clients.shards() for path in shard.path("").iterdir()
    )


def test_with_the_server_down_a_grant_writes_files_alone(onion: OnionOf) -> None:
    address, private = onion.grant("ana")
    (shard,) = onion.clients.shards()
    assert address == f"{shard.host}:443"
    assert key_of(private).public in shard.path(file_of("ana")).read_text()
    assert not (onion.folder / "torrc").exists()


def test_a_grant_is_published_and_the_service_tried(onion: OnionOf, tor: FakeTor) -> None:
    onion.grant("ana")
    (shard,) = onion.clients.shards()
    assert tor.asked == [f"watch {shard.host[:4]}", "reload", "fetch", "close"]
    torrc = (onion.folder / "torrc").read_text()
    assert f'HiddenServiceDir "{shard.folder}"' in torrc
    assert "HiddenServicePoWDefensesEnabled 1" in torrc
    assert "HiddenServiceEnableIntroDoSDefense 1" in torrc
    assert "HiddenServicePort 443 127.0.0.1:1\n" in torrc


def test_a_refused_descriptor_is_made_anew(onion: OnionOf, tor: FakeTor) -> None:
    onion.clients.settle()
    (shard,) = onion.clients.shards()
    before = shard.path(SENTINEL).read_text()
    tor.refuses = 1
    started = time.monotonic()
    onion.grant("ana")
    assert time.monotonic() - started >= APART_S * 0.9
    assert tor.asked.count("reload") == 2
    assert shard.path(SENTINEL).read_text() != before


def test_publications_keep_a_seconds_distance(onion: OnionOf, tor: FakeTor) -> None:
    onion.grant("ana")
    (onion.folder / STAMP).touch()
    started = time.monotonic()
    onion.grant("ben")
    assert time.monotonic() - started >= APART_S * 0.9


def test_what_was_never_published_is_not_granted(
    onion: OnionOf, tor: FakeTor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.onion_tor.UPLOAD_S", 0.0)
    tor.refuses = 99
    with pytest.raises(TorError):
        onion.grant("ana")
    assert keys(onion) == [SENTINEL]


def test_a_tor_on_its_way_is_told_and_not_waited_for(onion: OnionOf, tor: FakeTor) -> None:
    tor.percent = 45
    onion.grant("ana")
    assert tor.asked == ["reload", "close"]


@pytest.mark.security
@pytest.mark.parametrize("code", [0x00, 0x05, 0xF2, 0xF3, 0xF7])
def test_h05_whoever_gets_past_the_descriptor_without_a_key_closes_the_service(
    onion: OnionOf, code: int
) -> None:
    with FakeSocks(reply=refused(code)) as socks:
        onion.tor = FakeTor(socks.address)
        with pytest.raises(OpenServiceError, match="was taken down"):
            onion.grant("ana")
    assert "HiddenService" not in (onion.folder / "torrc").read_text()
    assert onion.tor.asked[-2:] == ["reload", "close"]
    assert keys(onion) == [SENTINEL]


def test_a_stranger_who_is_turned_away_proves_it_shut() -> None:
    with FakeSocks(reply=refused(0xF4)) as socks:
        tor = FakeTor(socks.address)
        assert not lets_strangers_in(tor, "host")  # type: ignore[arg-type]
        assert tor.asked == ["fetch"]


@pytest.mark.parametrize("code", [0x01, 0x04, 0x06, 0xF0, 0xF1])
def test_a_visit_that_says_nothing_is_tried_again(code: int) -> None:
    answers = [refused(code), refused(code), refused(0xF4)]
    with FakeSocks(reply=lambda number: answers[number - 1]) as socks:
        tor = FakeTor(socks.address)
        assert not lets_strangers_in(tor, "host")  # type: ignore[arg-type]
        assert tor.asked == ["fetch", "newnym", "fetch", "fetch"]


def test_a_service_that_no_directory_has_is_neither_shut_nor_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.onion_tor.VISIT_S", 0.6)
    with pytest.raises(TorError, match="could not be tried"):
        lets_strangers_in(FakeTor(has_descriptor=False), "host")  # type: ignore[arg-type]


def test_a_malformed_file_stops_every_change(onion: OnionOf, tor: FakeTor) -> None:
    onion.clients.settle()
    onion.clients.shards()[0].path("ben.auth").write_text("x")
    with pytest.raises(ConfigError, match=r"ben\.auth"):
        onion.grant("ana")
    onion.clients.shards()[0].path(file_of("eve")).write_text("x")
    with pytest.raises(ConfigError, match=r"ben\.auth"):
        onion.revoke("eve")
    assert tor.asked == []
    assert "ben.auth" in onion.problem()


def test_a_revocation_ends_tor_and_waits_for_its_return(onion: OnionOf, tor: FakeTor) -> None:
    onion.grant("ana")
    tor.asked.clear()
    state = OnionState("reachable", server=os.getpid(), tor=78)
    write_state(onion.folder, state)
    onion.revoke("ana")
    assert tor.asked == ["halt", "close"]
    assert keys(onion) == [SENTINEL]
    onion.revoke("ana")
    assert tor.asked == ["halt", "close"], "nothing to take away, nothing to cut"


def test_a_service_that_does_not_come_back_is_an_error(
    onion: OnionOf, tor: FakeTor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.onion.RETURN_S", 0.3)
    onion.grant("ana")
    write_state(onion.folder, OnionState("starting", percent=14, server=os.getpid()))
    with pytest.raises(TorError, match=r"has not come back.*starting 14 %"):
        onion.revoke("ana")


def test_a_rotation_that_is_not_published_is_taken_back(
    onion: OnionOf, tor: FakeTor, monkeypatch: pytest.MonkeyPatch
) -> None:
    onion.grant("ana")
    before = onion.clients.shards()
    monkeypatch.setattr("server.onion_tor.UPLOAD_S", 0.0)
    tor.refuses = 1
    with pytest.raises(TorError):
        onion.rotate(grace_s=60)
    assert onion.clients.shards() == before
    assert (onion.folder / "torrc").read_text().count("HiddenServiceDir") == 1


def test_a_rotation_without_grace_leaves_the_new_address_alone(
    onion: OnionOf, tor: FakeTor
) -> None:
    onion.grant("ana")
    (old,) = onion.clients.shards()
    onion.rotate(grace_s=0)
    (new,) = onion.clients.shards()
    assert new.folder != old.folder
    torrc = (onion.folder / "torrc").read_text()
    assert str(new.folder) in torrc
    assert str(old.folder) not in torrc


def test_expired_invitations_lose_their_key_and_others_keep_theirs(
    home: ServerHome, onion: OnionOf
) -> None:
    config = load_config(home)
    invite(home, config, "late", life=timedelta(seconds=1))
    invite(home, config, "early", life=timedelta(days=7))
    nodes = Nodes(home.nodes_db)
    admitted = node_keys()
    nodes.invite_for("member", token_sha256="m" * 64, seconds=0.5)
    nodes.claim("m" * 64, supernode_key=admitted.header, signing_key=admitted.signing.public_hex)
    onion.grant("member")
    onion.clients.shards()[0].path(TRIAL).write_text(
        onion.clients.shards()[0].path(SENTINEL).read_text()
    )
    later = OnionOf(home, config, now=lambda: time.time() + 60)
    later.sweep()
    assert keys(onion) == sorted([SENTINEL, file_of("early"), file_of("member")])


def test_a_sweep_with_nothing_to_do_leaves_tor_alone(onion: OnionOf, tor: FakeTor) -> None:
    onion.clients.settle()
    onion.sweep()
    assert tor.asked == []
    with onion.clients.lock(), pytest.raises(ConscienceError, match="another command"):
        onion.sweep()


def test_before_a_start_folders_are_made_cleaned_and_checked(
    home: ServerHome, onion: OnionOf
) -> None:
    assert f'HiddenServiceDir "{onion.folder / "hs0"}"' in onion.prepare()
    onion.grant("gone")
    nodes = Nodes(home.nodes_db)
    nodes.invite_for("gone", token_sha256="g" * 64, seconds=60)
    nodes.ban("gone")
    onion.prepare()
    assert keys(onion) == [SENTINEL]
    onion.clients.shards()[0].path(SENTINEL).unlink()
    with pytest.raises(ConfigError, match="open to everybody"):
        onion.prepare()


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"tor": {"mode": "system"}}, "a tor of its own"), ({"gateway_host": "::1"}, "at ::1")],
)
def test_settings_that_cannot_work_are_refused(
    tmp_path: Path, settings: dict[str, object], said: str
) -> None:
    home = make_home(tmp_path / "other", onion=True, **settings)
    with pytest.raises(ConfigError, match=said):
        Onion(home, load_config(home)).prepare()


def test_an_invitation_holds_the_address_and_a_key_of_its_own(home: ServerHome) -> None:
    config = load_config(home)
    ana = decode(encode(invite(home, config, "ana", life=timedelta(days=1))))
    ben = invite(home, config, "ben", life=timedelta(days=1))
    (shard,) = Onion(home, config).clients.shards()
    assert ana.address == ben.address == f"{shard.host}:443"
    assert ana.onion_key != ben.onion_key
    assert key_of(ana.onion_key).public in shard.path(file_of("ana")).read_text()
    assert ana.onion_key not in repr(ana)
    again = invite(home, config, "ana", life=timedelta(days=1))
    assert again.onion_key != ana.onion_key
    assert key_of(again.onion_key).public in shard.path(file_of("ana")).read_text()
    stored = b"".join(path.read_bytes() for path in home.root.rglob("*") if path.is_file())
    assert ana.onion_key.encode() not in stored


def test_a_name_that_has_joined_keeps_its_key(home: ServerHome) -> None:
    config = load_config(home)
    made, joined = invite(home, config, "ana", life=timedelta(days=1)), node_keys()
    (shard,) = Onion(home, config).clients.shards()
    before = shard.path(file_of("ana")).read_text()
    from federation.invitation import token_hash

    Nodes(home.nodes_db).claim(
        token_hash(made.token), supernode_key=joined.header, signing_key=joined.signing.public_hex
    )
    with pytest.raises(ConscienceError, match="has enrolled"):
        invite(home, config, "ana", life=timedelta(days=1))
    assert shard.path(file_of("ana")).read_text() == before


def test_a_node_admitted_by_its_keys_gets_one_to_the_onion(
    home: ServerHome, tmp_path: Path
) -> None:
    node, line = node_keys(), tmp_path / "node.pub"
    line.write_text(node.line)
    given = {"supernode_key": line, "signing_key": node.signing.public_hex}
    with pytest.raises(UsageError, match="needs a key to the onion"):
        admit(home, "ana", **given)
    assert Nodes(home.nodes_db).all() == []
    written = tmp_path / "ana.auth_private"
    with pytest.raises(EnrolmentError, match="not ready"):  # no SuperLink in this test
        admit(home, "ana", **given, onion_key=written)
    (shard,) = Onion(home, load_config(home)).clients.shards()
    host, kind, curve, private = written.read_text().strip().split(":")
    assert (f"{host}.onion", kind, curve) == (shard.host, "descriptor", "x25519")
    assert key_of(private).public in shard.path(file_of("ana")).read_text()
    assert written.stat().st_mode & 0o777 == 0o600


def test_a_ban_takes_the_key_away(home: ServerHome) -> None:
    config = load_config(home)
    invite(home, config, "ana", life=timedelta(days=1))
    ban(home, "ana")
    assert keys(Onion(home, config)) == [SENTINEL]
    assert Nodes(home.nodes_db).by_name("ana").status == "banned"


def test_the_state_is_off_without_its_server(tmp_path: Path) -> None:
    assert read_state(tmp_path) == OFF
    write_state(tmp_path, OnionState("reachable", server=os.getpid()))
    assert read_state(tmp_path).state == "reachable"
    write_state(tmp_path, OnionState("reachable", server=2**22 + 1))
    assert read_state(tmp_path) == OFF
    (tmp_path / "state.json").write_text("{")
    assert read_state(tmp_path) == OFF


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (OnionState("starting", percent=45, tag="loading_keys"), "starting 45 % loading_keys"),
        (OnionState("degraded", reason="why"), "degraded: why"),
        (OnionState("reachable"), "reachable"),
    ],
)
def test_a_state_reads_as_a_line(state: OnionState, text: str) -> None:
    assert str(state) == text
