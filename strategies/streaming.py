"""A Flower Grid that yields replies one at a time, so that N replies never lie in memory at once.

Stock `send_and_receive` gathers every reply in a list before the strategy sees the first; this one
pulls single messages and polls with a bounded wait. It wraps any grid and imports none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol


class GridLike(Protocol):
    """The part of Flower's Grid that is used here."""

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str | None]:
        """Send; one id per message, None where it could not be sent."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
        """Fetch the replies that are there, without waiting."""


class StreamingGrid:
    """Wraps `grid`; only `send_and_receive` differs.

    Args:
        grid: Flower's grid.
        poll_s: pause between two looks at all outstanding replies, in seconds.
        clock, sleep: time's edge, in seconds.
    """

    def __init__(
        self,
        grid: GridLike,
        *,
        poll_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._grid = grid
        self._poll_s = poll_s
        self._clock = clock
        self._sleep = sleep

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the wrapped grid offers
        return getattr(self._grid, name)

    def send_and_receive(
        self, messages: Iterable[Any], *, timeout: float | None = None
    ) -> Iterator[Any]:
        """Send all, then yield each reply as it comes until all came or `timeout` seconds passed.

        Messages are sent one by one: a payload shared by all is stored once by the SuperLink.
        """
        pending: set[str] = set()
        for message in messages:
            pending.update(i for i in self._grid.push_messages([message]) if i is not None)
        return self._replies(pending, timeout)

    def _replies(self, pending: set[str], timeout: float | None) -> Iterator[Any]:
        deadline = None if timeout is None else self._clock() + timeout
        while pending:
            before = len(pending)
            for message_id in sorted(pending):
                for reply in self._grid.pull_messages([message_id]):
                    pending.discard(reply.metadata.reply_to_message_id)
                    yield reply
                    del reply  # or it would stay in memory until the next one is there
            if not pending or (deadline is not None and self._clock() >= deadline):
                return
            if len(pending) == before:
                self._sleep(self._poll_s)
