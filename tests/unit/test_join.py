"""Joining: one invitation, pinned trust, one sentence for everything that can go wrong."""

from __future__ import annotations

import io
import json
import stat
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client import clock, link, sent
from client.adapters import AdapterStore
from client.cli import run
from client.config import NodeConfig, NodeHome, load_federation
from client.join import join
from federation import invitation
from federation.adapter.format import AdapterSpec
from federation.adapter.signing import SigningKey
from federation.errors import (
    BaseMismatchError,
    ClockError,
    ConscienceError,
    InvitationError,
    NetworkError,
    RevokedError,
    SignatureError,
    UsageError,
)
from federation.model.choose import SEMILLA, identity
from federation.tor.way import Way
from tests.adapter_samples import make_spec
from tests.fake_gateway import Answer, FakeGateway, serve_gateway
from tests.global_samples import Chain, joined_home
from tests.invited import TOKEN, accept, invite


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGateway]:
    with serve_gateway(tmp_path_factory.mktemp("tls")) as gateway:
        yield gateway


@pytest.fixture
def gateway(served: FakeGateway) -> FakeGateway:
    served.enrol, served.ahead, served.names_a_time = accept(), timedelta(), True
    served.asked.clear()
    return served


@pytest.fixture(scope="module")
def chain() -> Chain:
    made = Chain(make_spec(base_hash=identity(SEMILLA)))
    made.publish()
    made.publish()
    return made


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return NodeHome(tmp_path / "node")


def refuse(code: str, status: int = 403) -> Callable[[bytes], Answer]:
    return lambda _body: (status, json.dumps({"code": code, "message": "no"}).encode())


def test_a_node_that_joined_is_ready(gateway: FakeGateway, chain: Chain, home: NodeHome) -> None:
    gateway.enrol = accept(chain.spec, package=chain.packages[1])
    joined = join(home, NodeConfig(), invitation.encode(invite(gateway, chain)))
    federation = load_federation(home)
    assert joined.federation == federation
    assert federation.address == gateway.address
    assert federation.operator_key == chain.key.public_hex
    assert AdapterSpec.from_json(federation.spec).spec_hash == chain.spec.spec_hash
    assert home.ca.read_text() == gateway.ca_certificate
    assert (home.models / "current").read_text() == "v1\n"
    assert (joined.base, joined.notes) == ("semilla", ())


@pytest.mark.privacy
def test_what_joining_sent_is_noted(gateway: FakeGateway, chain: Chain, home: NodeHome) -> None:
    gateway.enrol = accept(chain.spec, package=chain.packages[1])
    join(home, NodeConfig(), invitation.encode(invite(gateway, chain)))
    (line,) = sent.read(home.sent)
    assert (line.kind, line.count) == ("requests", 2)
    assert 500 < line.wire_bytes < 3000


def test_the_invitation_may_lie_in_a_file_and_the_token_is_kept_nowhere(
    gateway: FakeGateway, chain: Chain, home: NodeHome, tmp_path: Path
) -> None:
    source = tmp_path / "alba.invitation"
    source.write_text(invitation.encode(invite(gateway, chain)) + "\n")
    join(home, NodeConfig(), str(source))
    for path in (path for path in home.root.rglob("*") if path.is_file()):
        assert TOKEN.encode() not in path.read_bytes()
        if path.suffix != ".lock":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_joining_twice_says_so(gateway: FakeGateway, chain: Chain, home: NodeHome) -> None:
    text = invitation.encode(invite(gateway, chain))
    join(home, NodeConfig(), text)
    before = home.federation.read_bytes()
    with pytest.raises(UsageError, match="already joined"):
        join(home, NodeConfig(), text)
    assert home.federation.read_bytes() == before


@pytest.mark.parametrize(
    ("code", "error", "sentence"),
    [
        ("used", InvitationError, "has been used already"),
        ("expired", InvitationError, "has expired"),
        ("unknown", InvitationError, "does not know"),
        ("malformed", InvitationError, "could not read"),
        ("key-in-use", RevokedError, "keys from before"),
        ("busy", NetworkError, "cannot take new nodes"),
        ("something-new", NetworkError, "cannot take new nodes"),
    ],
)
def test_each_refusal_is_one_sentence_and_leaves_no_federation(
    gateway: FakeGateway,
    chain: Chain,
    home: NodeHome,
    code: str,
    error: type[ConscienceError],
    sentence: str,
) -> None:
    gateway.enrol = refuse(code)
    with pytest.raises(error, match=sentence) as caught:
        join(home, NodeConfig(), invitation.encode(invite(gateway, chain)))
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert not home.federation.exists()


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"name": 3}'])
def test_an_answer_that_makes_no_sense_is_named(
    gateway: FakeGateway, chain: Chain, home: NodeHome, body: bytes
) -> None:
    gateway.enrol = lambda _body: (200, body)
    with pytest.raises(NetworkError, match="makes no sense"):
        join(home, NodeConfig(), invitation.encode(invite(gateway, chain)))
    assert not home.federation.exists()


