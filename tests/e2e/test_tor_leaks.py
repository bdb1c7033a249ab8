"""Nothing of an evening goes around Tor, and no secret stands where others may read it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tor_network import PrivateTor

from federation.redaction import redact
from tests import netns, strace_log
from tests.e2e.evening import COMMANDS, NODE, Evening, files_of, secrets_of, spend

pytestmark = [
    pytest.mark.tor,
    pytest.mark.privacy,
    pytest.mark.security,
    pytest.mark.timeout(900),
]
shut_in = pytest.mark.skipif(
    bool(netns.why_not()) or not strace_log.is_installed(),
    reason=netns.why_not() or "needs strace",
)
# Files and folders whose purpose is to hold secrets, relative to the homes.
HOLDERS = {
    NODE: ("keys", "invitation", "federation.json"),
    "server": ("keys", "onion"),
}


@pytest.fixture(scope="module")
def evening(tmp_path_factory: pytest.TempPathFactory, tor_network: PrivateTor) -> Evening:
    """One evening, told by all tests here."""
    return spend(tmp_path_factory.mktemp("e"), tor_network)


def test_the_round_was_merged_through_the_onion(evening: Evening) -> None:
    assert evening.report["outcome"]["merged"], evening.report
    assert set(evening.said) == set(COMMANDS)
    assert json.loads(evening.said["tor", "check", "--json"])["ok"]
    assert json.loads(evening.said["ingest", "--json"])["new"] == 5


@shut_in
def test_h27_whatever_the_volunteer_calls_is_on_this_machine(evening: Evening) -> None:
    found = strace_log.read(evening.trace)
    assert len(found) > 50, "the tracer saw no connections"
    assert {attempt.family for attempt in found} >= {"AF_INET", "AF_UNIX"}
    assert strace_log.leaks(found) == []


def test_h27_tor_is_asked_for_our_onion_and_the_feed_and_nothing_else(evening: Evening) -> None:
    onion = secrets_of(evening)["onion address"].decode()
    hosts = {target.rpartition(":")[0] for target in evening.targets}
    assert {host.removesuffix(".onion") for host in hosts} == {
        onion,
        evening.feed.removesuffix(".onion"),
    }


@shut_in
def test_h27_the_same_evening_with_a_planted_leak_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, tor_network: PrivateTor
) -> None:
    evening = spend(tmp_path_factory.mktemp("p"), tor_network, plant=True)
    leaks = strace_log.leaks(strace_log.read(evening.trace))
    assert ("192.0.2.1", 80) in {(leak.address, leak.port) for leak in leaks}
    assert any(leak.port == strace_log.DNS for leak in leaks)


def test_h24_no_file_holds_a_secret_that_is_not_there_to_hold_it(evening: Evening) -> None:
    secrets = secrets_of(evening)
    contents = {path.relative_to(evening.root): path.read_bytes() for path in _others(evening)}
    found = {
        (str(path), name)
        for path, content in contents.items()
        for name, secret in secrets.items()
        if secret in content or secret.lower() in content
    }
    assert len(contents) > 30
    assert found == set()


def test_h24_logs_of_a_night_at_debug_were_there_to_be_searched(evening: Evening) -> None:
    names = {path.name for path in _others(evening)}
    assert names >= {"supernode.log", "superexec.log", "gateway.log", "superlink.log", "output.log"}
    log = (evening.node / "logs" / "supernode.log").read_text(encoding="utf-8")
    assert "DEBUG" in log
    assert redact(log) == log, "what is written has been through the filter"


def test_h05_h24_no_process_shows_a_secret(evening: Evening) -> None:
    shown = b"\n".join(evening.shown)
    assert b"flower-supernode" in shown
    assert b"flwr-clientapp" in shown
    assert b"CONSCIENCE_HOME" in shown
    found = [name for name, secret in secrets_of(evening).items() if secret in shown]
    assert found == []


def test_h05_no_token_of_a_task_is_on_a_command_line(evening: Evening) -> None:
    apps = [line for line in evening.shown if b"flwr-clientapp" in line and b"--token" in line]
    assert apps
    assert all(line.split(b"--token\0")[1].startswith(b"-\0") for line in apps)


def _others(evening: Evening) -> Iterator[Path]:
    for home, holders in HOLDERS.items():
        for path in files_of(evening.root / home):
            if path.relative_to(evening.root / home).parts[0] not in holders:
                yield path
