"""Whatever bytes arrive, opening and checking a package ends in a package or in a clean refusal."""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
import zlib
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.adapter.checks import check_update
from federation.adapter.manifest import PackageManifest, read_manifest
from federation.adapter.package import PACKAGE_MEMBERS, build_package, open_package
from federation.adapter.signing import SigningKey
from federation.adapter.tensors import TensorFile
from federation.errors import ConscienceError
from tests.adapter_samples import make_sample, make_spec

MAX = 10**6
SPEC = make_spec(layers=1)


@cache
def sample(coding: str) -> tuple[bytes, str]:
    """A valid package and the key it is signed with."""
    key = SigningKey.generate()
    return make_sample(SPEC, key, coding="int8" if coding == "int8" else "bf16"), key.public_hex


def is_accepted(data: bytes, public_key: str) -> bool:
    """Whether the bytes pass all checks; anything but a clean refusal fails the test."""
    try:
        package = open_package(data, max_bytes=MAX)
        if not isinstance(package.manifest, PackageManifest):
            return False
        node = package.manifest.node
        return check_update(package, SPEC, node=node, public_key=public_key) is None
    except ConscienceError:
        return False


codings = st.sampled_from(["bf16", "int8"])
edits = st.lists(st.tuples(st.integers(0, 2**20), st.binary(max_size=8)), min_size=1, max_size=4)


def edited(data: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    """Overwrite, insert or delete: by the parity of the place."""
    for place, new in changes:
        at = place % (len(data) + 1)
        kept = at + (len(new) if place % 3 else 0)
        data = data[:at] + new + data[kept + (place % 3 == 2) :]
    return data


@pytest.mark.security
@settings(max_examples=200, deadline=None)
@given(codings, edits)
def test_h09_a_mutated_package_is_refused_cleanly(
    coding: str, changes: list[tuple[int, bytes]]
) -> None:
    data, key = sample(coding)
    changed = edited(data, changes)

    assert is_accepted(changed, key) == (changed == data)


@pytest.mark.security
@settings(max_examples=200, deadline=None)
@given(codings, st.sampled_from([0, 1, 2]), edits)
def test_h09_a_mutated_member_in_sound_framing_is_refused_cleanly(
    coding: str, index: int, changes: list[tuple[int, bytes]]
) -> None:
    data, key = sample(coding)
    members = open_package(data, max_bytes=MAX).members
    parts = [data[member.offset : member.offset + member.size] for member in members]
    parts[index] = edited(parts[index], changes)
    changed = build_package(*parts)

    assert is_accepted(changed, key) == (changed == data)


@pytest.mark.security
@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000))
def test_h09_random_bytes_are_refused_cleanly(data: bytes) -> None:
    assert not is_accepted(data, "00" * 32)
    assert not is_accepted(b"PK\x03\x04" + data, "00" * 32)


@settings(max_examples=100, deadline=None)
@given(codings, st.integers(0, 2**20))
def test_a_truncated_package_is_refused_cleanly(coding: str, length: int) -> None:
    data, key = sample(coding)

    assert not is_accepted(data[: length % len(data)], key)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_random_tensor_files_and_manifests_raise_only_our_errors(data: bytes) -> None:
    for header in (data, b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}' + data):
        for content in (data, len(header).to_bytes(8, "little") + header + b"1234"):
            with contextlib.suppress(ConscienceError):
                file = TensorFile.from_bytes(content)
                assert sum(file.raw(name).size for name in file.names()) < len(content)
    with contextlib.suppress(ConscienceError):
        read_manifest(data)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=500), st.binary(max_size=50), st.binary(max_size=50))
def test_framing_is_found_again_for_any_content(
    tensors: bytes, config: bytes, manifest: bytes
) -> None:
    data = build_package(tensors, config, manifest)

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert [archive.read(n) for n in PACKAGE_MEMBERS] == [tensors, config, manifest]
        assert [info.CRC for info in archive.infolist()] == [
            zlib.crc32(part) for part in (tensors, config, manifest)
        ]


def test_a_mapped_package_has_the_hash_of_its_file(tmp_path: Path) -> None:
    data, _ = sample("bf16")
    path = tmp_path / "p.zip"
    path.write_bytes(data)

    assert open_package(path, max_bytes=MAX).sha256 == hashlib.sha256(data).hexdigest()