def test_another_adapter_than_the_invitation_names_is_refused(
    gateway: FakeGateway, chain: Chain, home: NodeHome
) -> None:
    gateway.enrol = accept(make_spec(rank=2, base_hash=chain.spec.base_hash))
    with pytest.raises(InvitationError, match="not the one that the operator's invitation names"):
        join(home, NodeConfig(), invitation.encode(invite(gateway, chain)))
    assert not home.federation.exists()


@pytest.mark.security
def test_h16_a_first_adapter_of_another_signer_ends_the_joining(
    gateway: FakeGateway, chain: Chain, home: NodeHome
) -> None:
    foreign = Chain(chain.spec)
    gateway.enrol = accept(chain.spec, package=foreign.publish())
    with pytest.raises(SignatureError):
        join(home, NodeConfig(), invitation.encode(invite(gateway, chain)))
    assert not home.federation.exists()


@pytest.mark.security
def test_h07_a_pseudonym_that_is_not_ours_is_refused(
    gateway: FakeGateway, chain: Chain, home: NodeHome
) -> None:
    gateway.enrol = accept(pseudonym_of=SigningKey.generate().public_hex)
    with pytest.raises(NetworkError, match="makes no sense"):
        join(home, NodeConfig(), invitation.encode(invite(gateway, chain)))


def test_a_base_model_that_is_not_at_hand_is_named_before_anything_is_sent(
    gateway: FakeGateway, chain: Chain, home: NodeHome
) -> None:
    with pytest.raises(BaseMismatchError, match=r"semilla.*is not on this machine") as caught:
        join(home, NodeConfig(), invitation.encode(invite(gateway, chain, base_hash="cd" * 32)))
    assert "Install the operator's version" in caught.value.hint
    text = invitation.encode(invite(gateway, chain, base_hash="cd" * 32, base_ref="org/other"))
    with pytest.raises(BaseMismatchError, match="org/other") as caught:
        join(home, NodeConfig(), text)
    assert str(home.models) in caught.value.hint
    assert gateway.asked == []


@pytest.mark.parametrize(
    ("ahead_s", "sentence"),
    [(-3600, r"3[56]\d\d s ahead"), (-60, r"\d\d s ahead"), (400, r"[34]\d\d s behind")],
)
def test_a_clock_that_flower_would_refuse_is_named_with_its_difference(
    gateway: FakeGateway, chain: Chain, home: NodeHome, ahead_s: int, sentence: str
) -> None:
    gateway.ahead = timedelta(seconds=ahead_s)
    with pytest.raises(ClockError, match=sentence):
        join(home, NodeConfig(), invitation.encode(invite(gateway, chain)))
    assert "/enrol" not in gateway.asked


@pytest.mark.parametrize("ahead_s", [0, -3, 250])
def test_a_clock_that_flower_accepts_is_no_obstacle(
    gateway: FakeGateway, chain: Chain, home: NodeHome, ahead_s: int
) -> None:
    gateway.ahead = timedelta(seconds=ahead_s)
    join(home, NodeConfig(), invitation.encode(invite(gateway, chain)))
    assert load_federation(home).operator_key == chain.key.public_hex


def test_a_wrong_clock_is_named_where_it_makes_the_invitation_look_expired(
    gateway: FakeGateway, chain: Chain, home: NodeHome
) -> None:
    text = invitation.encode(invite(gateway, chain))

    def in_a_month() -> datetime:
        return datetime.now(UTC) + timedelta(days=30)

    with pytest.raises(ClockError, match="ahead"):
        join(home, NodeConfig(), text, now=in_a_month)


