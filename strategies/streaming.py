"""A Flower Grid that yields replies one at a time, and asks again a node that was away.

Stock `send_and_receive` gathers every reply in a list before the strategy sees the first, so N
replies lie in memory at once; this one pulls single messages and polls with a bounded wait. And
where stock Flower gives up a node that missed two heartbeats, as one does whose way through Tor
broke, this one waits for it a while. It wraps any grid and imports none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

logger = logging.getLogger(__name__)


class GridLike(Protocol):
    """The part of Flower's Grid that is used here."""

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that are online."""

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str | None]:
        """Send; one id per message, None where it could not be sent."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
        """Fetch the replies that are there, without waiting."""


@dataclass(frozen=True)
class Timing:
    """Bounds of one round, in seconds, and the clock they are read from.

    Attributes:
        gather_s: wait for the quorum of nodes to be online.
        hello_s, collect_s, deploy_s: wait for the replies of each exchange.
        absence_s: in any of them, wait for a node that Flower takes for gone.
        poll_s: pause between looks.
        clock, sleep: time's edge.
    """

    gather_s: float = 60.0
    hello_s: float = 150.0
    collect_s: float = 3600.0
    deploy_s: float = 600.0
    absence_s: float = 90.0
    poll_s: float = 1.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Messages:
    """What a grid has to know of messages.

    Attributes:
        is_absence: whether a reply is the SuperLink's word that the node, or its reply, is gone.
        again: the same message as a new one.
    """

    is_absence: Callable[[Any], bool]
    again: Callable[[Any], Any]


@dataclass(frozen=True)
class _Absent:
    message: Any
    until: float


class StreamingGrid:
    """Wraps `grid`; only `send_and_receive` differs.

    Args:
        grid: Flower's grid.
        messages: how to read and repeat messages.
        timing: pauses, and how long a node is waited for that Flower takes for gone.
    """

    def __init__(self, grid: GridLike, messages: Messages, timing: Timing) -> None:
        self._grid = grid
        self._messages = messages
        self._poll_s, self._absence_s = timing.poll_s, timing.absence_s
        self._clock, self._sleep = timing.clock, timing.sleep

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the wrapped grid offers
        return getattr(self._grid, name)

    def send_and_receive(
        self, messages: Iterable[Any], *, timeout: float | None = None
    ) -> Iterator[Any]:
        """Send all, then yield each reply as it comes until all came or `timeout` seconds passed.

        Messages are sent one by one: a payload shared by all is stored once by the SuperLink. A
        node that stays away yields nothing.
        """
        pending: dict[str, Any] = {}
        for message in messages:
            self._send(message, pending)
        return self._replies(pending, timeout)

    def _send(self, message: Any, pending: dict[str, Any]) -> None:  # noqa: ANN401 - Flower's
        for message_id in self._grid.push_messages([message]):
            if message_id is not None:
                pending[message_id] = message

    def _replies(self, pending: dict[str, Any], timeout: float | None) -> Iterator[Any]:
        deadline = None if timeout is None else self._clock() + timeout
        absent: list[_Absent] = []
        while pending or absent:
            before = len(pending)
            for message_id in sorted(pending):
                for reply in self._grid.pull_messages([message_id]):
                    message = pending.pop(reply.metadata.reply_to_message_id, None)
                    if message is not None and self._messages.is_absence(reply):
                        logger.info("node %s is away", message.metadata.dst_node_id)
                        absent.append(_Absent(message, self._clock() + self._absence_s))
                    else:
                        yield reply
                    del reply  # or it would stay in memory until the next one is there
            absent = self._ask_again(absent, pending)
            if not (pending or absent) or (deadline is not None and self._clock() >= deadline):
                return
            if len(pending) >= before:
                self._sleep(self._poll_s)

    def _ask_again(self, absent: list[_Absent], pending: dict[str, Any]) -> list[_Absent]:
        """Ask those who are back; returns who is still waited for."""
        if not absent:
            return []
        online = set(self._grid.get_node_ids())
        still = []
        for each in absent:
            if each.message.metadata.dst_node_id in online:
                self._send(self._messages.again(each.message), pending)
            elif self._clock() < each.until:
                still.append(each)
        return still
