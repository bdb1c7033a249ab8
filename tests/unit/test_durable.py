"""Files are replaced whole or not at all, are private, and locks say who waits for what."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from federation import durable
from federation.errors import ConscienceError

POSIX = pytest.mark.skipif(os.name == "nt", reason="permission bits are POSIX")


def mode_of(path: Path) -> int:
    """Return the permission bits of `path`."""
    return stat.S_IMODE(path.stat().st_mode)


def test_writing_replaces_the_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "a" / "file"
    durable.write_text(path, "a longer first content")
    durable.write_text(path, "añil")
    assert path.read_bytes() == "añil".encode()


def test_writing_leaves_no_temporary_file(tmp_path: Path) -> None:
    durable.write_bytes(tmp_path / "file", b"x")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["file"]


def test_a_failed_write_keeps_the_old_content_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "inside").touch()
    with pytest.raises(OSError, match="folder"):
        durable.write_bytes(target, b"a file cannot replace a full folder")
    assert (target / "inside").exists()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


@POSIX
def test_new_files_and_folders_are_private(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        durable.write_text(tmp_path / "new" / "file", "x")
        durable.append_line(tmp_path / "new" / "log", "x")
        durable.make_folder(tmp_path / "new" / "in" / "deep")
    finally:
        os.umask(previous)
    for folder in ("new", "new/in", "new/in/deep"):
        assert mode_of(tmp_path / folder) == 0o700
    assert mode_of(tmp_path / "new" / "file") == 0o600
    assert mode_of(tmp_path / "new" / "log") == 0o600


@POSIX
def test_a_public_file_can_be_asked_for(tmp_path: Path) -> None:
    durable.write_text(tmp_path / "file", "x", mode=0o644)
    assert mode_of(tmp_path / "file") == 0o644


def test_appending_adds_one_line_each_time(tmp_path: Path) -> None:
    path = tmp_path / "log"
    durable.append_line(path, "uno")
    durable.append_line(path, "dos ñ")
    assert path.read_text(encoding="utf-8") == "uno\ndos ñ\n"


def test_a_line_with_a_newline_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="newline"):
        durable.append_line(tmp_path / "log", "one\ntwo")
    assert not (tmp_path / "log").exists()


def test_lines_of_many_writers_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "log"

    def write(letter: str) -> None:
        for _ in range(10):
            durable.append_line(path, letter * 2000)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert sorted(lines) == sorted(letter * 2000 for letter in "abcd" for _ in range(10))


def test_a_held_lock_is_refused_in_the_callers_words(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    with (
        durable.locked(lock),
        pytest.raises(ConscienceError, match="a training is running"),
        durable.locked(lock, timeout_s=0, busy="a training is running"),
    ):
        pytest.fail("the second lock was given")


def test_a_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    with pytest.raises(RuntimeError), durable.locked(lock):
        raise RuntimeError
    with durable.locked(lock, timeout_s=0):
        pass
