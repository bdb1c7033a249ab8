"""A grid in this process is a grid of Flower's: nodes, contexts, replies, errors, time limits."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from server.compare.in_process import InProcessGrid

pytestmark = pytest.mark.strategies
WAIT_S = 30.0


def ask(node: int, word: str = "", kind: str = MessageType.TRAIN) -> Message:
    return Message(RecordDict({"a": ConfigRecord({"word": word})}), node, kind)


def said(reply: Message) -> Any:
    return dict(reply.content.config_records["a"])


def answer(message: Message, **values: Any) -> Message:
    return Message(RecordDict({"a": ConfigRecord(values)}), reply_to=message)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_node_knows_its_place_and_keeps_its_state(workers: int) -> None:
    app = ClientApp()

    @app.train()
    @app.query()
    def play(message: Message, context: Context) -> Message:
        told = context.state.config_records.setdefault("told", ConfigRecord({"times": 0}))
        told["times"] += 1  # type: ignore[operator]
        where = context.node_config["partition-id"], context.node_config["num-partitions"]
        return answer(message, where=list(where), times=told["times"])

    with closing(InProcessGrid(app, 3, workers=workers)) as grid:
        nodes = grid.get_node_ids()
        assert len(set(nodes)) == 3
        sent = [ask(node) for node in (*nodes, nodes[1])]
        replies = grid.send_and_receive(sent)
        by_id = {each.metadata.reply_to_message_id: each for each in replies}
        found = [by_id[each.metadata.message_id] for each in sent]
        assert [said(each)["where"] for each in found] == [[0, 3], [1, 3], [2, 3], [1, 3]]
        assert sorted(said(each)["times"] for each in found) == [1, 1, 1, 2]
        assert [each.metadata.src_node_id for each in found] == [*nodes, nodes[1]]
        ids = {each.metadata.message_id for each in (*sent, *replies)}
        assert len(ids) == 8
        (last,) = grid.send_and_receive([ask(nodes[1], kind=MessageType.QUERY)])
        assert said(last)["times"] == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_what_an_app_raises_is_the_reply_of_its_node_alone(workers: int) -> None:
    def play(message: Message, _context: Context) -> Message:
        word = str(message.content.config_records["a"]["word"])
        if word == "fail":
            raise RuntimeError("out of memory")
        return answer(message, word=word)

    with closing(InProcessGrid(play, 3, workers=workers)) as grid:
        words = ["one", "fail", "three"]
        messages = [ask(at, word) for at, word in zip(grid.get_node_ids(), words, strict=True)]
        ids = grid.push_messages(messages)
        replies: list[Message] = []
        while len(replies) < 3:
            replies += grid.pull_messages([*ids, *ids])
        assert [each.has_error() for each in replies] != [False] * 3
        (failed,) = [each for each in replies if each.has_error()]
        assert failed.error.reason == "RuntimeError: out of memory"
        assert failed.metadata.reply_to_message_id == ids[1]
        assert grid.pull_messages([*ids, "none"]) == []
        with pytest.raises(KeyError):
            grid.push_messages([ask(999)])


def test_workers_answer_at_once() -> None:
    both = threading.Barrier(2, timeout=WAIT_S)

    def play(message: Message, _context: Context) -> Message:
        both.wait()
        return answer(message)

    with closing(InProcessGrid(play, 2, workers=2)) as grid:
        sent = [ask(node) for node in grid.get_node_ids()]
        assert [each.has_error() for each in grid.send_and_receive(sent)] == [False] * 2


def test_a_node_answers_one_message_at_a_time() -> None:
    inside = threading.Lock()

    def play(message: Message, _context: Context) -> Message:
        assert inside.acquire(blocking=False)
        time.sleep(0.1)
        inside.release()
        return answer(message)

    with closing(InProcessGrid(play, 1, workers=2)) as grid:
        (node,) = grid.get_node_ids()
        replies = grid.send_and_receive([ask(node) for _ in range(3)])
        assert [each.has_error() for each in replies] == [False] * 3


def test_who_is_late_is_left_out_and_can_be_pulled_later() -> None:
    go = threading.Event()

    def play(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 1:
            go.wait(WAIT_S)
        return answer(message)

    with closing(InProcessGrid(play, 2, workers=2)) as grid:
        early, late = (ask(node) for node in grid.get_node_ids())
        (reply,) = grid.send_and_receive([late, early], timeout=0.5)
        assert reply.metadata.reply_to_message_id == early.metadata.message_id
        go.set()
        while not (found := grid.pull_messages([late.metadata.message_id])):
            pass
        assert found[0].metadata.reply_to_message_id == late.metadata.message_id


def test_what_nobody_has_begun_is_dropped_at_the_end() -> None:
    go, begun = threading.Event(), threading.Semaphore(0)
    played: list[int] = []

    def play(message: Message, context: Context) -> Message:
        played.append(context.node_id)
        begun.release()
        go.wait(WAIT_S)
        return answer(message)

    grid = InProcessGrid(play, 5, workers=2)
    grid.push_messages(ask(node) for node in grid.get_node_ids())
    assert begun.acquire(timeout=WAIT_S)
    assert begun.acquire(timeout=WAIT_S)
    closer = threading.Thread(target=grid.close)
    closer.start()
    waiting = [each for each in grid._replies.values() if not each.running()]
    end = time.monotonic() + WAIT_S
    while not all(each.cancelled() for each in waiting) and time.monotonic() < end:
        time.sleep(0.01)
    go.set()
    closer.join(WAIT_S)
    assert not closer.is_alive()
    assert (len(waiting), len(played)) == (3, 2)
