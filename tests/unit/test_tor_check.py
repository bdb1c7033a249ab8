"""`flower-client tor check`: each failure is one sentence and one exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client.cli import run
from client.config import NodeHome, load_config
from client.keys import load_or_create
from client.tor_check import Ears, check
from federation import durable, probe
from federation.processes import free_port
from federation.tor.diagnosis import FIRST_EXIT_CODE, Finding, exit_code
from federation.tor.socks import LEGS
from tests.fake_gateway import FakeGateway, serve_gateway
from tests.fake_socks import GRANTED, FakeSocks, refused
from tests.onion_home import ONION, move, onion_home

PROBE = probe.path_of(probe.SIZES[0])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGateway]:
    with serve_gateway(tmp_path_factory.mktemp("tls")) as gateway:
        yield gateway


@pytest.fixture
def gateway(served: FakeGateway) -> FakeGateway:
    served.statuses.clear()
    served.asked.clear()
    served.ahead = timedelta()
    return served


@pytest.fixture
def socks(gateway: FakeGateway) -> Iterator[FakeSocks]:
    """A SOCKS port that leads to the gateway."""
    with FakeSocks(target=int(gateway.address.rpartition(":")[2])) as tor:
        yield tor


@pytest.fixture
def home(tmp_path: Path, gateway: FakeGateway, socks: FakeSocks) -> NodeHome:
    return at(tmp_path, gateway, socks.address)


def at(folder: Path, gateway: FakeGateway, socks: str) -> NodeHome:
    return onion_home(folder / "node", gateway.ca_certificate, mode="address", socks=socks)


def look(home: NodeHome, **how: object) -> tuple[Finding, ...]:
    return check(home, load_config(home)[0], Ears(), **how)  # type: ignore[arg-type]


def states(findings: tuple[Finding, ...]) -> dict[str, str]:
    assert tuple(finding.leg for finding in findings) == LEGS
    return {finding.leg: finding.state for finding in findings}


def failed_leg(home: NodeHome) -> Finding:
    """The one leg that fails; those before it are good, but for what could not be asked."""
    findings = look(home)
    (failed,) = [finding for finding in findings if finding.state == "failed"]
    after = LEGS[LEGS.index(failed.leg) + 1 :]
    assert all(states(findings)[leg] == "unknown" for leg in after)
    assert failed.sentence
    assert ONION[:16] not in f"{failed.sentence} {failed.hint}"
    assert exit_code(findings) == FIRST_EXIT_CODE + LEGS.index(failed.leg)
    return failed


def test_a_good_way_is_good_in_every_leg(
    home: NodeHome, socks: FakeSocks, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["tor", "check", "--home", str(home.root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(LEGS)
    assert all(line.startswith("ok ") for line in lines)
    assert {(asked.host, asked.port, asked.user) for asked in socks.asked} == {
        (ONION, 443, "check")
    }


@pytest.mark.parametrize(
    ("code", "leg"),
    [(0xF0, "descriptor"), (0xF2, "descriptor"), (0xF4, "key"), (0xF5, "key"), (0x05, "gateway")],
)
def test_what_tor_answers_is_the_leg_that_fails(
    home: NodeHome, socks: FakeSocks, code: int, leg: str
) -> None:
    socks.reply = refused(code)
    assert failed_leg(home).leg == leg
    found = states(look(home))
    assert found["bootstrap"] == "ok"
    assert found["tls"] == "unknown"


def test_a_port_that_is_closed_is_no_socks(tmp_path: Path, gateway: FakeGateway) -> None:
    assert failed_leg(at(tmp_path, gateway, f"127.0.0.1:{free_port()}")).leg == "socks"


def test_another_program_on_the_port_is_no_socks(home: NodeHome, socks: FakeSocks) -> None:
    socks.greeting = b"HTTP/1.0 400\r\n\r\n"
    assert failed_leg(home).leg == "socks"


def test_no_tor_program_is_the_first_leg(tmp_path: Path, gateway: FakeGateway) -> None:
    home = onion_home(tmp_path / "node", gateway.ca_certificate, mode="own", program="/nowhere/tor")
    failed = failed_leg(home)
    assert (failed.leg, failed.hint != "") == ("tor", True)


def test_another_certificate_is_the_pinned_leg(
    home: NodeHome, tmp_path: Path, gateway: FakeGateway
) -> None:
    with serve_gateway(tmp_path / "other") as other:
        durable.write_text(home.ca, other.ca_certificate)
        assert failed_leg(home).leg == "tls"
    assert gateway.asked == []


@pytest.mark.parametrize(
    ("path", "status", "leg"), [("/health", 503, "gateway"), (PROBE, 401, "node")]
)
def test_what_the_gateway_answers_is_the_leg_that_fails(
    home: NodeHome, gateway: FakeGateway, path: str, status: int, leg: str
) -> None:
    gateway.statuses[path] = status
    assert failed_leg(home).leg == leg


def test_a_gateway_that_is_too_busy_to_measure_admits_the_node(
    home: NodeHome, gateway: FakeGateway
) -> None:
    gateway.statuses[PROBE] = 503
    assert exit_code(look(home)) == 0


def test_a_wrong_clock_is_told_as_such_and_not_as_a_refusal(
    home: NodeHome, gateway: FakeGateway
) -> None:
    """The proof of the node is dated by the server's clock, else it would be refused."""

    def tomorrow() -> datetime:
        return datetime.now(UTC) + timedelta(days=1)

    findings = look(home, now=tomorrow)
    assert [each.leg for each in findings if each.state == "failed"] == ["clock"]
    assert exit_code(findings) == 89
    key = load_or_create(home.keys).signing.public_hex
    moment = datetime.now(UTC).timestamp()
    assert probe.holds(gateway.told, "GET", probe.SIZES[0], public_key=key, now=moment)


