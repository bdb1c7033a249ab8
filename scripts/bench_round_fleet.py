"""Many nodes in one process for `bench_round`: they speak the Fleet API and answer from disk.

A real SuperNode with its ClientApp costs 300 MB; a hundred of them fit on no small machine. These
register, poll and push as flwr's own client does, but do not fetch what they are sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import httpx
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import HEARTBEAT_MAX_INTERVAL
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_push_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import push_objects
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

Answer = Callable[[Message], RecordDict]


@dataclass(frozen=True)
class Simulated:
    """One node: its connection, its number at the SuperLink, and what it answers."""

    client: FleetHttpClient
    node: Node
    answer: Answer


class Fleet:
    """Nodes registered with the SuperLink at `address`, one for each of `answers`."""

    def __init__(self, address: str, answers: Sequence[Answer]) -> None:
        self.nodes = [_register(address, answer) for answer in answers]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.nodes:
            each.client.close()

    def sweep(self) -> int:
        """Let every node look once for a message and answer it; returns how many did."""
        return sum(_answer_one(each) for each in self.nodes)


def _register(address: str, answer: Answer) -> Simulated:
    private, public = generate_key_pairs()
    version = RuntimeVersionHttpInterceptor(component_name="SuperNode")
    signer = NodeAuthHttpInterceptor(private, public)
    client = FleetHttpClient.from_server_address(
        address, True, None, interceptors=[version, signer]
    )
    key = public_key_to_bytes(public)
    client.RegisterNode(RegisterNodeFleetRequest(public_key=key))
    # The longest interval there is: no heartbeats have to be sent.
    active = client.ActivateNode(
        ActivateNodeRequest(public_key=key, heartbeat_interval=HEARTBEAT_MAX_INTERVAL)
    )
    return Simulated(client, Node(node_id=active.node_id), answer)


def _answer_one(each: Simulated) -> int:
    pulled = _pull(each)
    if not pulled.messages_list:
        return 0
    message = message_from_proto(pulled.messages_list[0])
    run_id = message.metadata.run_id
    with no_object_id_recompute():  # the id of a message changes once it is written into it
        _push(each, Message(each.answer(message), reply_to=message), run_id)
    return 1


def _pull(each: Simulated) -> PullMessagesResponse:
    request = PullMessagesRequest(node=each.node)
    try:
        return each.client.PullMessages(request)
    except httpx.RemoteProtocolError:  # idle for as long as the others took, and closed meanwhile
        return each.client.PullMessages(request)


def _push(each: Simulated, reply: Message, run_id: int) -> None:
    reply.metadata.__dict__["_message_id"] = reply.object_id
    pushed = each.client.PushMessages(
        PushMessagesRequest(
            node=each.node,
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[get_object_tree(reply)],
            clientapp_runtime_list=[0.0],
        )
    )
    push_objects(
        get_all_nested_objects(reply),
        make_push_object_fn_protobuf(each.client.PushObject, each.node, run_id, pushed.session_id),
        object_ids_to_push=set(pushed.objects_to_push),
    )
