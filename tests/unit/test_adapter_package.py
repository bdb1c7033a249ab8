"""The package container: one framing, three members, everything else refused in a sentence."""

from __future__ import annotations

import io
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from federation.adapter.delta import decode
from federation.adapter.format import config_bytes, initial_arrays
from federation.adapter.manifest import GlobalManifest, PackageManifest, canonical
from federation.adapter.package import PACKAGE_MEMBERS, build_package, open_package
from federation.adapter.signing import SigningKey
from federation.adapter.tensors import save_tensors
from federation.errors import FormatError
from tests.adapter_samples import make_sample, make_spec

MAX = 10**7


@pytest.fixture(scope="module")
def sample() -> bytes:
    return make_sample(make_spec(), SigningKey.generate())


def contents(data: bytes) -> list[bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [archive.read(name) for name in PACKAGE_MEMBERS]


def zipped(
    members: list[tuple[str, bytes]], *, method: int = zipfile.ZIP_STORED, comment: bytes = b""
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.comment = comment
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            archive.writestr(info, content)
    return out.getvalue()


def test_package_is_a_stored_zip_of_three_members_that_any_tool_opens(sample: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(sample)) as archive:
        assert archive.testzip() is None
        infos = archive.infolist()

    assert tuple(info.filename for info in infos) == PACKAGE_MEMBERS
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {(info.compress_type, info.extra, info.comment) for info in infos} == {(0, b"", b"")}
    assert build_package(*contents(sample)) == sample


def test_package_opens_alike_from_a_file_and_from_memory(sample: bytes, tmp_path: Path) -> None:
    path = tmp_path / "package.zip"
    path.write_bytes(sample)

    mapped, held = open_package(path, max_bytes=MAX), open_package(sample, max_bytes=MAX)

    assert isinstance(mapped.manifest, PackageManifest)
    assert (mapped.sha256, mapped.manifest, mapped.config) == (
        held.sha256,
        held.manifest,
        held.config,
    )
    assert mapped.size_bytes == len(sample)
    left, right = decode(mapped.tensors, "bf16"), decode(held.tensors, "bf16")
    assert list(left) == list(make_spec().shapes)
    assert all((left[name] == right[name]).all() for name in left)


def test_global_adapters_travel_in_the_same_container() -> None:
    spec = make_spec()
    manifest = GlobalManifest(
        version=0,
        spec=spec.to_json(),
        tensors_sha256="1" * 64,
        config_sha256="2" * 64,
        strategy="fedit",
        created_at="2026-01-01T00:00:00Z",
    )
    tensors = save_tensors(initial_arrays(spec, 0))

    package = open_package(
        build_package(tensors, config_bytes(spec), canonical(manifest)), max_bytes=MAX
    )

    assert package.manifest == manifest
    np.testing.assert_array_equal(
        decode(package.tensors, "f32")[next(iter(spec.shapes))],
        initial_arrays(spec, 0)[next(iter(spec.shapes))],
    )


@pytest.mark.security
def test_h09_opening_a_large_file_holds_little_memory(tmp_path: Path) -> None:
    spec = make_spec(layers=8, linears={"up_proj": (20_000, 20_000)})
    path = tmp_path / "package.zip"
    path.write_bytes(make_sample(spec, SigningKey.generate()))

    tracemalloc.start()
    try:
        package = open_package(path, max_bytes=10**8)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert package.size_bytes > 2_500_000
    assert peak < 2_400_000  # two chunks of 1 MiB and the small members


def with_field(
    offset_of: Callable[[bytes], int], form: str, value: int
) -> Callable[[bytes], bytes]:
    """Overwrite one field of the zip, found by its offset."""

    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        struct.pack_into(form, changed, offset_of(data), value)
        return bytes(changed)

    return change


def central(index: int) -> Callable[[bytes], int]:
    def offset(data: bytes) -> int:
        position = data.index(b"PK\x01\x02")
        for _ in range(index):
            position = data.index(b"PK\x01\x02", position + 1)
        return position

    return offset


def at(base: Callable[[bytes], int], more: int) -> Callable[[bytes], int]:
    return lambda data: base(data) + more


def local(data: bytes) -> int:
    return data.index(b"PK\x03\x04")


def last(data: bytes) -> int:
    return data.rindex(b"PK\x05\x06")


def spliced(data: bytes) -> bytes:
    """Put four bytes between the last member and the directory, and say so in the end record."""
    place = data.index(b"PK\x01\x02")
    changed = bytearray(data[:place] + b"gap!" + data[place:])
    struct.pack_into("<I", changed, last(bytes(changed)) + 16, place + 4)
    return bytes(changed)


def two_faced(data: bytes) -> bytes:
    """Let the config's directory entry point at the manifest: what you read depends on the tool."""
    return with_field(
        at(central(1), 42), "<I", struct.unpack_from("<I", data, central(2)(data) + 42)[0]
    )(data)


def renamed(index: int, name: str) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        members = list(zip(PACKAGE_MEMBERS, contents(data), strict=True))
        members[index] = (name, members[index][1])
        return zipped(members)

    return change


def rebuilt(index: int, content: bytes) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        parts = contents(data)
        parts[index] = content
        return build_package(*parts)

    return change


def members_of(data: bytes) -> list[tuple[str, bytes]]:
    return list(zip(PACKAGE_MEMBERS, contents(data), strict=True))


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _data: b"",
    "pickle": lambda _data: pickle.dumps({"weights": [1, 2, 3]}),
    "not a zip": lambda data: b"GIF89a" + data,
    "truncated": lambda data: data[:-1],
    "cut in half": lambda data: data[: len(data) // 2],
    "one trailing byte": lambda data: data + b"\0",
    "leading byte": lambda data: b"\0" + data,
    "a gap before the directory": spliced,
    "comment": lambda data: zipped(members_of(data), comment=b"hello"),
    "comment length": with_field(at(last, 20), "<H", 1),
    "fourth member": lambda data: zipped([*members_of(data), ("notes.txt", b"x")]),
    "fourth member first": lambda data: zipped([("notes.txt", b"x"), *members_of(data)]),
    "two members": lambda data: zipped(members_of(data)[:2]),
    "duplicate member": lambda data: zipped([*members_of(data)[:2], members_of(data)[1]]),
    "other order": lambda data: zipped(list(reversed(members_of(data)))),
    "compressed": lambda data: zipped(members_of(data), method=zipfile.ZIP_DEFLATED),
    "path in a name": renamed(1, "../../adapter_config.json"),
    "absolute name": renamed(1, "/etc/adapter_config.json"),
    "pickled weights member": renamed(0, "adapter_model.bin"),
    "encrypted flag": with_field(at(central(0), 8), "<H", 1),
    "data descriptor flag": with_field(at(central(0), 8), "<H", 8),
    "encrypted flag in the local header": with_field(at(local, 6), "<H", 1),
    "method in the local header": with_field(at(local, 8), "<H", 8),
    "size in the local header": with_field(at(local, 22), "<I", 0),
    "name in the local header": with_field(at(local, 30), "<B", 0x41),
    "date in the local header": with_field(at(local, 12), "<H", 0x5A5A),
    "extra length": with_field(at(local, 28), "<H", 4),
    "checksum": with_field(at(central(0), 16), "<I", 0),
    "size in the directory": with_field(at(central(2), 24), "<I", 5),
    "sizes in the directory": with_field(at(central(0), 20), "<Q", 0xFFFFFFFF_FFFFFFFF),
    "mode in the directory": with_field(at(central(0), 38), "<I", 0o777 << 16),
    "offset in the directory": two_faced,
    "count of entries": with_field(at(last, 10), "<H", 4),
    "disk number": with_field(at(last, 4), "<H", 1),
    "directory offset": with_field(at(last, 16), "<I", 0),
    "config not JSON": rebuilt(1, b"{"),
    "config with spaces": lambda data: rebuilt(1, b" " + contents(data)[1])(data),
    "config too large": rebuilt(1, b'{"a":"' + b"x" * 70_000 + b'"}'),
    "manifest not JSON": rebuilt(2, b"\x80\x04K\x01."),
    "manifest of nothing": rebuilt(2, b"{}"),
    "manifest with duplicate keys": lambda data: rebuilt(
        2, contents(data)[2].replace(b'"rank":4', b'"rank":4,"rank":4')
    )(data),
    "manifest with an infinity": lambda data: rebuilt(
        2, contents(data)[2].replace(b'"loss_after":2.25', b'"loss_after":1e999')
    )(data),
    "pickled tensors": rebuilt(0, pickle.dumps([1.0] * 100)),
    "empty tensors": rebuilt(0, b""),
}


@pytest.mark.security
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("mapped", [True, False], ids=["file", "memory"])
def test_h01_h09_h10_hostile_packages_are_refused_with_a_sentence(
    sample: bytes, change: Callable[[bytes], bytes], mapped: bool, tmp_path: Path
) -> None:
    data = change(sample)
    assert data != sample
    path = tmp_path / "package.zip"
    path.write_bytes(data)

    with pytest.raises(FormatError, match=r"^[^\n]{10,300}$"):
        open_package(path if mapped else data, max_bytes=MAX)


@pytest.mark.security
def test_h29_every_single_changed_byte_of_the_framing_is_noticed(sample: bytes) -> None:
    package = open_package(sample, max_bytes=MAX)
    content: set[int] = set()
    for member in package.members:
        content |= set(range(member.offset, member.offset + member.size))
    framing = [index for index in range(len(sample)) if index not in content]
    assert len(framing) == len(sample) - sum(len(part) for part in contents(sample))

    for index in framing:
        data = bytearray(sample)
        data[index] ^= 0x10
        with pytest.raises(FormatError):
            open_package(bytes(data), max_bytes=MAX)


@pytest.mark.security
def test_h08_too_large_package_is_refused_before_it_is_read(sample: bytes, tmp_path: Path) -> None:
    path = tmp_path / "huge.zip"
    with path.open("wb") as file:
        file.truncate(2**33)

    with pytest.raises(FormatError, match="more than 1000 allowed"):
        open_package(path, max_bytes=1000)
    with pytest.raises(FormatError, match=f"{len(sample)} bytes"):
        open_package(sample, max_bytes=len(sample) - 1)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.zip"):
        with pytest.raises(FormatError, match="there is no package"):
            open_package(path, max_bytes=MAX)