def granted_from(number: int) -> Callable[[int], bytes]:
    return lambda asked: GRANTED if asked >= number else refused(0xF0)


def test_a_failure_is_tried_again_after_growing_pauses(home: NodeHome, socks: FakeSocks) -> None:
    socks.reply = granted_from(6)
    pauses: list[float] = []
    findings = look(home, retries=9, sleep=pauses.append)
    assert exit_code(findings) == 0
    for pause, full in zip(pauses, (1, 2, 4, 8, 8), strict=True):
        assert full / 2 <= pause <= full


def test_so_many_retries_and_no_more(home: NodeHome, socks: FakeSocks) -> None:
    socks.reply = refused(0xF0)
    pauses: list[float] = []
    assert exit_code(look(home, retries=2, sleep=pauses.append)) == 84
    assert (len(pauses), len(socks.asked)) == (2, 3)


@pytest.mark.parametrize("code", [0xF4, 0xF5, 0xF6])
def test_what_no_retry_can_mend_is_not_tried_again(
    home: NodeHome, socks: FakeSocks, code: int
) -> None:
    socks.reply = refused(code)
    assert exit_code(look(home, retries=5, sleep=pytest.fail)) in (84, 85)
    assert len(socks.asked) == 1


def test_a_server_that_is_no_onion_is_checked_without_tor(
    home: NodeHome, gateway: FakeGateway, socks: FakeSocks
) -> None:
    move(home, gateway.address)
    found = states(look(home))
    assert [found[leg] for leg in LEGS] == ["unused"] * 5 + ["ok"] * 4
    assert socks.asked == []


def test_for_a_machine_it_is_one_object(
    home: NodeHome, socks: FakeSocks, capsys: pytest.CaptureFixture[str]
) -> None:
    socks.reply = refused(0xF5)
    assert run(["tor", "check", "--json", "--home", str(home.root)]) == 85
    content = json.loads(capsys.readouterr().out)
    assert (content["ok"], content["exit_code"]) == (False, 85)
    assert [leg["leg"] for leg in content["legs"]] == list(LEGS)
    assert content["legs"][4]["sentence"] == (
        "The server does not accept your invitation any more."
    )


def test_the_doctor_looks_at_the_same_legs(
    home: NodeHome, socks: FakeSocks, capsys: pytest.CaptureFixture[str]
) -> None:
    socks.reply = refused(0xF4)
    assert run(["doctor", "--json", "--home", str(home.root)]) == 1
    checks = {each["name"]: each for each in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["way: descriptor"]["is_good"]
    assert not checks["way: key"]["is_good"]
    assert "way: tls" not in checks


def test_a_node_that_has_not_joined_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["tor", "check", "--home", str(tmp_path)]) == 2
    assert "has not joined" in capsys.readouterr().err
