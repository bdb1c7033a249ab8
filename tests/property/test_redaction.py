"""Secrets of any value, anywhere in any text, do not survive; JSON stays JSON; once is enough."""

from __future__ import annotations

import ast
import base64
import json
from collections.abc import Callable

from hypothesis import example, given
from hypothesis import strategies as st

from federation.redaction import redact

raw32 = st.binary(min_size=32, max_size=32)
raw35 = st.binary(min_size=35, max_size=35)
around = st.text(st.characters(codec="utf-8", exclude_categories=["L", "N"]), max_size=40).filter(
    lambda text: not text.endswith(("-", "."))
)


short = st.text(st.characters(codec="utf-8", exclude_characters="\"'\\"), max_size=7)


def base32(data: bytes) -> str:
    """Tor's way of writing keys and addresses."""
    return base64.b32encode(data).decode("ascii").rstrip("=")


@given(around, raw35, st.sampled_from(["", ".onion", ".onion:443"]), around)
def test_no_onion_address_survives(before: str, data: bytes, ending: str, after: str) -> None:
    address = base32(data).lower()
    for written in (address, address.upper()):
        assert written not in redact(f"{before}{written}{ending}{after}")


@given(around, raw35, raw32, around)
def test_no_line_of_an_auth_file_survives(before: str, host: bytes, key: bytes, after: str) -> None:
    address, secret = base32(host).lower(), base32(key)
    for line in (f"{address}:descriptor:x25519:{secret}", f"descriptor:x25519:{secret}"):
        cleaned = redact(f"{before}{line}{after}")
        assert secret not in cleaned
        assert address not in cleaned


@given(around, st.binary(min_size=200, max_size=400), around)
def test_no_invitation_survives(before: str, content: bytes, after: str) -> None:
    body = base64.urlsafe_b64encode(content).decode("ascii").rstrip("=")
    assert body[:40] not in redact(f"{before}conscience1:{body}{after}")


@given(
    st.sampled_from(["token", "secret", "password", "onion_key", "Authorization", "cookie"]),
    st.sampled_from(["=", ": ", " = ", '": "', "': '"]),
    raw32,
)
def test_no_named_value_survives(name: str, sign: str, data: bytes) -> None:
    assert data.hex() not in redact(f"x {name}{sign}{data.hex()}\"' y")


@given(
    st.sampled_from(["tokens", "secret", "password", "onion_key", "Authorization", "Set-Cookie"]),
    st.lists(raw32.map(bytes.hex) | st.integers() | short, min_size=1, max_size=5),
    st.sampled_from([json.dumps, repr]),
)
@example(name="cookie", values=["ab", 123456789, "x"], write=json.dumps)
def test_no_value_of_a_named_list_survives(
    name: str, values: list[object], write: Callable[[object], str]
) -> None:
    cleaned = redact(write({name: values, "kept": "a" * 20}))
    assert not [
        value
        for value in values
        if isinstance(value, str) and len(value) == 64 and value in cleaned
    ]
    assert "a" * 20 in cleaned
    found = ast.literal_eval(cleaned) if write is repr else json.loads(cleaned)
    assert [type(each) for each in found[name]] == [type(each) for each in values]


def nested(values: st.SearchStrategy[object], depth: int) -> st.SearchStrategy[object]:
    """Lists and objects within one another, at most `depth` of them."""
    for _ in range(depth - 1):
        values |= st.lists(values, max_size=3) | st.dictionaries(short, values, max_size=3)
    return st.lists(values, min_size=1, max_size=3) | st.dictionaries(short, values, min_size=1)


def strings(value: object) -> list[str]:
    """All that are not names, wherever they are."""
    if isinstance(value, str):
        return [value]
    inner = list(value.values()) if isinstance(value, dict) else value
    return [text for each in inner for text in strings(each)] if isinstance(inner, list) else []


@given(
    st.sampled_from(["tokens", "secret", "password", "Set-Cookie"]),
    nested(raw32.map(bytes.hex) | st.integers() | short, 3),
    st.sampled_from([json.dumps, repr]),
)
@example(name="cookies", value=[{"name": "sid", "value": "a" * 64}], write=json.dumps)
@example(name="password", value={"of": [["b" * 64], {"c": "d" * 64}]}, write=repr)
def test_no_value_within_survives_and_names_do(
    name: str, value: object, write: Callable[[object], str]
) -> None:
    cleaned = redact(write({name: value, "kept": "a" * 20}))
    found = ast.literal_eval(cleaned) if write is repr else json.loads(cleaned)
    assert found["kept"] == "a" * 20
    assert len(strings(found[name])) == len(strings(value))
    assert not [text for text in strings(value) if len(text) == 64 and text in cleaned]


json_values = st.recursive(
    st.none()
    | st.integers()
    | st.text(max_size=30)
    | st.sampled_from(["token", "cookie: a\\", 'Authorization: "b"', "/home/someone/x", "8.8.8.8"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@given(json_values, st.booleans())
@example(value={"COOKIE": None}, keeps_unicode=False)
@example(value={"token": [1, {"Authorization": [True]}], "cookie": 12345678.5}, keeps_unicode=True)
@example(value={"a": "token': ['abcdefgh", "n": 1234567890, "b": "x']"}, keeps_unicode=True)
@example(value={"cookie": "", "tokens": "b"}, keeps_unicode=True)
@example(value=["my cookie: ", "[] ", "cookie': ", "b: c"], keeps_unicode=True)
@example(value={"a": "token': [", "n": 1234567890, "z": "]"}, keeps_unicode=True)
@example(value={"cookie": ["a b", "c"], "password": {"secret": 123456789}}, keeps_unicode=True)
def test_json_stays_json_of_the_same_shape(value: object, keeps_unicode: bool) -> None:
    text = json.dumps(value, ensure_ascii=not keeps_unicode)
    assert type(json.loads(redact(text))) is type(value)


@given(
    st.text() | st.lists(st.sampled_from(["token", "=", "cookie", ":", " ", "a" * 9])).map("".join)
)
def test_once_is_enough(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@given(raw32)
def test_hashes_stay(data: bytes) -> None:
    for text in (f"sha256 {data.hex()}", f"package {data.hex()[:12]} by node {data.hex()[:16]}"):
        assert redact(text) == text
