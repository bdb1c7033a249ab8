"""The spool keeps what it took, exactly once, through crashes, within its limits."""

from __future__ import annotations

import gc
import stat
from pathlib import Path

import numpy as np
import psutil
import pytest

from federation.adapter.delta import decode
from federation.adapter.format import initial_arrays
from federation.adapter.package import open_package
from federation.adapter.signing import SigningKey, pseudonym
from federation.errors import FormatError, RoundError
from strategies.spool import Arrival, Spool
from tests.adapter_samples import make_sample, make_spec
from tests.update_samples import make_spool, put, typical_delta

ARRIVAL = Arrival(node="ab" * 8, flower_node=7, received_at="2026-01-01T00:00:00Z", round=3)


def test_an_entry_survives_a_restart_with_the_facts_of_its_arrival(tmp_path: Path) -> None:
    entry = make_spool(tmp_path).add(b"some bytes", ARRIVAL)
    assert make_spool(tmp_path).entries() == [entry]
    assert (entry.node, entry.arrival.flower_node, entry.size_bytes) == ("ab" * 8, 7, 10)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("*.*")}
    assert modes == {0o600}


def test_adding_the_same_bytes_again_changes_nothing(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    first = spool.add(b"some bytes", ARRIVAL)
    again = spool.add(memoryview(b"some bytes"), Arrival(node="cd" * 8))
    assert again == first
    assert len(spool.entries()) == 1


def test_entries_are_sorted_by_hash_and_discarded_for_good(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    names = [spool.add(bytes([i]) * 9, ARRIVAL).sha256 for i in range(6)]
    assert [entry.sha256 for entry in spool.entries()] == sorted(names)
    spool.discard(names[0])
    spool.discard(names[0])
    assert names[0] not in [entry.sha256 for entry in spool.entries()]
    assert not list(tmp_path.glob(f"{names[0]}*"))


def test_what_a_crash_left_half_written_neither_counts_nor_stays(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    spool = make_spool(folder)
    kept = spool.add(b"complete", ARRIVAL)
    (folder / f"{'1' * 64}.zip").write_bytes(b"the power went before the arrival was written")
    (folder / f"{'2' * 64}.json").write_bytes(b"{}")
    (folder / f".{'3' * 64}.zip.x7.tmp").write_bytes(b"half a pack")
    assert spool.entries() == [kept]
    assert make_spool(folder).entries() == [kept]
    assert {path.name for path in folder.iterdir()} == {
        f"{kept.sha256}.zip",
        f"{kept.sha256}.json",
    }


def test_an_arrival_that_is_not_ours_does_not_count(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    entry = spool.add(b"complete", ARRIVAL)
    (tmp_path / f"{entry.sha256}.json").write_text('{"node": 1, "who": 2}')
    assert spool.entries() == []
    assert spool.add(b"complete", ARRIVAL) == entry


def test_limits_are_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes_each=10, max_total_bytes=25)
    with pytest.raises(FormatError, match="11 bytes"):
        spool.add(b"x" * 11, ARRIVAL)
    spool.add(b"a" * 10, ARRIVAL)
    spool.add(b"b" * 10, ARRIVAL)
    with pytest.raises(RoundError, match="spool"):
        spool.add(b"c" * 10, ARRIVAL)
    assert len(spool.entries()) == 2


@pytest.mark.parametrize("coding", ["bf16", "int8"])
def test_tensors_read_from_the_spool_are_those_of_the_package(tmp_path: Path, coding: str) -> None:
    spec, key = make_spec(), SigningKey.generate()
    data = make_sample(spec, key, coding=coding)  # type: ignore[arg-type]
    spool = make_spool(tmp_path)
    update = spool.open(spool.add(data, Arrival(node=pseudonym(key.public_hex))).sha256)
    expected = decode(open_package(data, max_bytes=2**20).tensors, coding)
    for name in spec.shapes:
        np.testing.assert_array_equal(update.delta(name), expected[name])
    update.release()
    np.testing.assert_array_equal(update.delta(name), expected[name])
    assert update.manifest.node == update.node


def test_the_file_is_open_as_long_as_a_tensor_is_held_and_no_longer(tmp_path: Path) -> None:
    spec, process = make_spec(), psutil.Process()
    spool = make_spool(tmp_path)
    entry = spool.add(make_sample(spec, SigningKey.generate()), ARRIVAL)
    update, name = spool.open(entry.sha256), next(iter(spec.shapes))
    tensor = update.coded(name)
    expected = update.delta(name)
    gc.disable()  # nothing waits for it
    try:
        del update
        np.testing.assert_array_equal(tensor.decode(), expected)
        assert entry.sha256 in str(process.open_files())
        del tensor
        assert entry.sha256 not in str(process.open_files())
    finally:
        gc.enable()


def test_opening_looks_at_the_content_only_when_it_is_used(tmp_path: Path) -> None:
    spool = make_spool(tmp_path)
    update = spool.open(spool.add(b"not a package", ARRIVAL).sha256)
    with pytest.raises(FormatError):
        _ = update.package
    with pytest.raises(FormatError, match="no package"):
        spool.open("0" * 64)


def test_a_package_that_changed_or_shrank_on_disk_is_refused(tmp_path: Path) -> None:
    spec = make_spec()
    start = initial_arrays(spec, 0)
    spool = make_spool(tmp_path)
    entry = put(spool, spec, start, typical_delta(spec, 1))
    other = put(spool, spec, start, typical_delta(spec, 2))
    path = tmp_path / f"{entry.sha256}.zip"
    opened = spool.open(entry.sha256)
    name = list(spec.shapes)[-1]
    opened.delta(name)
    with path.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(FormatError, match="cut short"):
        opened.delta(name)
    path.write_bytes((tmp_path / f"{other.sha256}.zip").read_bytes())
    with pytest.raises(FormatError, match="changed on disk"):
        _ = spool.open(entry.sha256).package
