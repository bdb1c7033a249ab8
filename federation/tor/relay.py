"""Carries bytes between two streams until one of them ends; holds little of them back."""

from __future__ import annotations

import asyncio
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from contextlib import suppress

CHUNK_BYTES = 32 * 1024
LINGER_S = 20.0
SLOWEST_BYTES_PER_S = 25 * 1024
Stream = tuple[StreamReader, StreamWriter]


class StalledError(Exception):
    """What was sent found no answer: the way is dead, though nothing said so."""


async def relay(near: Stream, far: Stream, answer_by: float, stall_s: float) -> bool:
    """Carry both ways; `far` is ended here, `near` is left to the caller.

    Tor knows no half-open streams: an end of sending would end the answer too. So the near side's
    is kept from it, for `LINGER_S`.

    Args:
        near: who connected to this machine.
        far: the server's end.
        answer_by: time of the loop by which `far` must have sent something.
        stall_s: how long what was sent may stay without an answer, beside the time it travels.

    Returns:
        Whether it did.

    Raises:
        StalledError: it did once, and then left something without an answer.
    """
    silence = _Silence(stall_s)
    up = asyncio.create_task(_pump(near[0], far[1], silence.sent))
    down = asyncio.create_task(_pump(far[0], near[1], silence.heard, answer_by))
    stalled = asyncio.create_task(silence.reached.wait())
    try:
        await asyncio.wait({up, down, stalled}, return_when=asyncio.FIRST_COMPLETED)
        if stalled.done() and not up.done():
            raise StalledError
        await asyncio.wait({down}, timeout=LINGER_S)
        return down.done() and down.result()
    finally:
        far[1].transport.abort()  # before anything that may be cancelled
        silence.heard(0)
        for task in (up, down, stalled):
            task.cancel()
        await asyncio.gather(up, down, stalled, return_exceptions=True)


async def finish(near: Stream) -> None:
    """Let the near side read all that was sent to it, and wait until it leaves.

    What it still sends is thrown away: unread, it would turn the end into a reset.
    """
    with suppress(OSError):
        near[1].write_eof()
        async with asyncio.timeout(LINGER_S):
            while await near[0].read(CHUNK_BYTES):
                pass


def reset(writer: StreamWriter) -> None:
    """End a connection at once, in the way of one that broke."""
    with suppress(OSError):
        no_time = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_time)
    writer.transport.abort()


class _Silence:
    """Notices that what was sent stays without an answer."""

    def __init__(self, stall_s: float) -> None:
        self.reached = asyncio.Event()
        self._stall_s = stall_s
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def sent(self, count: int) -> None:
        """So many bytes left; tor may hold them back for as long as they take to travel."""
        waiting = self._waiting_bytes + count
        self.heard(0)
        self._waiting_bytes = waiting
        after_s = self._stall_s + waiting / SLOWEST_BYTES_PER_S
        self._timer = asyncio.get_running_loop().call_later(after_s, self.reached.set)

    def heard(self, _count: int) -> None:
        """Something came back."""
        self._waiting_bytes = 0
        if self._timer is not None:
            self._timer.cancel()


async def _pump(
    source: StreamReader,
    sink: StreamWriter,
    note: Callable[[int], None],
    first_by: float | None = None,
) -> bool:
    """Carry until either end fails; returns whether there was anything to carry."""
    sink.transport.set_write_buffer_limits(high=0)  # nothing is read that was not yet sent on
    some = False
    with suppress(OSError):
        while True:
            async with asyncio.timeout_at(None if some else first_by):
                data = await source.read(CHUNK_BYTES)
            if not data:
                break
            some = True
            note(len(data))
            sink.write(data)
            await sink.drain()
    return some
