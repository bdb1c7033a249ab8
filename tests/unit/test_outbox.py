"""The outbox: states, room, and what it makes of the disk after a kill."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from client.config import NodeConfig, NodeHome
from client.outbox import Entry, Outbox, open_outbox
from federation.adapter.manifest import PackageManifest
from federation.adapter.package import open_package
from federation.adapter.signing import SigningKey
from federation.errors import AdapterError, FormatError, UsageError
from federation.protocol import Verdict
from tests.adapter_samples import make_sample, make_spec

KEY = SigningKey.generate()
SPEC = make_spec(layers=1)
MAX = 10**6


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Callable[..., Outbox]]:
    """Open the same outbox again, as after a kill; everything is closed in the end."""
    opened: list[Outbox] = []
    clock = Clock()

    def open_again(max_bytes: int = MAX) -> Outbox:
        opened.append(Outbox(tmp_path / "outbox", max_bytes=max_bytes, clock=clock))
        return opened[-1]

    yield open_again
    for outbox in opened:
        outbox.close()


def new_package(seed: int = 1, version: int = 0) -> tuple[bytes, PackageManifest]:
    data = make_sample(SPEC, KEY, seed=seed, global_version=version)
    manifest = open_package(data, max_bytes=MAX).manifest
    assert isinstance(manifest, PackageManifest)
    return data, manifest


def put(outbox: Outbox, version: int = 0, feedback: bytes | None = None) -> Entry:
    return outbox.put(*new_package(version=version), feedback=feedback)


def merged(entry: Entry, version: int = 1) -> Verdict:
    return Verdict(sha256=entry.sha256, state="merged", version=version)


def refused(entry: Entry, reason: str = "norm: too large") -> Verdict:
    return Verdict(sha256=entry.sha256, state="refused", reason=reason)


def states(outbox: Outbox) -> list[str]:
    return [entry.state for entry in outbox.entries()]


def test_package_waits_is_handed_over_and_merged(reopen: Callable[..., Outbox]) -> None:
    outbox = reopen()
    data, manifest = new_package(version=3)

    entry = outbox.put(data, manifest)
    assert (entry.state, entry.global_version, entry.examples) == ("waiting", 3, 12)
    assert entry.sha256 == hashlib.sha256(data).hexdigest()
    assert outbox.read(entry.sha256) == data
    outbox.hand_over(entry.sha256)
    assert [offer.state for offer in outbox.offers()] == ["handed_over"]
    assert outbox.read(entry.sha256) == data
    outbox.settle(entry.sha256, merged(entry, 4))

    final = outbox.entry(entry.sha256[:6])
    assert (final.state, final.version, final.is_final) == ("merged", 4, True)
    assert final.changed_at > final.created_at
    assert outbox.offers() == []
    assert not list(outbox.folder.glob("*.zip"))


def test_same_package_twice_is_one_entry(reopen: Callable[..., Outbox]) -> None:
    outbox = reopen()
    data, manifest = new_package()

    first = outbox.put(data, manifest)
    outbox.settle(first.sha256, refused(first))
    again = outbox.put(data, manifest)

    assert again.state == "refused"
    assert len(outbox.entries()) == 1


def test_offers_come_oldest_first(reopen: Callable[..., Outbox]) -> None:
    outbox = reopen()
    entries = [put(outbox) for _ in range(4)]
    outbox.hand_over(entries[1].sha256)

    assert [e.sha256 for e in outbox.offers()] == [e.sha256 for e in entries]


@pytest.mark.parametrize("first", ["merged", "refused", "expired"])
def test_final_states_never_change(reopen: Callable[..., Outbox], first: str) -> None:
    outbox = reopen()
    entry = put(outbox)
    outbox.settle(entry.sha256, Verdict.model_validate({"sha256": entry.sha256, "state": first}))
    before = outbox.entry(entry.sha256)

    outbox.settle(entry.sha256, merged(entry, 9))
    outbox.settle(entry.sha256, refused(entry))
    outbox.hand_over(entry.sha256)
    outbox.expire("late", lambda _entry: True)

    assert outbox.entry(entry.sha256) == before


def test_verdict_on_an_unknown_package_is_ignored(reopen: Callable[..., Outbox]) -> None:
    outbox = reopen()

    outbox.settle("0" * 64, Verdict(sha256="0" * 64, state="merged", version=1))

    assert outbox.entries() == []
    for act in (outbox.read, outbox.hand_over, outbox.drop):
        with pytest.raises(UsageError, match="no package 000000000000"):
            act("0" * 64)


def test_full_outbox_expires_the_oldest_waiting_but_never_one_handed_over(
    reopen: Callable[..., Outbox],
) -> None:
    size = len(new_package()[0])
    outbox = reopen(max_bytes=3 * size + size // 2)
    entries = [put(outbox) for _ in range(3)]
    outbox.hand_over(entries[0].sha256)

    put(outbox)

    assert states(outbox) == ["handed_over", "expired", "waiting", "waiting"]
    assert outbox.entry(entries[1].sha256).reason == "the outbox was full"
    assert not (outbox.folder / f"{entries[1].sha256}.zip").exists()


def test_outbox_without_room_keeps_what_it_has(reopen: Callable[..., Outbox]) -> None:
    size = len(new_package()[0])
    outbox = reopen(max_bytes=2 * size + size // 2)
    entries = [put(outbox) for _ in range(2)]
    for entry in entries:
        outbox.hand_over(entry.sha256)

    with pytest.raises(AdapterError, match="no room"):
        put(outbox)
    assert states(outbox) == ["handed_over", "handed_over"]
    with pytest.raises(AdapterError, match="no room"):
        put(reopen(max_bytes=size - 1))


def test_expire_gives_up_what_the_caller_chooses(reopen: Callable[..., Outbox]) -> None:
    outbox = reopen()
    old, new = put(outbox, version=1), put(outbox, version=2)

    expired = outbox.expire("too old", lambda entry: entry.global_version < 2)

    assert [entry.sha256 for entry in expired] == [old.sha256]
    assert [entry.sha256 for entry in outbox.offers()] == [new.sha256]
    assert outbox.entry(old.sha256).reason == "too old"


def test_owner_can_drop_what_waits_but_not_what_has_left(reopen: Callable[..., Outbox]) -> None:
    outbox = reopen()
    first, second = put(outbox), put(outbox)
    outbox.hand_over(second.sha256)

    assert outbox.drop(first.sha256).reason == "dropped by its owner"
    with pytest.raises(UsageError, match="handed_over"):
        outbox.drop(second.sha256)
    assert states(reopen()) == ["expired", "handed_over"]


def test_prefix_must_name_one_package(reopen: Callable[..., Outbox]) -> None:
    outbox = reopen()
    entries = [put(outbox) for _ in range(17)]  # two of 17 hashes share their first digit
    shared = next(d for d in "0123456789abcdef" if sum(e.sha256[0] == d for e in entries) > 1)

    for prefix in ("", shared, "xyz"):
        with pytest.raises(UsageError, match="packages whose hash begins"):
            outbox.entry(prefix)


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_offers_expire_a_package_whose_file_is_damaged(
    reopen: Callable[..., Outbox], damage: str
) -> None:
    outbox = reopen()
    entry, sound = put(outbox), put(outbox)
    path = outbox.folder / f"{entry.sha256}.zip"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"x")

    with pytest.raises(FormatError, match="missing or damaged"):
        outbox.read(entry.sha256)
    assert [offer.sha256 for offer in outbox.offers()] == [sound.sha256]
    assert outbox.entry(entry.sha256).reason == "the package file is damaged"


def test_everything_survives_reopening(reopen: Callable[..., Outbox]) -> None:
    outbox = reopen()
    entries = [put(outbox, version=n) for n in range(4)]
    outbox.hand_over(entries[1].sha256)
    outbox.settle(entries[2].sha256, merged(entries[2], 7))
    outbox.settle(entries[3].sha256, refused(entries[3]))

    assert reopen().entries() == outbox.entries()


def test_kill_between_file_and_row_is_mended_by_taking_the_file_in(
    reopen: Callable[..., Outbox],
) -> None:
    folder = reopen().folder
    data, _ = new_package(version=5)
    sha256 = hashlib.sha256(data).hexdigest()
    (folder / f"{sha256}.zip").write_bytes(data)

    (entry,) = reopen().offers()

    assert (entry.sha256, entry.global_version, entry.state) == (sha256, 5, "waiting")


def test_package_that_could_not_be_written_has_no_row(reopen: Callable[..., Outbox]) -> None:
    outbox = reopen()
    data, manifest = new_package()
    (outbox.folder / f"{hashlib.sha256(data).hexdigest()}.zip").mkdir()

    with pytest.raises(OSError, match="directory"):
        outbox.put(data, manifest)

    assert outbox.entries() == []


def test_leftovers_that_are_no_package_are_removed(reopen: Callable[..., Outbox]) -> None:
    folder = reopen().folder
    data, _ = new_package()
    (folder / f"{'1' * 64}.zip").write_bytes(data)
    (folder / f"{'2' * 64}.zip").write_bytes(data[:-5])
    (folder / f".{'3' * 64}.zip.x1.tmp").write_bytes(data)
    (folder / f"{'4' * 64}.feedback").write_bytes(b"x")

    assert reopen().entries() == []
    assert {path.suffix for path in folder.iterdir()} <= {
        ".sqlite",
        ".sqlite-wal",
        ".lock",
        ".sqlite-shm",
    }


def test_kill_between_verdict_and_removal_is_mended(reopen: Callable[..., Outbox]) -> None:
    outbox = reopen()
    entry = put(outbox)
    path = outbox.folder / f"{entry.sha256}.zip"
    data = path.read_bytes()
    outbox.settle(entry.sha256, merged(entry))
    path.write_bytes(data)

    assert states(reopen()) == ["merged"]
    assert not path.exists()


def test_row_without_its_file_expires_on_opening(reopen: Callable[..., Outbox]) -> None:
    outbox = reopen()
    entry = put(outbox)
    (outbox.folder / f"{entry.sha256}.zip").unlink()

    assert reopen().entry(entry.sha256).reason == "the package file is missing"


def test_feedback_is_that_of_the_newest_package_still_of_use(
    reopen: Callable[..., Outbox],
) -> None:
    outbox = reopen()
    assert outbox.feedback_for_next() is None
    first, second, third = (put(outbox, feedback=text) for text in (b"one", b"two", b"three"))

    def feedback() -> bytes | None:
        path = outbox.feedback_for_next()
        return path.read_bytes() if path else None

    assert feedback() == b"three"
    outbox.settle(third.sha256, refused(third))
    assert feedback() == b"two"
    outbox.settle(first.sha256, merged(first))
    outbox.expire("old", lambda entry: entry.sha256 == second.sha256)
    assert feedback() == b"one"
    assert len(list(outbox.folder.glob("*.feedback"))) == 1
    assert put(outbox, feedback=None).state == "waiting"
    assert feedback() is None


def test_files_are_private(reopen: Callable[..., Outbox]) -> None:
    outbox = reopen()
    put(outbox, feedback=b"x")

    assert outbox.folder.stat().st_mode & 0o777 == 0o700
    for pattern in ("*.zip", "*.feedback", "outbox.sqlite*"):
        for path in outbox.folder.glob(pattern):
            assert path.stat().st_mode & 0o777 == 0o600, path.name


def test_two_openings_see_each_other(reopen: Callable[..., Outbox]) -> None:
    left, right = reopen(), reopen()
    entry = put(left)
    right.hand_over(entry.sha256)
    left.settle(entry.sha256, merged(entry))

    assert states(right) == ["merged"]


def test_damaged_database_is_a_plain_error(reopen: Callable[..., Outbox]) -> None:
    outbox = reopen()
    entry = put(outbox)
    outbox.close()
    for path in outbox.folder.glob("outbox.sqlite*"):
        path.unlink()
    (outbox.folder / "outbox.sqlite").write_bytes(b"not a database" * 100)

    with pytest.raises(AdapterError, match="cannot be opened"):
        reopen()
    (outbox.folder / "outbox.sqlite").unlink()
    assert [offer.sha256 for offer in reopen().offers()] == [entry.sha256]


def test_room_comes_from_the_node_config(tmp_path: Path) -> None:
    with open_outbox(NodeHome(tmp_path), NodeConfig(outbox_max_mb=3)) as outbox:
        assert outbox.max_bytes == 3 * 2**20
        assert outbox.folder == tmp_path / "outbox"


WRITER = """
import sys
from pathlib import Path
from client.outbox import Outbox
from federation.adapter.package import open_package

