"""A process that plays nodes (`client.virtual`), with a base model of its own and one thread.

The server's room does not know the node's: they meet over pipes here, as they do over the net.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from federation.errors import ProcessError, error_from
from federation.flower_env import flower_environment
from federation.frames import read_frame, write_frame

PROGRAM = ("-P", "-m", "client.virtual")
STOP_S = 10.0
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
Asking = tuple[str, bytes, Mapping[str, Any]]  # what, an adapter, values for JSON
Answer = tuple[dict[str, Any], bytes]


class Worker:
    """One process; asked one thing at a time."""

    def __init__(self) -> None:
        environment = flower_environment(os.environ, Path(os.devnull), extra=ONE_THREAD)
        self._process = subprocess.Popen(  # noqa: S603 (our own module)
            [sys.executable, *PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def ask(self, what: str, blob: bytes = b"", **values: Any) -> Answer:  # noqa: ANN401 - JSON
        """Ask for one thing and wait for the answer.

        Raises:
            ConscienceError: it could not be done; the process is ready for the next.
            ProcessError: the process ended.
        """
        asking, answering = self._process.stdin, self._process.stdout
        if asking is None or answering is None:
            raise ProcessError("the worker has no pipes")
        try:
            write_frame(asking, {"do": what, **values}, blob)
            frame = read_frame(answering)
        except (OSError, ValueError) as err:  # ValueError: the pipe was closed here
            raise ProcessError(f"a worker ended in the middle of its work: {err}") from err
        if frame is None:
            raise ProcessError("a worker ended in the middle of its work (out of memory?)")
        content, found = frame
        if "error" in content:
            raise error_from(content)
        return content, found

    def each(self, tasks: Sequence[Asking]) -> list[Answer]:
        """Ask for one thing after another."""
        return [self.ask(what, blob, **values) for what, blob, values in tasks]

    def stop(self) -> None:
        """End the process: it stops when its stdin ends, or is killed."""
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
