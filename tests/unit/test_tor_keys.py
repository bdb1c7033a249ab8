"""Onion addresses and client keys: every form, and what is refused."""

from __future__ import annotations

import base64

import pytest

from federation.tor import keys

# The address of the public key that RFC 8032 prints first (section 7.1).
GOOD = "25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkenl5sid.onion"


def test_a_right_address_comes_back_in_lower_case() -> None:
    assert keys.check_onion(GOOD.upper()) == GOOD


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("expyuzz4wqqyqhjn.onion", "version 2"),
        (GOOD[1:], "this one 55"),
        ("a" + GOOD, "this one 57"),
        ("a" + GOOD[1:], "checksum"),
        (GOOD[:10] + "1" + GOOD[11:], "2 to 7"),
        ("a" * 56 + ".onion", "other than 3"),
        ("www." + GOOD, "56 characters"),
        (GOOD.removesuffix(".onion"), "followed by .onion"),
        ("example.org", "followed by .onion"),
        ("", "followed by .onion"),
    ],
)
def test_a_wrong_address_is_named_by_its_fault_and_not_repeated(host: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        keys.check_onion(host)
    assert GOOD[:20] not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("x.ONION", True), ("x.onion.", True), ("onion", False), ("x.onion.org", False)],
)
def test_an_onion_is_known_by_its_ending(host: str, *, expected: bool) -> None:
    assert keys.is_onion(host) is expected


def test_a_new_key_is_found_again_from_its_private_half() -> None:
    made = keys.new_client_key()
    assert keys.key_of(made.private) == made
    assert made != keys.new_client_key()


def test_each_use_of_a_key_has_its_own_form() -> None:
    made = keys.new_client_key()
    assert keys.service_line(made.public) == f"descriptor:x25519:{made.public}"
    label = GOOD.removesuffix(".onion")
    assert keys.client_line(GOOD, made.private) == f"{label}:descriptor:x25519:{made.private}"
    raw = base64.b32decode(made.private + "====")
    assert base64.b64decode(keys.control_key(made.private)) == raw


def test_the_public_half_is_what_rfc_7748_says() -> None:
    nine = (
        base64.b32encode(b"\x09" + bytes(31)).decode().rstrip("=")
    )  # section 5.2, first iteration
    public = base64.b32decode(keys.key_of(nine).public + "====")
    assert public.hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"


def test_the_private_half_is_not_shown() -> None:
    made = keys.new_client_key()
    assert made.private not in repr(made)


@pytest.mark.parametrize("bad", ["", "A" * 51, "A" * 53, "a" * 52, "1" * 52, "A" * 51 + "B"])
def test_a_malformed_key_is_refused_everywhere_and_not_repeated(bad: str) -> None:
    for use in (keys.key_of, keys.service_line, keys.control_key):
        with pytest.raises(ValueError, match="52 characters") as caught:
            use(bad)
        assert not bad or bad not in str(caught.value)
    with pytest.raises(ValueError, match="52 characters"):
        keys.client_line(GOOD, bad)