folder, packages = Path(sys.argv[1]), Path(sys.argv[2])
with Outbox(folder, max_bytes=10**9) as outbox:
    for path in sorted(packages.iterdir()):
        data = path.read_bytes()
        entry = outbox.put(data, open_package(data, max_bytes=10**9).manifest, feedback=b"f" * 999)
        print(entry.sha256, flush=True)
        outbox.hand_over(entry.sha256)
"""


def test_kill_9_while_writing_loses_no_package_that_was_reported_kept(
    reopen: Callable[..., Outbox], tmp_path: Path
) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    for seed in range(40):
        (packages / f"{seed:03}").write_bytes(new_package(seed)[0])
    command = [sys.executable, "-c", WRITER, str(tmp_path / "outbox"), str(packages)]
    reported: set[str] = set()
    for wanted in (2, 7):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(wanted):
                reported.add(writer.stdout.readline().strip())
            os.kill(writer.pid, signal.SIGKILL)
            reported |= {line.strip() for line in writer.stdout if len(line) == 65}
        outbox = reopen(10**9)
        offered = {entry.sha256 for entry in outbox.offers()}
        assert reported <= offered
        assert all(entry.state in ("waiting", "handed_over") for entry in outbox.entries())
        assert {path.stem for path in outbox.folder.glob("*.zip")} == offered
    assert len(reported) >= 7
