"""Flower's nodes as those who play the clients of a comparison (flwr door).

    FlowerNodes (ServerApp) -> Message -> question_of, `players.Player`, reply_to (ClientApp)

The grid is Flower's own, or `in_process.InProcessGrid`. A node plays one client, or several where
there are fewer nodes: one message brings all it is asked at a time.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from federation.adapter.tensors import Arrays, load_arrays, save_tensors
from federation.errors import ConscienceError, ProcessError, error_from
from server.compare.players import Question, starts_of
from server.compare.workers import Answer, Asking
from strategies.compare.federate import Job
from strategies.compare.lab import Lab
from strategies.compare.setting import Setting

RECORD, TOLD, BLOBS, BASES = "conscience", "told", "blobs", "bases"
KINDS = {"open": MessageType.QUERY, "measure": MessageType.EVALUATE, "train": MessageType.TRAIN}
PATIENCE_S, SETTLED_S, LOOK_S = 60.0, 2.0, 0.1
Network = Grid  # for those who only hand it on


class FlowerNodes:
    """Nodes behind a grid, which are asked for what clients do.

    Args:
        grid: that leads to them.
        nodes: their ids; see `gathered`.
        opening: what each is opened with.
        at_once: how many of them can work at the same time, if that is known.
    """

    def __init__(
        self, grid: Grid, nodes: Sequence[int], opening: Mapping[str, Any], *, at_once: int = 1
    ) -> None:
        self._grid, self._nodes = grid, list(nodes)
        self._opening, self._at_once = dict(opening), at_once
        self._bases: list[bytes] = []
        self._laid: list[str] = []

    @functools.cached_property
    def opened(self) -> Mapping[str, Any]:
        """What a node says when it is opened; all say the same."""
        return next(self.each([("open", b"", {})] * self._at_once))[0]

    def add_base(self, delta: bytes) -> None:
        """Lay a delta on everybody's base; it rides along with what comes next."""
        self._bases.append(delta)
        self._laid.append(hashlib.sha256(delta).hexdigest())

    def reset_base(self) -> None:
        """Give everybody's base its own weights back."""
        self._bases, self._laid = [], []

    def each(self, tasks: Iterable[Asking]) -> Iterator[Answer]:
        """Do tasks, shared out evenly; answers in the order of the tasks.

        Raises:
            ConscienceError: one could not be done.
            ProcessError: a node failed, or gave no answer; Flower's reason is in it.
        """
        shares = _shared(list(tasks), len(self._nodes))
        messages = [self._message(*each) for each in zip(shares, self._nodes, strict=False)]
        replies = {
            reply.metadata.reply_to_message_id: reply
            for reply in self._grid.send_and_receive(messages)
        }
        for message in messages:
            yield from _answers(replies.pop(message.metadata.message_id, None))

    def _message(self, tasks: Sequence[Asking], node: int) -> Message:
        told = {"opening": self._opening, "laid": self._laid}
        asked = [(what, dict(values)) for what, _blob, values in tasks]
        record = ConfigRecord(
            {
                TOLD: json.dumps(told | {"tasks": asked}),
                BLOBS: [blob for _what, blob, _values in tasks],
                BASES: list(self._bases),
            }
        )
        kind = KINDS[tasks[0][0]]
        return Message(RecordDict({RECORD: record}), dst_node_id=node, message_type=kind)


class FlowerLab(Lab):
    """The lab, its clients trained by Flower's nodes (a `federate.Task`)."""

    def __init__(self, grid: Grid, nodes: Sequence[int], setting: Setting) -> None:
        super().__init__(setting)
        self._players = FlowerNodes(grid, nodes, {"setting": setting.to_json()})

    def train(self, jobs: Sequence[Job]) -> Iterator[Arrays]:
        """Each job by a node."""
        return trained(self._players, jobs)

    def add_base(self, delta: Arrays) -> None:
        """Here, where it is measured, and at the nodes."""
        super().add_base(delta)
        self._players.add_base(save_tensors(delta))


def trained(players: FlowerNodes, jobs: Sequence[Job]) -> Iterator[Arrays]:
    """Have each job done by a node that needs to know nothing else."""
    blobs = starts_of(jobs)
    tasks: list[Asking] = []
    for job in jobs:
        values = {"client": job.client, "round": job.number, "trains": sorted(job.trains)}
        tasks.append(("train", blobs[id(job.start)], values))
    return (load_arrays(found) for _content, found in players.each(tasks))


def question_of(message: Message) -> Question:
    """Read a message of `FlowerNodes`."""
    record: Any = message.content[RECORD]
    told = json.loads(record[TOLD])
    tasks = [
        (what, blob, values)
        for (what, values), blob in zip(told["tasks"], record[BLOBS], strict=True)
    ]
    return Question(told["opening"], tasks, told["laid"], record[BASES])


def reply_to(message: Message, answers: Sequence[Answer]) -> Message:
    """The message that brings answers home."""
    told = {"answers": [content for content, _blob in answers]}
    blobs = [blob for _content, blob in answers]
    record = ConfigRecord({TOLD: json.dumps(told), BLOBS: blobs})
    return Message(RecordDict({RECORD: record}), reply_to=message)


def refusal_of(message: Message, err: ConscienceError) -> Message:
    """The message that says what could not be done."""
    record = ConfigRecord({TOLD: json.dumps(err.to_json())})
    return Message(RecordDict({RECORD: record}), reply_to=message)


def gathered(grid: Grid, clients: int) -> list[int]:
    """One node per client; fewer where no more have come for a while.

    Flower starts the ServerApp first and registers its nodes one by one.

    Raises:
        ProcessError: no node came.
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


def _shared(tasks: Sequence[Asking], nodes: int) -> list[Sequence[Asking]]:
    """Runs of neighbours, none empty, as even as can be."""
    parts = min(nodes, len(tasks))
    ends = [len(tasks) * at // parts for at in range(parts + 1)] if parts else []
    return [tasks[begin:end] for begin, end in itertools.pairwise(ends)]


def _answers(reply: Message | None) -> Iterator[Answer]:
    if reply is None:
        raise ProcessError("a node gave no answer")
    if reply.has_error():
        raise ProcessError(f"a node failed: {reply.error.reason}")
    record: Any = reply.content[RECORD]
    told = json.loads(record[TOLD])
    if "error" in told:
        raise error_from(told)
    return zip(told["answers"], record[BLOBS], strict=True)
