"""Carries bytes between two streams until one of them ends; holds little of them back."""

from __future__ import annotations

import asyncio
import socket
import struct
from asyncio import StreamReader, StreamWriter
from contextlib import suppress

CHUNK_BYTES = 32 * 1024
LINGER_S = 20.0
Stream = tuple[StreamReader, StreamWriter]


async def relay(near: Stream, far: Stream, answer_by: float) -> bool:
    """Carry both ways; `far` is ended here, `near` is left to the caller.

    Tor knows no half-open streams: an end of sending would end the answer too. So the near side's
    is kept from it, for `LINGER_S`.

    Args:
        near: who connected to this machine.
        far: the server's end.
        answer_by: time of the loop by which `far` must have sent something.

    Returns:
        Whether it did.
    """
    up = asyncio.create_task(_pump(near[0], far[1]))
    down = asyncio.create_task(_pump(far[0], near[1], answer_by))
    try:
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({down}, timeout=LINGER_S)
        return down.done() and down.result()
    finally:
        far[1].transport.abort()  # before anything that may be cancelled
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)


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


async def _pump(source: StreamReader, sink: StreamWriter, first_by: float | None = None) -> bool:
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
            sink.write(data)
            await sink.drain()
    return some
