"""Bodies and blobs in and out of Flower messages (flwr door, with `adapter_fedavg`).

Records are looked up by key, never through `array_records` and its like: those views refer to
themselves, so a reply once looked at through one stays in memory until Python collects garbage.
"""

from __future__ import annotations

from typing import TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode

from federation import protocol
from federation.errors import FormatError
from federation.protocol import Body

B = TypeVar("B", bound=Body)
ABSENCES = (
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    ErrorCode.NODE_UNAVAILABLE,
)


def compose(
    body: Body, *, node_id: int, kind: str, ttl_s: float, blob: ArrayRecord | None = None
) -> Message:
    """A message of type `kind` to `node_id` that lives for `ttl_s` seconds."""
    content = RecordDict(
        {protocol.BODY_KEY: ConfigRecord({protocol.BODY_KEY: body.model_dump_json()})}
    )
    if blob is not None:
        content[protocol.BLOB_KEY] = blob
    return Message(content, dst_node_id=node_id, message_type=kind, ttl=ttl_s)


def blob_record(data: bytes) -> ArrayRecord:
    """One array of raw bytes; not `np.save`, which would copy them twice."""
    array = Array(dtype="uint8", shape=(len(data),), stype=protocol.BLOB_KIND, data=data)
    return ArrayRecord({protocol.BLOB_KEY: array})


def with_base(record: ArrayRecord, rows: bytes) -> ArrayRecord:
    """The same array, and beside it rows of a base delta."""
    array = Array(dtype="uint8", shape=(len(rows),), stype=protocol.BLOB_KIND, data=rows)
    return ArrayRecord({protocol.BLOB_KEY: record[protocol.BLOB_KEY], protocol.BASE_KEY: array})


def blob_of(message: Message) -> bytes | None:
    """The blob that rides along, or None."""
    record = message.content.get(protocol.BLOB_KEY)
    array = record.get(protocol.BLOB_KEY) if isinstance(record, ArrayRecord) else None
    if array is None or array.stype != protocol.BLOB_KIND:
        return None
    return bytes(array.data)


def body_of(message: Message, kind: type[B]) -> B:
    """The body, which must be of `kind`.

    Raises:
        FormatError: there is none, or it is another.
    """
    record = message.content.get(protocol.BODY_KEY)
    text = record.get(protocol.BODY_KEY) if isinstance(record, ConfigRecord) else None
    if not isinstance(text, str):
        raise FormatError("the reply holds no body")
    return protocol.parse(kind, text)


def error_of(message: Message) -> str:
    """Why an error reply is one."""
    return str(message.error.reason or f"error {message.error.code}")


def is_absence(reply: Message) -> bool:
    """Whether the SuperLink answered in a node's place: the node, or what it sent, is gone."""
    return bool(reply.has_error() and reply.error.code in ABSENCES)


def again(message: Message) -> Message:
    """The same to the same node, as a message of its own: Flower takes no message twice."""
    facts = message.metadata
    return Message(
        message.content,
        dst_node_id=facts.dst_node_id,
        message_type=facts.message_type,
        ttl=facts.ttl,
    )