def test_an_expired_invitation_is_said_to_be_with_and_without_the_server(
    gateway: FakeGateway, chain: Chain, home: NodeHome
) -> None:
    past = (datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="seconds")
    for address in (gateway.address, "127.0.0.1:9"):
        text = invitation.encode(invite(gateway, chain, expires_at=past, address=address))
        with pytest.raises(InvitationError, match="has expired"):
            join(home, NodeConfig(), text)
    assert "/enrol" not in gateway.asked


def test_a_server_that_does_not_answer_is_named(
    gateway: FakeGateway, chain: Chain, home: NodeHome
) -> None:
    text = invitation.encode(invite(gateway, chain, address="127.0.0.1:9"))
    with pytest.raises(NetworkError, match=r"127\.0\.0\.1:9 could not be reached"):
        join(home, NodeConfig(), text)


@pytest.mark.security
def test_h05_a_server_with_another_certificate_gets_no_token(
    gateway: FakeGateway, chain: Chain, home: NodeHome, tmp_path: Path
) -> None:
    with serve_gateway(tmp_path / "other-tls") as other:
        other.enrol = accept()
        text = invitation.encode(invite(gateway, chain, address=other.address))
        with pytest.raises(NetworkError, match="certificate that is not this federation's"):
            join(home, NodeConfig(), text)
        assert other.asked == []


def test_an_address_in_the_settings_wins_but_the_pinned_certificate_stays(
    gateway: FakeGateway, chain: Chain, home: NodeHome
) -> None:
    text = invitation.encode(invite(gateway, chain, address="127.0.0.1:9"))
    join(home, NodeConfig(server_url=f"https://{gateway.address}"), text)
    assert load_federation(home).address == "127.0.0.1:9"


def test_joining_after_another_federation_starts_anew_and_says_where_the_old_lies(
    gateway: FakeGateway, chain: Chain, home: NodeHome
) -> None:
    earlier = Chain(make_spec(rank=2))
    newest = [earlier.publish() for _ in range(6)][-1]
    joined_home(home.root, earlier)
    AdapterStore(home, load_federation(home)).install(newest)
    home.federation.unlink()
    gateway.enrol = accept(chain.spec, package=chain.packages[1])
    (note,) = join(home, NodeConfig(), invitation.encode(invite(gateway, chain))).notes
    assert (home.models / "current").read_text() == "v1\n"
    (kept,) = home.earlier.iterdir()
    assert str(kept) in note
    assert (kept / "global" / "v5" / "manifest.json").is_file()


def test_a_joining_that_failed_moves_nothing(
    gateway: FakeGateway, chain: Chain, home: NodeHome
) -> None:
    home.adapters.mkdir(parents=True)
    gateway.enrol = refuse("expired")
    with pytest.raises(InvitationError):
        join(home, NodeConfig(), invitation.encode(invite(gateway, chain)))
    assert home.adapters.is_dir()
    assert not home.earlier.exists()


def test_other_code_than_the_servers_is_a_note(
    gateway: FakeGateway, chain: Chain, home: NodeHome
) -> None:
    text = invitation.encode(invite(gateway, chain, bundle_hash="ab" * 32))
    (note,) = join(home, NodeConfig(), text).notes
    assert "differs from the code installed here" in note


@pytest.mark.parametrize(
    ("text", "code"), [("conscience1:AAAA", 41), ("no-such-file", 41), ("", 41)]
)
def test_the_command_ends_with_the_errors_exit_code(
    home: NodeHome, text: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["join", text, "--home", str(home.root), "--json"]) == code
    out, err = capsys.readouterr()
    assert json.loads(out)["code"] == code
    assert "\nError: " in f"\n{err}"
    assert "Traceback" not in err


@pytest.mark.security
def test_h05_a_text_on_the_command_line_is_said_to_be_visible_once(
    home: NodeHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "alba.invitation"
    source.write_text("conscience1:AAAA")
    for argument, times in (("conscience1:AAAA", 1), (str(source), 0)):
        run(["join", argument, "--home", str(home.root)])
        assert capsys.readouterr().err.count("process list") == times


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_without_an_argument_the_invitation_is_asked_for(
    home: NodeHome,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("conscience1:AAAA\n"))
    assert run(["join", *arguments, "--home", str(home.root)]) == 41
    assert "not a complete invitation" in capsys.readouterr().err


def test_a_server_without_a_time_is_not_judged(gateway: FakeGateway) -> None:
    gateway.names_a_time = False
    with link.connect(Way(gateway.address), gateway.ca_certificate) as client:
        assert clock.seconds_ahead(client) is None
    clock.require_clock(None)
