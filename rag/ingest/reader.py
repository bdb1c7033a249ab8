"""The parent's end of `reading`: one long-lived child, a new one where it hung or crashed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from federation.errors import FormatError
from federation.language import _, language
from rag.ingest.entries import Entry, FeedContent

DEADLINE_S = 20.0  # CPU time for one feed of 5 MB; 60,000 items in 6.6 MB took 9.5
PATIENCE = 6.0  # times as much by the clock, for a busy machine; then the child is ended from here
# glibc gives what one feed took back to the system and asks for it again with the next
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "268435456", "MALLOC_MMAP_THRESHOLD_": "268435456"}
LOOK_S = 1.0  # between two looks at the clock
PASSED_ON = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "TMPDIR", "TEMP")


class Reader:
    """Reads feeds and files in a child process. A context manager; one job at a time.

    Args:
        deadline_s: CPU time for each job; more, and its child is ended.
    """

    def __init__(self, *, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._due = math.inf  # when the job in progress has taken too long, by the monotonic clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._end()

    def feed(
        self, body: bytes, *, url: str, content_type: str = "", tag: str = "", max_items: int = 500
    ) -> FeedContent:
        """Read a feed; arguments and errors as `rag.ingest.parse.parse_feed`.

        Raises:
            FormatError: no entry came out, or it took too long or too much.
        """
        job = {"url": url, "content_type": content_type, "tag": tag, "max_items": max_items}
        answer = self._ask({"kind": "feed", **job}, body)
        return FeedContent(
            answer["title"], _entries(answer), answer["warning"], float(answer["ttl_s"])
        )

    def file(self, body: bytes, name: str) -> tuple[Entry, ...]:
        """Read a file; errors as `rag.ingest.files.read_file`."""
        return _entries(self._ask({"kind": "file", "name": name}, body))

    def _ask(self, job: dict[str, Any], body: bytes) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat()
        common = {"size": len(body), "deadline_s": self._deadline_s, "now": now}
        line = json.dumps({**job, **common, "language": language()}).encode("ascii") + b"\n"
        with self._lock:
            answer = self._exchange(self._start(job["kind"]), line + body)
        if "error" in answer:
            raise FormatError(str(answer["error"]), hint=str(answer["hint"]))
        return answer

    def _exchange(self, child: subprocess.Popen[bytes], message: bytes) -> dict[str, Any]:
        assert child.stdin is not None  # noqa: S101 - both are pipes
        assert child.stdout is not None  # noqa: S101
        self._due = time.monotonic() + self._deadline_s * PATIENCE
        try:
            child.stdin.write(message)
            child.stdin.flush()
            line = child.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            self._due = math.inf
        if not line.endswith(b"\n"):
            self._end()
            raise FormatError(_("reading it took too long, or broke the reader"))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _watch(self, child: subprocess.Popen[bytes], ended: threading.Event) -> None:
        """End a child that takes too long: one thread for all its jobs, a timer each costs more."""
        while not ended.wait(LOOK_S):
            if time.monotonic() > self._due:
                child.kill()

    def _start(self, kind: str) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._end()
            root = str(Path(__file__).resolve().parents[2])
            kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
            environment = kept | {
                "PYTHONPATH": root,
                "PYTHONUTF8": "1",
                **KEEP_MEMORY,
                "OPENBLAS_NUM_THREADS": "1",
            }
            self._child = subprocess.Popen(  # noqa: S603 - "feed" or "file"
                [sys.executable, "-P", "-m", "rag.ingest.reading", kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
            self._ended = threading.Event()
            watch = (self._child, self._ended)
            threading.Thread(target=self._watch, args=watch, daemon=True).start()
        return self._child

    def _end(self) -> None:
        self._ended.set()
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        child.wait()


def _entries(answer: dict[str, Any]) -> tuple[Entry, ...]:
    return tuple(map(Entry._make, answer["entries"]))
