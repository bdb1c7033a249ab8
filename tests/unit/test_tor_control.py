"""The door to stem, against a control port of our own."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue

import pytest

from federation.errors import TorError
from federation.tor import bootstrap, keys
from federation.tor.bootstrap import Bootstrap
from federation.tor.control import Control, ControlError, open_control
from federation.tor.uploads import Uploads
from tests.fake_control import OK, FakeControl, silent_port

HOST = "a" * 56 + ".onion"
PROTOCOL = '250-PROTOCOLINFO 1\r\n250-AUTH METHODS={}\r\n250-VERSION Tor="0.4.9.11"\r\n250 OK\r\n'


def threads() -> set[str]:
    """The names of stem's threads that run."""
    names = {thread.name for thread in threading.enumerate()}
    return names & {"Tor listener", "Event notifier"}


def test_a_tor_of_ours_is_asked_by_cookie(tmp_path: Path) -> None:
    answers = {"GETINFO process/pid": "250-process/pid=77\r\n250 OK\r\n"}
    with FakeControl(tmp_path, answers) as fake:
        with open_control(tmp_path) as opened:
            assert opened.info("process/pid") == "77"
        assert fake.asked[0].startswith("AUTHCHALLENGE SAFECOOKIE ")
    assert threads() == set()


def test_an_answer_of_many_lines_is_one_value(tmp_path: Path) -> None:
    answers = {"GETINFO": "250+ns/all=\r\nr one\r\ns Running\r\n.\r\n250 OK\r\n"}
    with FakeControl(tmp_path, answers), open_control(tmp_path) as opened:
        assert opened.info("ns/all") == "r one\ns Running"


def test_a_port_that_does_not_know_the_cookie_learns_nothing(tmp_path: Path) -> None:
    with FakeControl(tmp_path, cookie=b"x" * 32) as impostor:
        with pytest.raises(TorError, match="AuthSecurityFailure"):
            open_control(tmp_path)
        assert [line.split()[0] for line in impostor.asked] == ["AUTHCHALLENGE"]
    assert threads() == set()


def test_a_foreign_port_cannot_ask_for_a_file_as_a_plain_cookie(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 32)
    wish = PROTOCOL.format(f'COOKIE COOKIEFILE="{secret}"')
    with FakeControl(tmp_path, {"PROTOCOLINFO": wish}) as greedy:
        with pytest.raises(TorError):
            Control.at(greedy.address)
        assert greedy.asked == ["PROTOCOLINFO 1"]


@pytest.mark.parametrize("methods", ["NULL", "COOKIE,SAFECOOKIE,HASHEDPASSWORD"])
def test_a_foreign_tor_is_entered_by_what_it_offers(tmp_path: Path, methods: str) -> None:
    with FakeControl(tmp_path) as fake:
        where = "" if methods == "NULL" else f' COOKIEFILE="{fake.cookie_file}"'
        fake.answers["PROTOCOLINFO"] = PROTOCOL.format(methods + where)
        with Control.at(fake.address) as opened:
            assert opened.ask("SIGNAL NEWNYM") == ["OK"]


def test_a_foreign_tor_that_wants_a_password_is_an_error(tmp_path: Path) -> None:
    answers = {"PROTOCOLINFO": PROTOCOL.format("HASHEDPASSWORD")}
    with FakeControl(tmp_path, answers) as fake, pytest.raises(TorError, match="PASSWORD"):
        Control.at(fake.address)


def test_without_a_tor_it_is_an_error_and_with_time_it_is_tried_again(tmp_path: Path) -> None:
    with pytest.raises(TorError, match="not running"):
        open_control(tmp_path)
    with FakeControl(tmp_path) as gone:
        pass
    with pytest.raises(TorError, match="CLOSED"):
        Control.at(gone.address)
    made: list[FakeControl] = []
    late = threading.Timer(0.2, lambda: made.append(FakeControl(tmp_path)))
    late.start()
    try:
        with open_control(tmp_path, timeout_s=30.0) as opened:
            assert opened.ask("SIGNAL NEWNYM") == ["OK"]
    finally:
        late.join()
        made[0].__exit__()


