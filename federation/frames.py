"""Frames between a process and the child it started: one JSON object, and bytes beside it."""

from __future__ import annotations

import json
import struct
from typing import IO, Any

from federation.errors import ProcessError

_HEAD = struct.Struct("<IQ")
MAX_JSON_BYTES, MAX_BLOB_BYTES = 2**30, 2**36


def write_frame(stream: IO[bytes], content: dict[str, Any], blob: bytes = b"") -> None:
    """Write one frame and flush it."""
    text = json.dumps(content, ensure_ascii=False).encode("utf-8")
    stream.write(_HEAD.pack(len(text), len(blob)))
    stream.write(text)
    stream.write(blob)
    stream.flush()


def read_frame(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """Read one frame; None where the stream ends before one begins.

    Raises:
        ProcessError: it ends in the middle of one, or these are no frames.
    """
    head = stream.read(_HEAD.size)
    if not head:
        return None
    try:
        text_size, blob_size = _HEAD.unpack(head)
        content = json.loads(_exactly(stream, text_size, MAX_JSON_BYTES))
        blob = _exactly(stream, blob_size, MAX_BLOB_BYTES)
    except (struct.error, ValueError) as err:
        raise ProcessError(f"what the other process says cannot be read: {err}") from err
    return content, blob


def _exactly(stream: IO[bytes], size: int, most: int) -> bytes:
    if size > most:
        raise ValueError(f"{size} bytes, more than {most}")
    data = stream.read(size)
    if len(data) != size:
        raise ValueError("it was cut short")
    return data
