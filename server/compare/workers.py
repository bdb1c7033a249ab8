"""Processes that play nodes (`client.virtual`), each with its own base model, one thread each.

The server's room does not know the node's: they meet over pipes here, as they do over the net.
Which worker does what changes no result.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Protocol

from federation.errors import ConscienceError, ProcessError
from federation.flower_env import flower_environment
from federation.frames import read_frame, write_frame

PROGRAM = ("-P", "-m", "client.virtual")
STOP_S = 10.0
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
Answer = tuple[dict[str, Any], bytes]


class Players(Protocol):
    """Whoever plays the nodes of a comparison: a `Pool`, or Flower's simulation."""

    @property
    def opened(self) -> Mapping[str, Any]:
        """What one of them said when it was opened; all would say the same."""
        ...

    def everyone(self, what: str, blob: bytes = b"", **values: Any) -> Sequence[Answer]:  # noqa: ANN401 - JSON
        """Ask all the same."""
        ...

    def each(self, tasks: Iterable[tuple[str, bytes, Mapping[str, Any]]]) -> Iterator[Answer]:
        """Do tasks, each by whoever is free; answers in the order of the tasks."""
        ...


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
            raise ConscienceError(content["error"], hint=content["hint"])
        return content, found

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


class Pool:
    """Some workers, and threads that keep them busy; a context manager.

    Args:
        count: at least 1.
        opening: what each is opened with: model, search, rank, alpha, data.
    """

    def __init__(self, count: int, opening: Mapping[str, Any]) -> None:
        self._workers = [Worker() for _ in range(count)]
        self._free: SimpleQueue[Worker] = SimpleQueue()
        self._threads = ThreadPoolExecutor(count)
        try:
            self.opened: Mapping[str, Any] = self.everyone("open", **opening)[0][0]
        except BaseException:
            self.close()
            raise
        for worker in self._workers:
            self._free.put(worker)

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def everyone(self, what: str, blob: bytes = b"", **values: Any) -> list[Answer]:  # noqa: ANN401
        """Ask all workers the same; none may be busy."""
        asked = [self._threads.submit(each.ask, what, blob, **values) for each in self._workers]
        return [each.result() for each in asked]

    def each(self, tasks: Iterable[tuple[str, bytes, Mapping[str, Any]]]) -> Iterator[Answer]:
        """Do tasks side by side; answers in the order of the tasks."""
        return self._threads.map(self._one, tasks)

    def close(self) -> None:
        """Stop all."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._workers:
            worker.stop()

    def _one(self, task: tuple[str, bytes, Mapping[str, Any]]) -> Answer:
        what, blob, values = task
        worker = self._free.get()
        try:
            return worker.ask(what, blob, **values)
        finally:
            self._free.put(worker)
