"""The parts of supervision that need no process: backoff, log files, children's names."""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.process_log import KEPT_FILES, ProcessLog
from federation.processes import Child, RestartPolicy, Supervisor, free_port, is_listening


def write_through(log: ProcessLog, data: bytes) -> None:
    """Send `data` through a pipe, as a child would."""
    reader, writer = os.pipe()
    log.follow(os.fdopen(reader, "rb"))
    with os.fdopen(writer, "wb") as stream:
        stream.write(data)
    log.finish(10)


@given(failures=st.integers(1, 10_000), seed=st.integers(0, 100))
def test_the_delay_doubles_up_to_a_bound_with_jitter_downwards(failures: int, seed: int) -> None:
    policy = RestartPolicy(first_s=1.0, longest_s=60.0)
    delay = policy.delay(failures, random.Random(seed))
    full = min(60.0, 2.0 ** min(failures - 1, 30))
    assert full / 2 <= delay <= full


def test_two_children_of_one_name_are_refused(tmp_path: Path) -> None:
    child = Child("twin", ["true"], {}, tmp_path / "log")
    with pytest.raises(ValueError, match="same name"):
        Supervisor([child, child])


def test_a_log_file_is_private_and_without_colour_codes(tmp_path: Path) -> None:
    log = ProcessLog(tmp_path / "logs" / "child.log")
    write_through(log, b"\x1b[92mINFO \x1b[0m: hola\xff\nsecond\n")
    assert log.tail() == "INFO : hola�\nsecond"
    assert (tmp_path / "logs" / "child.log").read_bytes() == b"INFO : hola\xff\nsecond\n"
    assert stat.S_IMODE((tmp_path / "logs" / "child.log").stat().st_mode) == 0o600


def test_log_files_rotate_by_size_and_old_ones_go(tmp_path: Path) -> None:
    log = ProcessLog(tmp_path / "logs" / "child.log", max_bytes=100)
    write_through(log, b"".join(b"%04d %s\n" % (n, b"x" * 40) for n in range(40)))
    names = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert names == ["child.log", *(f"child.log.{n}" for n in range(1, KEPT_FILES + 1))]
    assert all(path.stat().st_size <= 200 for path in (tmp_path / "logs").iterdir())
    assert log.tail(1).startswith("0039")


def test_a_line_without_end_does_not_fill_memory(tmp_path: Path) -> None:
    log = ProcessLog(tmp_path / "child.log")
    write_through(log, b"y" * 100_000)
    assert max(len(line) for line in log.tail().splitlines()) <= 16_384


@pytest.mark.security
def test_h24_what_a_child_prints_is_clean_in_memory_and_on_disk(tmp_path: Path) -> None:
    onion, token = "a" * 56 + ".onion", "0123456789abcdef" * 4
    log = ProcessLog(tmp_path / "child.log")
    padding = "word " * 3_270
    lines = [f"to {onion}:443", f"{padding}{onion} was cut by a long line", f"\x1b[1mtoken={token}"]
    write_through(log, "\n".join(lines).encode())
    written = (tmp_path / "child.log").read_text()
    for text in (log.tail(), written):
        assert "aaaa" not in text
        assert token not in text
        assert text.count("[onion]") == 2


def test_a_free_port_has_no_listener() -> None:
    assert not is_listening(free_port())
