"""Atomic writes, durable appends and locks: the only way files of ours are written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from federation.errors import ConscienceError

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


def write_bytes(path: Path, data: bytes | memoryview, *, mode: int = PRIVATE_FILE) -> None:
    """Replace `path` by `data`, all or nothing, surviving a power cut.

    Args:
        path: target; its folder is made if missing.
        data: whole new content.
        mode: permission bits of the new file.
    """
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str, *, mode: int = PRIVATE_FILE) -> None:
    """Replace `path` by UTF-8 `text`, all or nothing."""
    write_bytes(path, text.encode("utf-8"), mode=mode)


def append_line(path: Path, line: str) -> None:
    """Append one UTF-8 line and its newline in a single durable write.

    Args:
        path: target file, made private if missing; its folder likewise.
        line: text without a newline.

    Raises:
        ValueError: `line` holds a newline.
    """
    if "\n" in line:
        raise ValueError("a line must not hold a newline")
    make_folder(path.parent)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    handle = os.open(path, flags, PRIVATE_FILE)
    try:
        os.write(handle, line.encode("utf-8") + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> Path:
    """Make `path` and its parents; folders made here are private. Returns `path`."""
    if not path.is_dir():
        make_folder(path.parent)  # mkdir itself would make parents that everybody may read
        path.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    return path


def sync_folder(path: Path) -> None:
    """Make renames inside `path` durable (a no-op where folders cannot be synced)."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path, *, timeout_s: float = 10.0, busy: str = "") -> Iterator[None]:
    """Hold the lock file `path` for the length of the block.

    Raises:
        ConscienceError: another process holds it for longer than `timeout_s`.
    """
    make_folder(path.parent)
    lock = FileLock(path, mode=PRIVATE_FILE)
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout as err:
        raise ConscienceError(
            busy or f"{path.name} is held by another process",
            hint="Wait until the other command has finished, then try again.",
        ) from err
    try:
        yield
    finally:
        lock.release()