def test_a_silent_tor_is_an_error_in_bounded_time(tmp_path: Path) -> None:
    with silent_port() as address, pytest.raises(TorError, match="SocketClosed"):
        Control.at(address, answer_s=0.2)
    with (
        FakeControl(tmp_path, {"GETINFO": ""}),
        open_control(tmp_path, answer_s=0.2) as opened,
        pytest.raises(TorError, match="SocketClosed"),
    ):
        opened.info("version")
    assert threads() == set()


def test_a_refusal_says_which_command_and_no_secret(tmp_path: Path) -> None:
    pair = keys.new_client_key()
    answers = {"ONION_CLIENT_AUTH_ADD": f'512 Invalid v3 address "{HOST}"\r\n'}
    with (
        FakeControl(tmp_path, answers),
        open_control(tmp_path) as opened,
        pytest.raises(ControlError) as refused,
    ):
        opened.add_client_key(HOST, pair.private)
    assert refused.value.code == "512"
    assert "ONION_CLIENT_AUTH_ADD" in refused.value.message
    assert HOST[:56] not in refused.value.message


def test_a_key_is_added_asked_for_and_removed(tmp_path: Path) -> None:
    pair = keys.new_client_key()
    view = f"250-ONION_CLIENT_AUTH_VIEW {HOST[:56]}\r\n"
    with FakeControl(tmp_path) as fake, open_control(tmp_path) as opened:
        opened.add_client_key(HOST, pair.private)
        wanted = f"ONION_CLIENT_AUTH_ADD {HOST[:56]} x25519:{keys.control_key(pair.private)}"
        assert fake.asked[-1] == wanted
        fake.answers["ONION_CLIENT_AUTH_VIEW"] = f"{view}250-CLIENT {HOST[:56]} x25519:A=\r\n{OK}"
        assert opened.has_client_key(HOST)
        opened.remove_client_key(HOST)
        fake.answers["ONION_CLIENT_AUTH_VIEW"] = view + OK
        assert not opened.has_client_key(HOST)


