"""Manifests in their one JSON form, signatures, and the chain of global versions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from federation.adapter.manifest import (
    GlobalManifest,
    InputRecord,
    canonical,
    parse_object,
    read_global,
    read_manifest,
    sha256_of,
)
from federation.adapter.signing import SigningKey, pseudonym, sign, verify, verify_chain
from federation.errors import (
    ConfigError,
    DowngradeError,
    FormatError,
    PermissionsError,
    SignatureError,
)
from tests.adapter_samples import make_spec


def make_global(version: int, parent: GlobalManifest | None, **other: Any) -> GlobalManifest:
    values: dict[str, Any] = {
        "version": version,
        "parent_sha256": sha256_of(parent) if parent else "",
        "spec": make_spec().to_json(),
        "tensors_sha256": "1" * 64,
        "config_sha256": "2" * 64,
        "strategy": "fedit",
        "inputs": (InputRecord(sha256="3" * 64, weight=1 / 3, staleness=0),),
        "gate": {"es": 1.5, "note": "ñ"},
        "created_at": "2026-01-01T00:00:00Z",
    }
    return GlobalManifest(**(values | other))


def make_chain(key: SigningKey, length: int) -> list[GlobalManifest]:
    chain: list[GlobalManifest] = []
    for version in range(length):
        chain.append(sign(make_global(version, chain[-1] if chain else None), key))
    return chain


def test_signed_manifest_survives_its_json_and_verifies() -> None:
    key = SigningKey.generate()
    manifest = sign(make_global(0, None), key)

    again = read_global(canonical(manifest))

    assert again == manifest
    assert read_global(canonical(manifest).decode()) == manifest
    verify(again, public_key=key.public_hex)


@pytest.mark.parametrize(
    "change", [{"version": 1}, {"gate": {}}, {"strategy": "x"}, {"signature": ""}], ids=str
)
def test_changed_manifest_does_not_verify(change: dict[str, Any]) -> None:
    key = SigningKey.generate()
    manifest = sign(make_global(0, None), key).model_copy(update=change)

    with pytest.raises(SignatureError):
        verify(manifest, public_key=key.public_hex)


def test_manifest_of_another_signer_does_not_verify() -> None:
    manifest = sign(make_global(0, None), SigningKey.generate())

    with pytest.raises(SignatureError, match="another key"):
        verify(manifest, public_key=SigningKey.generate().public_hex)


def test_canonical_form_is_sorted_compact_utf8_and_refuses_nan() -> None:
    assert canonical({"b": [1, 0.1], "a": "ñ"}) == '{"a":"ñ","b":[1,0.1]}'.encode()
    for bad in (float("nan"), float("inf"), {1, 2}, "\ud800"):
        with pytest.raises(FormatError):
            canonical({"x": bad})


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b'{"a":1,"a":2}', b'{"a":NaN}', b'{"a":1}x', b"\xff", b"1" * 5000, b"[" * 99_999],
)
def test_parse_object_refuses_what_is_not_one_plain_object(data: bytes) -> None:
    with pytest.raises(FormatError, match="the thing"):
        parse_object(data, "the thing", max_bytes=90_000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"format": 2}, "newer version"),
        (lambda m: m | {"format": 0}, "unknown format"),
        (lambda m: m | {"kind": "other"}, "no known kind"),
        (lambda m: m | {"host": "x"}, "host"),
        (lambda m: m | {"version": 1.0}, "version"),
        (lambda m: m | {"version": True}, "version"),
        (lambda m: m | {"version": -1}, "version"),
        (lambda m: m | {"created_at": "yesterday"}, "created_at"),
        (lambda m: {k: v for k, v in m.items() if k != "spec"}, "spec"),
    ],
)
def test_manifest_with_a_wrong_field_is_refused_by_name(
    change: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    content = change(make_global(0, None).model_dump(mode="json"))

    with pytest.raises(FormatError, match=message):
        read_manifest(canonical(content))


def test_manifest_in_another_spelling_is_refused() -> None:
    data = canonical(make_global(0, None))

    for other in (data + b"\n", data.replace(b":", b": ", 1), data.replace(b"1.5", b"1.50")):
        with pytest.raises(FormatError, match="canonical"):
            read_manifest(other)


def test_whole_chain_and_its_continuation_verify() -> None:
    key = SigningKey.generate()
    chain = make_chain(key, 4)

    verify_chain(chain, public_key=key.public_hex, after=None)
    verify_chain(chain[2:], public_key=key.public_hex, after=chain[1])
    verify_chain([], public_key=key.public_hex, after=chain[1])


def test_chain_with_a_gap_is_refused() -> None:
    key = SigningKey.generate()
    chain = make_chain(key, 4)

    with pytest.raises(SignatureError, match="one is missing"):
        verify_chain([chain[1], chain[3]], public_key=key.public_hex, after=chain[0])
    with pytest.raises(SignatureError, match="beginning"):
        verify_chain(chain[1:], public_key=key.public_hex, after=None)


def test_older_version_is_a_downgrade() -> None:
    key = SigningKey.generate()
    chain = make_chain(key, 3)

    for older in (chain[1], chain[2]):
        with pytest.raises(DowngradeError):
            verify_chain([older], public_key=key.public_hex, after=chain[2])


def test_other_parent_or_other_spec_breaks_the_chain() -> None:
    key = SigningKey.generate()
    first = make_chain(key, 1)[0]
    fork = sign(make_global(1, None, parent_sha256="9" * 64), key)
    other = sign(make_global(1, first, spec=make_spec(alpha=8).to_json()), key)

    with pytest.raises(SignatureError, match="another parent"):
        verify_chain([fork], public_key=key.public_hex, after=first)
    with pytest.raises(SignatureError, match="another adapter spec"):
        verify_chain([other], public_key=key.public_hex, after=first)


def test_key_survives_its_file_and_stays_private(tmp_path: Path) -> None:
    key = SigningKey.generate()
    path = tmp_path / "key"
    key.save(path)

    assert SigningKey.load(path).public_hex == key.public_hex
    assert path.stat().st_mode & 0o777 == 0o600
    secret = path.read_text().splitlines()[1]
    assert secret not in repr(key)
    path.chmod(0o644)
    with pytest.raises(PermissionsError):
        SigningKey.load(path)


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_unreadable_key_file_is_a_plain_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)

    with pytest.raises(ConfigError, match="key"):
        SigningKey.load(path)


def test_pseudonym_is_a_short_hash_of_the_key() -> None:
    key = SigningKey.generate()

    name = pseudonym(key.public_hex)

    assert len(name) == 16
    assert name not in key.public_hex
    for bad in ("", "zz" * 32, "ab" * 31):
        with pytest.raises(SignatureError):
            pseudonym(bad)
