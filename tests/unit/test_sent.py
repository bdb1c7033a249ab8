"""The ledger of what left this machine: appended by several processes, never lost, never wrong."""

from __future__ import annotations

import stat
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client import sent

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)


def test_lines_come_back_as_they_were_noted_and_the_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "sent.jsonl"
    assert sent.read(path) == []
    sent.note(path, "package", 1088, at=MOMENT, sha256="ab" * 32, size_bytes=1025)
    sent.note(path, "requests", 700, at=MOMENT)
    assert sent.read(path) == [
        sent.Sent("2026-01-02T03:04:05+00:00", "package", 1088, 1, "ab" * 32, 1025),
        sent.Sent("2026-01-02T03:04:05+00:00", "requests", 700),
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_line_that_is_damaged_or_of_a_later_version_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "sent.jsonl"
    sent.note(path, "requests", 700)
    with path.open("a") as file:
        file.write('{"at": "2026-01-02", "kind": "smoke", "wire_bytes": 1}\n')
        file.write('{"at": "whenever", "kind": "package", "wire_bytes": 1}\n{"at": "2026-0')
    assert [entry.wire_bytes for entry in sent.read(path)] == [700]


def test_a_meter_writes_one_line_for_many_requests_of_many_threads(tmp_path: Path) -> None:
    now = [0.0]
    meter = sent.Meter(tmp_path / "sent.jsonl", every_s=60.0, clock=lambda: now[0])
    threads = [
        threading.Thread(target=lambda: [meter.add(10) for _ in range(100)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sent.read(tmp_path / "sent.jsonl") == []
    now[0] = 61.0
    meter.add(10)
    meter.flush()
    lines = sent.read(tmp_path / "sent.jsonl")
    assert [(entry.kind, entry.count, entry.wire_bytes) for entry in lines] == [
        ("requests", 401, 4010)
    ]


def test_what_could_not_be_written_is_counted_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "sent.jsonl"
    path.mkdir()
    meter = sent.Meter(path)
    meter.add(10)
    meter.flush()
    assert "sent.jsonl cannot be written" in caplog.text
    path.rmdir()
    meter.flush()
    assert [entry.wire_bytes for entry in sent.read(path)] == [10]
