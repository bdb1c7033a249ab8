"""What a child process prints: the last lines in memory, all of it in a private, rotated file.

Every line is redacted before it reaches either.
"""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from federation import durable
from federation.redaction import redact

MAX_BYTES = 2_000_000
KEPT_FILES = 2
TAIL_LINES = 200
LINE_BYTES = 16_384
_COLOURS = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


class ProcessLog:
    """Reads one run of one child in a thread of its own.

    Args:
        path: log file, appended to, mode 0600; older ones are `<path>.1`, `<path>.2`.
        max_bytes: size at which the file is put aside.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._lines: deque[str] = deque(maxlen=TAIL_LINES)
        self._thread: threading.Thread | None = None
        durable.make_folder(path.parent)

    def follow(self, stream: IO[bytes]) -> None:
        """Read `stream` to its end in the background, then close it."""
        self._thread = threading.Thread(
            target=self._pump, args=(stream,), name=f"log-{self._path.stem}", daemon=True
        )
        self._thread.start()

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines printed in this run, without colour codes."""
        return "\n".join(list(self._lines)[-lines:])

    def finish(self, timeout_s: float = 1.0) -> None:
        """Wait until everything that was printed has been read (bounded)."""
        if self._thread is not None:
            self._thread.join(timeout=timeout_s)

    def _pump(self, stream: IO[bytes]) -> None:
        # Straight to the file, not through `durable`: a log line needs no fsync.
        handle = self._open()
        try:
            with stream:
                for raw in _lines(stream):
                    plain = _COLOURS.sub(b"", raw)
                    text = plain.decode("utf-8", "replace")
                    clean = redact(text)
                    self._lines.append(clean.rstrip())
                    os.write(handle, plain if clean == text else clean.encode())
                    if os.fstat(handle).st_size > self._max_bytes:
                        os.close(handle)
                        self._put_aside()
                        handle = self._open()
        finally:
            os.close(handle)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return os.open(self._path, flags, durable.PRIVATE_FILE)

    def _put_aside(self) -> None:
        for number in range(KEPT_FILES, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            newer = (
                self._path
                if number == 1
                else self._path.with_name(f"{self._path.name}.{number - 1}")
            )
            if newer.exists():
                newer.replace(older)


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Read lines; over-long ones come in pieces cut between words, so that no secret is halved."""
    rest = b""
    while read := stream.readline(LINE_BYTES - len(rest)):
        line, rest = rest + read, b""
        if len(line) >= LINE_BYTES and (cut := line.rfind(b" ", LINE_BYTES // 2) + 1):
            line, rest = line[:cut], line[cut:]
        yield line
    if rest:
        yield rest
