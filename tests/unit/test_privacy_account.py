"""`flower-client privacy`: honest figures, no onion address, no promise too many."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from client import sent
from client.cli import run
from client.config import NodeHome, find_home, load_federation
from client.privacy import by_day, reveals
from federation import settings
from tests.adapter_samples import make_spec
from tests.global_samples import Chain, joined_home, put_package

SPEC = make_spec(layers=1)
ONION = "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad.onion"
FIRST, SECOND = datetime(2026, 1, 2, 22, tzinfo=UTC), datetime(2026, 1, 3, 1, tzinfo=UTC)


@pytest.fixture
def home() -> NodeHome:
    """A node of an onion service that has handed over one package."""
    chain = Chain(SPEC)
    chain.publish()
    home = joined_home(find_home().root, chain)
    federation = load_federation(home).model_copy(update={"address": f"{ONION}:443"})
    settings.save(federation, home.federation)
    package = put_package(home, SPEC)
    sent.note(home.sent, "requests", 700, at=FIRST)
    sent.note(home.sent, "package", 1088, at=FIRST, sha256=package, size_bytes=1025)
    sent.note(home.sent, "requests", 50_000, at=FIRST, count=40)
    sent.note(home.sent, "requests", 2_000, at=SECOND, count=3)
    return home


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["privacy", *arguments]) == 0
    return capsys.readouterr().out


def test_a_package_is_part_of_what_was_sent_and_not_added_to_it(home: NodeHome) -> None:
    first, second = by_day(sent.read(home.sent))
    assert (first.requests, first.sent_bytes) == (41, 50_700)
    assert (first.packages, first.package_bytes) == (1, 1088)
    assert (second.day, second.sent_bytes, second.packages) == ("2026-01-03", 2_000, 0)


@pytest.mark.privacy
def test_the_recipient_is_named_and_its_onion_address_is_not(
    home: NodeHome, capsys: pytest.CaptureFixture[str]
) -> None:
    content: dict[str, Any] = json.loads(shown(capsys, "--json"))
    text = shown(capsys)
    key = load_federation(home).operator_key
    assert key[:16] in content["to"]
    assert content["to"] in text
    assert ONION[:56] not in text + json.dumps(content)
    (package,) = content["packages"]
    assert (package["size_bytes"], package["wire_bytes"], package["state"]) == (
        *(1025, 1088, "waiting"),
    )
    assert [day["day"] for day in content["days"]] == ["2026-01-02", "2026-01-03"]
    assert "2026-01-02" in text
    assert all(sentence in text for sentence in content["reveals"])


def test_before_anything_left_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    joined_home(find_home().root, Chain(SPEC))
    assert "Nothing has left" in shown(capsys)


def test_it_speaks_spanish(home: NodeHome, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Lo que puede revelar" in shown(capsys, "--lang", "es")


def test_without_tor_no_hiding_is_claimed() -> None:
    assert "Tor hides" in " ".join(reveals(through_tor=True))
    assert "sees the address" in " ".join(reveals(through_tor=False))


def test_a_node_that_has_not_joined_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["privacy"]) == 2
    assert "has not joined" in capsys.readouterr().err
