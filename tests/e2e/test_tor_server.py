"""The operator's onion service on a private Tor network: published, closed, kept, shared out."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tor_network import PrivateTor

from federation.errors import ConfigError
from federation.tor.control import Control, ControlError, open_control
from federation.tor.keys import new_client_key
from server.onion import Onion, OpenServiceError
from server.onion_check import check
from server.onion_clients import MOST_CLIENTS, SENTINEL, TRIAL
from server.onion_state import read_state
from server.onion_tor import lets_strangers_in
from server.onion_watch import OnionWatch
from tests.onion_bench import NO_KEY, WRONG_KEY, Served, Volunteer, await_that, is_cut, served

pytestmark = pytest.mark.tor


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tor_network: PrivateTor) -> Iterator[Served]:
    """One that is reachable; tests leave it so."""
    with served(tmp_path_factory.mktemp("service") / "server", tor_network) as made:
        made.await_state("reachable")
        yield made


@pytest.fixture(scope="module")
def volunteers(tor_network: PrivateTor, service: Served) -> list[Volunteer]:
    """Two volunteers with a tor each."""
    names = ("visitora", "visitorb")
    return [Volunteer(tor_network.client(name), service.home) for name in names]


def has_service(control: Control, host: str) -> bool:
    """Whether tor publishes a service at `host`."""
    try:
        return bool(control.info(f"hs/service/desc/id/{host.removesuffix('.onion')}"))
    except ControlError:
        return False


@pytest.fixture
def ana(volunteers: list[Volunteer]) -> Volunteer:
    volunteers[0].forget()
    return volunteers[0]


@pytest.fixture
def ben(volunteers: list[Volunteer]) -> Volunteer:
    volunteers[1].forget()
    return volunteers[1]


def test_a_started_service_shows_its_way_and_is_shut_to_strangers(
    service: Served, ana: Volunteer
) -> None:
    assert service.said[-2:] == ["onion: published", "onion: reachable"]
    steps = service.said[:-2]  # none, if tor was quicker than the first look at it
    assert all(line.startswith("onion: starting ") for line in steps), steps
    (host,) = service.hosts
    assert ana.knock(host) == NO_KEY
    assert host not in "".join(service.said)


def test_a_grant_works_while_the_service_is_up_and_within_seconds(
    service: Served, ana: Volunteer, record_property: pytest.RecordProperty
) -> None:
    started = time.monotonic()
    address, key = service.onion.grant("granted")
    took = time.monotonic() - started
    record_property("grant_s", round(took, 2))
    assert took < 60
    (host,) = service.hosts
    assert address == f"{host}:443"
    ana.take(address, key)
    assert ana.reaches(host)
    assert read_state(service.home.onion).state == "reachable"


def test_many_grants_one_after_the_other_all_take_effect(service: Served, ana: Volunteer) -> None:
    granted = [service.onion.grant(f"one of many {number}") for number in range(4)]
    for address, key in granted:
        ana.forget()
        ana.take(address, key)
        assert ana.knock(service.hosts[0]) == 0


def test_a_new_key_for_a_name_replaces_the_old_one(service: Served, ana: Volunteer) -> None:
    address, old = service.onion.grant("again")
    ana.take(address, old)
    assert ana.knock(service.hosts[0]) == 0
    _address, new = service.onion.grant("again")
    ana.forget()
    ana.take(address, old)
    assert ana.knock(service.hosts[0]) == WRONG_KEY
    ana.take(address, new)
    assert ana.knock(service.hosts[0]) == 0


def test_a_revocation_cuts_a_live_connection_and_the_others_are_back_in_seconds(
    service: Served, ana: Volunteer, ben: Volunteer, record_property: pytest.RecordProperty
) -> None:
    (host,) = service.hosts
    ana.take(*service.onion.grant("ana"))
    ben.take(*service.onion.grant("ben"))
    assert ben.reaches(host)
    with ana.connection(host) as line:
        assert not is_cut(line, 0.5)
        started = time.monotonic()
        service.onion.revoke("ana")
        record_property("revoked_s", round(time.monotonic() - started, 2))
        assert is_cut(line, 5.0)
    await_that(lambda: ben.knock(host) == 0)
    assert ben.reaches(host)
    record_property("others_back_s", round(time.monotonic() - started, 2))
    assert ana.knock(host) == WRONG_KEY
    assert service.hosts == [host]


def test_a_tor_that_is_killed_comes_back_with_the_same_address(
    service: Served, ana: Volunteer, record_property: pytest.RecordProperty
) -> None:
    (host,) = service.hosts
    ana.take(*service.onion.grant("patient"))
    assert ana.reaches(host)
    killed = read_state(service.home.onion).tor
    os.kill(killed, signal.SIGKILL)
    took = await_that(
        lambda: (
            read_state(service.home.onion).state == "reachable"
            and read_state(service.home.onion).tor != killed
        )
    )
    record_property("published_again_s", round(took, 2))
    assert service.hosts == [host]
    await_that(lambda: ana.knock(host) == 0)
    assert ana.reaches(host)


def test_a_check_visits_the_service_and_leaves_no_key(service: Served) -> None:
    (visit,) = check(service.home, service.config)
    assert (visit.shard, visit.is_healthy, visit.problem) == ("hs0", True, "")
    assert 0 < visit.connect_s < 30
    (shard,) = service.onion.clients.shards()
    assert not shard.path(TRIAL).exists()
    with open_control(service.home.onion) as control:
        assert not control.has_client_key(shard.host)


def test_a_rotation_keeps_the_old_address_for_its_grace_and_all_keys(
    service: Served, ana: Volunteer
) -> None:
    (old,) = service.hosts
    address, key = service.onion.grant("moving")
    service.onion.rotate(grace_s=3600.0)
    assert len(service.hosts) == 2
    assert service.hosts[0] == old
    new = service.hosts[1]
    assert service.onion.clients.successor("moving") == new
    ana.take(address, key)
    ana.take(new, key)
    assert ana.reaches(old)
    assert ana.reaches(new)
    ana.forget()
    assert [ana.knock(host) for host in (old, new)] == [NO_KEY, NO_KEY]
    late = Onion(service.home, service.config, now=lambda: time.time() + 3601)
    late.sweep()
    assert service.hosts == [new]
    with open_control(service.home.onion) as control:
        assert not has_service(control, old)
        assert has_service(control, new)
    ana.take(new, key)
    assert ana.reaches(new)


def test_volunteers_beyond_the_limit_get_an_address_of_their_own(
    tmp_path: Path, tor_network: PrivateTor, ana: Volunteer
) -> None:
    with served(tmp_path / "server", tor_network, onion_clients=2) as small:
        small.await_state("reachable")
        granted = [small.onion.grant(name) for name in ("one", "two", "three")]
        assert len(small.hosts) == 2
        assert [address.removesuffix(":443") for address, _key in granted] == [
            *[small.hosts[0]] * 2,
            small.hosts[1],
        ]
        assert ana.knock(small.hosts[1]) == NO_KEY
        for address, key in granted[1:]:
            ana.take(address, key)
            assert ana.knock(address.removesuffix(":443")) == 0
        visits = check(small.home, small.config)
        assert [visit.is_healthy for visit in visits] == [True, True]
    hosts = small.hosts
    with served(tmp_path / "server", tor_network) as again:
        again.await_state("reachable")
        assert again.hosts == hosts
        for host in hosts:
            assert ana.knock(host) == 0


def test_an_address_takes_as_many_volunteers_as_it_may_have(
    tmp_path: Path, tor_network: PrivateTor, ana: Volunteer
) -> None:
    with served(tmp_path / "server", tor_network) as full:
        full.await_state("reachable")
        (shard,) = full.onion.clients.shards()
        for number in range(MOST_CLIENTS - 1):
            shard.put(f"{number}.auth", new_client_key())
        ana.take(*full.onion.grant("the last one"))
        assert shard.volunteers == MOST_CLIENTS
        assert ana.knock(shard.host) == 0
        (visit,) = check(full.home, full.config)
        assert visit.is_healthy
        assert full.onion.clients.grant("one more")[0] != shard


@pytest.mark.security
@pytest.mark.parametrize("content", [None, "descriptor:x25519:short\n"])
def test_h05_a_service_that_would_be_open_is_not_started(
    tmp_path: Path, tor_network: PrivateTor, content: str | None
) -> None:
    folder = tmp_path / "server"
    with served(folder, tor_network) as made:
        (shard,) = made.onion.clients.shards()
    if content is None:
        shard.path(SENTINEL).unlink()
    else:
        shard.path(SENTINEL).write_text(content)
    with (
        pytest.raises(ConfigError, match=r"everybody|not a client key"),
        served(folder, tor_network),
    ):
        pass


@pytest.mark.security
def test_h05_a_service_that_was_opened_behind_our_back_is_taken_down(
    tmp_path: Path, tor_network: PrivateTor
) -> None:
    with served(tmp_path / "server", tor_network) as made:
        made.await_state("reachable")
        (shard,) = made.onion.clients.shards()
        sentinel = shard.path(SENTINEL).read_text()
        shard.path(SENTINEL).unlink()
        with pytest.raises(ConfigError, match="open to everybody"):
            made.onion.rotate(grace_s=60)
        with open_control(made.home.onion) as control:
            time.sleep(1.1)  # a second after the last publication, or the directories refuse it
            with control.uploads(shard.host) as uploads:
                control.reload()
                uploads.wait()
            assert lets_strangers_in(control, shard.host), "the danger is real"
            shard.path(SENTINEL).write_text(sentinel)
            with pytest.raises(OpenServiceError, match="was taken down"):
                made.onion.prove_closed(control)
            await_that(lambda: not has_service(control, shard.host))
        state = read_state(made.home.onion)
        assert state.state == "degraded"
        assert "taken down" in state.reason
        assert shard.host not in state.reason


@pytest.mark.security
def test_h05_a_killed_tor_is_not_started_again_on_an_empty_folder(
    tmp_path: Path, tor_network: PrivateTor
) -> None:
    with served(tmp_path / "server", tor_network) as made:
        made.await_state("reachable")
        (shard,) = made.onion.clients.shards()
        shard.path(SENTINEL).unlink()
        os.kill(read_state(made.home.onion).tor, signal.SIGKILL)
        made.await_state("degraded")
        assert "open to everybody" in read_state(made.home.onion).reason
        time.sleep(1.5)  # longer than the pause before a restart
        assert made.supervisor.restarts("tor") == 0


def test_a_tor_that_reaches_no_network_is_said_and_tried_on(tmp_path: Path) -> None:
    torrc = tmp_path / "nowhere.torrc"
    fingerprint = "A" * 40
    torrc.write_text(
        "TestingTorNetwork 1\n"
        f"DirAuthority nobody orport=1 no-v2 v3ident={fingerprint} 127.0.0.1:1 {'B' * 40}\n"
    )
    with served(tmp_path / "server", str(torrc), tor={"start_s": 2}) as made:
        made.await_state("degraded")
        reason = read_state(made.home.onion).reason
        assert "Tor was not ready after 2 s" in reason
        assert any("starting" in line for line in made.said)
        address, key = made.onion.grant("early")
        assert address == f"{made.hosts[0]}:443"
        assert len(key) == 52


def test_the_watch_says_that_a_tor_does_not_start(tmp_path: Path, service: Served) -> None:
    config = service.config
    home = type(service.home)(tmp_path / "other")
    onion = Onion(home, config)
    onion.clients.settle()
    said: list[str] = []
    with OnionWatch(onion, pid=os.getpid(), start_s=0.1, say=said.append) as watch:
        await_that(lambda: watch.state.is_settled)
        assert "Tor is not running" in watch.state.reason
    assert read_state(home.onion).state == "off"
