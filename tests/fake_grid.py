"""A Flower Grid in one process: real messages, nodes that are plain functions."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Message, RecordDict
from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_res_message
from flwr.supercore.task_identity import TaskIdentity

Answer = Callable[[Message], Message | None]


class FakeGrid:
    """Hands each message to its node at once; the reply waits to be pulled.

    Args:
        nodes: Flower node id -> what it answers; None answers never.
        order: node ids in the order their replies may be pulled; default: as sent.
    """

    def __init__(self, nodes: dict[int, Answer], *, order: Iterable[int] = ()) -> None:
        self.nodes = nodes
        self.sent: list[Message] = []
        self._order = list(order)
        self._ids = itertools.count(1)
        self._replies: dict[str, Message] = {}
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1

    def get_node_ids(self) -> list[int]:
        """All nodes are online."""
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Deliver and collect the answers."""
        ids = []
        for message in messages:
            message_id = f"{self._rank(message):04d}-{next(self._ids)}"
            message.metadata.__dict__["_message_id"] = message_id
            self.sent.append(message)
            TaskIdentity.node_id = message.metadata.dst_node_id
            reply = self.nodes[message.metadata.dst_node_id](message)
            TaskIdentity.node_id = 1
            if reply is not None:
                self._replies[message_id] = reply
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that are there."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float = 0) -> list[Any]:
        """Send and pull once."""
        del timeout
        return self.pull_messages(self.push_messages(messages))

    def _rank(self, message: Message) -> int:
        node = message.metadata.dst_node_id
        return self._order.index(node) if node in self._order else 0


class WatchfulGrid(FakeGrid):
    """Notes how many replies with arrays were still alive when the next was asked for."""

    def __init__(self, nodes: dict[int, Answer]) -> None:
        super().__init__(nodes)
        self.most_alive = 0
        self._given: list[weakref.ref[RecordDict]] = []

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that are there."""
        self.most_alive = max(self.most_alive, sum(ref() is not None for ref in self._given))
        replies = super().pull_messages(message_ids)
        # not `array_records`: that view alone would keep the content alive
        contents = [reply.content for reply in replies]
        self._given += [weakref.ref(c) for c in contents if "blob" in c]
        return replies


class AwayGrid(FakeGrid):
    """Some nodes miss their heartbeats; the SuperLink answers in their place.

    Args:
        nodes: as of `FakeGrid`.
        away: Flower node id -> how often the grid says so before the node is back.
    """

    def __init__(self, nodes: dict[int, Answer], away: dict[int, int]) -> None:
        super().__init__({node: self._or_absence(node, nodes[node]) for node in nodes})
        self._away = dict(away)
        self._said: set[int] = set()

    def get_node_ids(self) -> list[int]:
        """Those who are online; who was found away is looked for once more each time."""
        for node in self._said:
            self._away[node] -= 1
        self._said = {node for node in self._said if self._away[node] > 0}
        return [node for node in self.nodes if node not in self._said]

    def _or_absence(self, node: int, answer: Answer) -> Answer:
        def either(message: Message) -> Message | None:
            if self._away.get(node, 0) <= 0:
                return answer(message)
            self._said.add(node)
            return create_message_error_unavailable_res_message(message.metadata, "node_unavail")

        return either
