"""Answers are made in threads, so many at once and so many waiting; any can be stopped."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from rag.answer.events import Event

logger = logging.getLogger(__name__)

AT_ONCE = 2
WAITING = 6
Make = Callable[[Callable[[], bool]], Iterator[Event]]
"""Makes an answer, given a function that says whether it was stopped."""


class FullError(Exception):
    """As many wait as may."""


class Job:
    """One answer in the making; `position` is how many it waits for."""

    def __init__(self, message_id: str, position: int) -> None:
        self.message_id, self.position = message_id, position
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ask it to end after its next token."""
        self._stop.set()

    def is_stopped(self) -> bool:
        """Whether it was asked to end."""
        return self._stop.is_set()


class Desk:
    """Takes in questions; used from one event loop.

    Args:
        at_once: answers made side by side.
        waiting: questions that may wait beside them.
    """

    def __init__(self, at_once: int = AT_ONCE, waiting: int = WAITING) -> None:
        self._at_once, self._most = at_once, at_once + waiting
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="answer")
        self._jobs: dict[str, Job] = {}

    @property
    def queue(self) -> dict[str, int]:
        """How many are being answered, and how many wait."""
        running = min(len(self._jobs), self._at_once)
        return {"running": running, "waiting": len(self._jobs) - running}

    def take(self, message_id: str) -> Job:
        """A place for one answer; `run` must follow at once.

        Raises:
            FullError: there is none.
        """
        if len(self._jobs) >= self._most:
            raise FullError
        job = Job(message_id, max(0, len(self._jobs) + 1 - self._at_once))
        self._jobs[message_id] = job
        return job

    async def run(self, job: Job, make: Make) -> AsyncIterator[Event]:
        """The answer's events as they come; whoever stops listening stops the answer.

        Raises:
            Exception: what making it raised.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event | Exception | None] = asyncio.Queue()

        def tell(event: Event | Exception | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        future = loop.run_in_executor(self._threads, _work, job, make, tell)
        future.add_done_callback(lambda _done: self._jobs.pop(job.message_id, None))
        try:
            while (event := await events.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            job.stop()

    def stop(self, message_id: str) -> bool:
        """Stop an answer; whether there was one of that id."""
        job = self._jobs.get(message_id)
        if job is not None:
            job.stop()
        return job is not None

    def close(self) -> None:
        """Stop everything, and wait for it."""
        for job in self._jobs.values():
            job.stop()
        self._threads.shutdown(wait=True, cancel_futures=True)


def _work(job: Job, make: Make, tell: Callable[[Event | Exception | None], None]) -> None:
    try:
        if not job.is_stopped():
            for event in make(job.is_stopped):
                tell(event)
    except Exception as err:
        logger.exception("an answer failed")  # whatever it was, the listener must hear of it
        tell(err)
    finally:
        tell(None)
