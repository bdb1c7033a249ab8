"""Nodes of Flower's simulation as those who play the clients of a comparison (flwr door).

    FlowerNodes (ServerApp) -> Message -> question_of, `players.Player`, reply_to (ClientApp)

A client is a node: client k is the k-th of Flower's, counted round and round where they are fewer.
"""

from __future__ import annotations

import functools
import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from federation.adapter.tensors import Arrays, load_arrays, save_tensors
from federation.errors import ProcessError
from server.compare.players import Question
from server.compare.workers import Answer
from strategies.compare.federate import Job
from strategies.compare.lab import Lab
from strategies.compare.setting import Setting

RECORD, TOLD, BLOB, BASES = "conscience", "told", "blob", "bases"
KINDS = {"open": MessageType.QUERY, "measure": MessageType.EVALUATE, "train": MessageType.TRAIN}
PATIENCE_S, SETTLED_S, LOOK_S = 60.0, 2.0, 0.1
Network = Grid  # for those who only hand it on


class FlowerNodes:
    """Players (`workers.Players`) behind a grid.

    Args:
        grid: of a ServerApp.
        opening: what each player is opened with.
        clients: how many there are.

    Raises:
        ProcessError: no node came.
    """

    def __init__(self, grid: Grid, opening: Mapping[str, Any], clients: int) -> None:
        self._grid, self._opening = grid, dict(opening)
        self._nodes = _gathered(grid, clients)
        self._bases: list[bytes] = []

    @functools.cached_property
    def opened(self) -> Mapping[str, Any]:
        """What the first node said when it was opened."""
        return next(self.each([("open", b"", {})]))[0]

    def everyone(self, what: str, blob: bytes = b"", **values: Any) -> Sequence[Answer]:  # noqa: ANN401 - JSON
        """Lay a delta on everybody's base, or take all away; it rides along with what comes next.

        Raises:
            ValueError: anything else was asked.
        """
        if what != "base" or values:
            raise ValueError(f"'{what}' is not asked of everybody here")
        self._bases = [*self._bases, blob] if blob else []
        return []

    def each(self, tasks: Iterable[tuple[str, bytes, Mapping[str, Any]]]) -> Iterator[Answer]:
        """One message a task; answers in the order of the tasks.

        Raises:
            ProcessError: a node failed, or gave no answer; Flower's reason is in it.
        """
        nodes = itertools.cycle(self._nodes)
        messages = [self._message(task, node) for task, node in zip(tasks, nodes, strict=False)]
        replies = {
            reply.metadata.reply_to_message_id: reply
            for reply in self._grid.send_and_receive(messages)
        }
        for message in messages:
            yield _answer(replies.get(message.metadata.message_id))

    def _message(self, task: tuple[str, bytes, Mapping[str, Any]], node: int) -> Message:
        what, blob, values = task
        told = json.dumps({"what": what, "opening": self._opening, "values": dict(values)})
        record = ConfigRecord({TOLD: told, BLOB: blob, BASES: list(self._bases)})
        return Message(RecordDict({RECORD: record}), dst_node_id=node, message_type=KINDS[what])


class FlowerLab(Lab):
    """The lab, its clients trained by Flower's nodes (a `federate.Task`)."""

    def __init__(self, grid: Grid, setting: Setting) -> None:
        super().__init__(setting)
        self._players = FlowerNodes(grid, {"setting": setting.to_json()}, setting.clients)

    def train(self, jobs: Sequence[Job]) -> Iterator[Arrays]:
        """Each job by a node."""
        tasks: list[tuple[str, bytes, Mapping[str, Any]]] = []
        for job in jobs:
            values = {"client": job.client, "round": job.number, "trains": sorted(job.trains)}
            tasks.append(("train", save_tensors(job.start), values))
        for _content, found in self._players.each(tasks):
            yield load_arrays(found)

    def add_base(self, delta: Arrays) -> None:
        """Here, where it is measured, and at the nodes."""
        super().add_base(delta)
        self._players.everyone("base", save_tensors(delta))


def question_of(message: Message) -> Question:
    """Read a message of `FlowerNodes`."""
    record: Any = message.content[RECORD]
    told = json.loads(record[TOLD])
    return Question(told["what"], told["opening"], told["values"], record[BLOB], record[BASES])


def reply_to(message: Message, answer: Answer) -> Message:
    """The message that brings an answer home."""
    content, blob = answer
    record = ConfigRecord({TOLD: json.dumps(content), BLOB: blob})
    return Message(RecordDict({RECORD: record}), reply_to=message)


def _answer(reply: Message | None) -> Answer:
    if reply is None:
        raise ProcessError("a node of Flower's simulation gave no answer")
    if reply.has_error():
        raise ProcessError(f"a node of Flower's simulation failed: {reply.error.reason}")
    record: Any = reply.content[RECORD]
    return json.loads(record[TOLD]), record[BLOB]


def _gathered(grid: Grid, clients: int) -> list[int]:
    """One node per client; fewer where no more have come for a while.

    Flower starts the ServerApp first and registers its nodes one by one.
    """
    found: list[int] = []
    came = began = time.monotonic()
    while len(found) < clients and (not found or time.monotonic() < came + SETTLED_S):
        now = sorted(grid.get_node_ids())
        if len(now) > len(found):
            found, came = now, time.monotonic()
        elif time.monotonic() > began + PATIENCE_S:
            raise ProcessError("Flower's simulation has no nodes")
        else:
            time.sleep(LOOK_S)
    return found[:clients]