def test_no_key_reaches_the_log_at_any_level(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = keys.new_client_key()
    with caplog.at_level(1), FakeControl(tmp_path), open_control(tmp_path) as opened:
        logging.getLogger("stem").debug("this one is not written either")
        opened.add_client_key(HOST, pair.private)
    assert caplog.text == ""


def test_an_onion_without_client_keys_is_never_published(tmp_path: Path) -> None:
    with FakeControl(tmp_path) as fake, open_control(tmp_path) as opened:
        with pytest.raises(ValueError, match="open to everybody"):
            opened.add_onion(443, "127.0.0.1:1", [])
        assert not any(line.startswith("ADD_ONION") for line in fake.asked)


def test_an_onion_may_have_several_client_keys(tmp_path: Path) -> None:
    answers = {"ADD_ONION": f"250-ServiceID={HOST[:56]}\r\n250 OK\r\n"}
    with FakeControl(tmp_path, answers) as fake, open_control(tmp_path) as opened:
        assert opened.add_onion(443, "127.0.0.1:9", ["ONE", "TWO"]) == HOST
        assert fake.asked[-1].endswith("Port=443,127.0.0.1:9 ClientAuthV3=ONE ClientAuthV3=TWO")
        opened.remove_onion(HOST)
        assert fake.asked[-1] == f"DEL_ONION {HOST[:56]}"


def test_uploads_are_watched_for_the_length_of_the_block(tmp_path: Path) -> None:
    with FakeControl(tmp_path) as fake, open_control(tmp_path) as opened:
        with opened.uploads(HOST) as uploads:
            assert fake.asked[-1] == "SETEVENTS HS_DESC"
            for action in ("UPLOAD", "UPLOADED"):
                fake.say(f"650 HS_DESC {action} {HOST[:56]} UNKNOWN $AA~one\r\n")
            assert uploads.wait() == 1
        assert fake.asked[-1] == "SETEVENTS"


@pytest.mark.parametrize(("action", "came"), [("RECEIVED", True), ("FAILED", False)])
def test_a_descriptor_is_fetched_anew(tmp_path: Path, action: str, came: bool) -> None:
    other, ours = f"650 HS_DESC RECEIVED {'b' * 56} NO_AUTH $AA~one\r\n", f"{HOST[:56]} NO_AUTH"
    events = f"{other}650 HS_DESC REQUESTED {ours}\r\n650 HS_DESC {action} {ours}\r\n"
    with (
        FakeControl(tmp_path, {"HSFETCH": f"250 OK\r\n{events}"}) as fake,
        open_control(tmp_path) as opened,
    ):
        assert opened.fetch(HOST) is came
        assert fake.asked[-2:] == [f"HSFETCH {HOST[:56]}", "SETEVENTS"]


def test_a_descriptor_that_never_comes_is_not_waited_for_in_vain(tmp_path: Path) -> None:
    with FakeControl(tmp_path), open_control(tmp_path) as opened:
        assert not opened.fetch(HOST, timeout_s=0.1)


def counted(*events: str, timeout_s: float = 5.0) -> int:
    """What `Uploads` makes of events, given as "ACTION service directory"."""
    queue: SimpleQueue[str] = SimpleQueue()
    for event in events:
        action, service, directory = event.split()
        queue.put(f"HS_DESC {action} {service} UNKNOWN {directory} x HSDIR_INDEX=0")
    return Uploads("ours", queue).wait(timeout_s)


def test_every_upload_that_was_begun_is_waited_for() -> None:
    queue: SimpleQueue[str] = SimpleQueue()
    for directory in ("$A", "$B"):
        queue.put(f"HS_DESC UPLOAD ours UNKNOWN {directory} x")
    queue.put("HS_DESC UPLOADED ours UNKNOWN $A")
    last = threading.Timer(0.6, lambda: queue.put("HS_DESC UPLOADED UNKNOWN UNKNOWN $B"))
    last.start()
    began = time.monotonic()
    assert Uploads("ours", queue).wait(30.0) == 2
    assert 0.6 < time.monotonic() - began < 29.0
    last.join()


def test_a_failed_upload_is_ended_but_not_counted() -> None:
    assert counted("UPLOAD ours $A", "UPLOAD ours $B", "FAILED ours $A", "UPLOADED ours $B") == 1


def test_uploads_of_another_service_and_failed_fetches_are_passed_over() -> None:
    events = ("UPLOAD other $B", "UPLOADED other $B", "FAILED ours $C")
    assert counted("UPLOAD ours $A", *events, "UPLOADED ours $A") == 1


@pytest.mark.parametrize("events", [(), ("UPLOAD ours $A",), ("UPLOAD ours $A", "FAILED ours $A")])
def test_no_upload_that_arrived_is_an_error(events: tuple[str, ...]) -> None:
    with pytest.raises(TorError, match=f"{len([e for e in events if 'UPLOAD ' in e])} uploads"):
        counted(*events, timeout_s=0.4)


def test_the_bootstrap_phase_is_read_with_its_warning() -> None:
    phase = (
        'WARN BOOTSTRAP PROGRESS=10 TAG=conn_done SUMMARY="Connected to a relay" WARNING="Clock '
        'skew -7200 in NETINFO from OR" REASON=CLOCK_SKEW COUNT=1 HOSTADDR="192.0.2.1:443"'
    )
    seen = bootstrap.read(phase)
    warning = "Clock skew -7200 in NETINFO from OR"
    assert seen == Bootstrap(10, "conn_done", "Connected to a relay", warning, "CLOCK_SKEW")
    assert not seen.is_ready
    assert bootstrap.read('NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY="Done"').is_ready
    assert bootstrap.read("") == Bootstrap(0)


def test_a_stuck_tor_is_explained_by_percent_tag_and_summary() -> None:
    error = bootstrap.stuck(Bootstrap(5, "conn", "Connecting to a relay", "refused"), 300.4)
    assert "300 s" in error.message
    assert "5 % (conn): Connecting to a relay (refused)" in error.message
    assert "bridges" in error.hint


def test_a_wrong_clock_is_named_as_the_cause() -> None:
    error = bootstrap.stuck(Bootstrap(30, "loading_status", "Loading", "", "CLOCK_SKEW"), 60)
    assert "clock" in error.hint


def test_stem_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, federation.tor.control; sys.exit('stem' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
