"""The proof of a probe: good for its node, its request and its time, and nothing else."""

from __future__ import annotations

import pytest

from federation import probe
from federation.adapter.signing import SigningKey, pseudonym

NOW = 1_800_000_000.0
SIZE = probe.SIZES[0]


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.generate()


def test_a_proof_holds_for_its_own_request(key: SigningKey) -> None:
    given = probe.headers(key, "POST", SIZE, now=NOW)
    assert given[probe.NODE_HEADER] == pseudonym(key.public_hex)
    for moment in (NOW, NOW + 299, NOW - 299):
        assert probe.holds(given, "POST", SIZE, public_key=key.public_hex, now=moment)


def test_a_proof_holds_for_nothing_else(key: SigningKey) -> None:
    given, public = probe.headers(key, "POST", SIZE, now=NOW), key.public_hex
    other = SigningKey.generate().public_hex
    assert not probe.holds(given, "GET", SIZE, public_key=public, now=NOW)
    assert not probe.holds(given, "POST", probe.SIZES[1], public_key=public, now=NOW)
    assert not probe.holds(given, "POST", SIZE, public_key=other, now=NOW)
    assert not probe.holds(given, "POST", SIZE, public_key=public, now=NOW + 302)
    assert not probe.holds({}, "POST", SIZE, public_key=public, now=NOW)


@pytest.mark.parametrize("moment", ["", "-1", "x", "1e9", "9" * 13, "١"])
def test_a_time_that_is_no_number_is_refused(key: SigningKey, moment: str) -> None:
    given = probe.headers(key, "GET", SIZE, now=NOW) | {probe.TIME_HEADER: moment}
    assert not probe.holds(given, "GET", SIZE, public_key=key.public_hex, now=NOW)


@pytest.mark.parametrize("size", probe.SIZES)
def test_a_path_names_its_size(size: int) -> None:
    assert probe.size_of(probe.path_of(size)) == size


@pytest.mark.parametrize("path", ["/probe", "/probe/", "/probe/1", "/probe/0262144", "/health"])
def test_other_paths_are_no_probes(path: str) -> None:
    assert probe.size_of(path) is None
