"""Flower's nodes in this process: a ClientApp is handed its messages as they are (flwr door).

So a sweep or a test runs the very ClientApp that `flwr run` does; nothing has to be started,
serialised or asked for again and again.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

P = ParamSpec("P")
T = TypeVar("T")
RUN_ID = 1
App = Callable[[Message, Context], Message]


@dataclass(frozen=True)
class _Node:
    """What lasts at a node from one message to the next."""

    context: Context
    busy: threading.Lock = field(default_factory=threading.Lock)


class InProcessGrid(Grid):
    """A grid whose nodes are played by this process, until it is closed.

    Args:
        app: the ClientApp, or anything called like one.
        nodes: how many; Flower's "partition-id" counts them from 0.
        workers: how many answer at once, each in a thread; one answers in the caller's, as it is
            asked. A node answers one message at a time.
    """

    def __init__(self, app: App, nodes: int, *, workers: int = 1) -> None:
        # a Message takes its sender from there, as in every process of Flower's
        TaskIdentity.run_id, TaskIdentity.node_id = RUN_ID, SUPERLINK_NODE_ID
        TaskIdentity.task_id = 1
        self._app, self._run = app, Run.create_empty(RUN_ID)
        contexts = [_context(at, nodes) for at in range(nodes)]
        self._nodes = {each.node_id: _Node(each) for each in contexts}
        self._workers = ThreadPoolExecutor(workers) if workers > 1 else _Caller()
        self._replies: dict[str, Future[Message]] = {}

    def close(self) -> None:
        """Wait for those who answer; what nobody has begun is dropped."""
        self._workers.shutdown(wait=True, cancel_futures=True)

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """As `Message`, which Flower would rather see called."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """All."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Have messages answered; their ids.

        Raises:
            KeyError: there is no such node.
        """
        ids: list[str] = []
        for message in messages:
            node = self._nodes[message.metadata.dst_node_id]
            ids.append(_named(message))
            self._replies[ids[-1]] = self._workers.submit(self._answer, node, message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Replies that are there; each is given once."""
        known = [each for each in dict.fromkeys(message_ids) if each in self._replies]
        return [self._replies.pop(each).result() for each in known if self._replies[each].done()]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Have messages answered and wait for it, at most `timeout` seconds."""
        ids = self.push_messages(messages)
        wait([self._replies[each] for each in ids], timeout)
        return self.pull_messages(ids)

    def _answer(self, node: _Node, message: Message) -> Message:
        with node.busy:
            try:
                reply = self._app(message, node.context)
            except Exception as err:  # noqa: BLE001 (as a SuperNode does, whatever an app raises)
                reason = f"{type(err).__name__}: {err}"
                error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)
                reply = Message(error, reply_to=message)
        _named(reply)
        return reply


class _Caller(Executor):
    """Does what is submitted at once: another thread would take turns with this one."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        done: Future[T] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def _context(at: int, nodes: int) -> Context:
    """What Flower's simulation tells a node."""
    where: dict[str, bool | float | int | str] = {"partition-id": at, "num-partitions": nodes}
    return Context(RUN_ID, SUPERLINK_NODE_ID + 1 + at, where, RecordDict(), {})


def _named(message: Message) -> str:
    """Give a message its id, which else a SuperLink does."""
    name = str(uuid.uuid4())
    message.metadata.__dict__["_message_id"] = name
    return name
