"""Answers that were lost on the way are given again.

A way through Tor breaks now and then after a request has arrived and before its answer is back. The
SuperNode then asks once more, and Flower's SuperLink takes that for something new in three cases:

pull-messages  the message counts as delivered, so the second answer is empty and nobody hears of
               it again. Here it stays open until the node confirms that it has it.
push-messages  once the ServerApp has seen the reply it is not stored again, so the second answer
               names no objects to push; the ServerApp waits for them for three minutes, in vain.
push-object    the object is there already and is refused, whereupon the node gives up its whole
               reply. In these two the first answer is given if the second is shorter.

The request itself is passed on each time: whether the node may ask is the SuperLink's to say.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict, deque
from dataclasses import dataclass, field

MOST_GIVEN = 5
MOST_OPEN = 8
MOST_BYTES = 64 * 1024
MOST_PUSHED = 4096
MOST_PUSHED_BYTES = 8 * 2**20


@dataclass
class _Open:
    answer: bytes
    given: int = 0


@dataclass
class Repeats:
    """What nodes were told and may ask for again; in memory, bounded.

    Attributes:
        answers: digest of what was pushed -> the fullest answer to it, newest last.
        open: node key -> messages it has not confirmed, oldest first.
    """

    answers: OrderedDict[bytes, bytes] = field(default_factory=OrderedDict)
    open: dict[str, deque[_Open]] = field(default_factory=dict)
    _bytes: int = 0

    def pushed(self, key: str, body: Digest, answer: bytes) -> bytes:
        """The answer to something pushed: the earlier one to the same request if it is longer.

        Args:
            key: the node's.
            body: of the request.
            answer: the SuperLink's; an object that it did not store has an empty one.
        """
        digest = body.of(key)
        known = self.answers.pop(digest, b"")
        fuller = known if len(known) > len(answer) else answer
        self._bytes += len(fuller) - len(known)
        if fuller:
            self.answers[digest] = fuller
        while len(self.answers) > MOST_PUSHED or self._bytes > MOST_PUSHED_BYTES:
            self._bytes -= len(self.answers.popitem(last=False)[1])
        return fuller

    def pulled(self, key: str, answer: bytes) -> bytes:
        """The answer to a node that asks for messages: its oldest open one, if there is one.

        Args:
            key: the node's.
            answer: the SuperLink's; empty if nothing new is there.
        """
        if answer:
            self.open.setdefault(key, deque(maxlen=MOST_OPEN)).append(_Open(answer))
        while key in self.open:
            first = self.open[key][0]
            if first.given < MOST_GIVEN:
                first.given += 1
                return first.answer
            self.confirmed(key)  # it cannot use it
        return b""

    def confirmed(self, key: str) -> None:
        """The node has the message that it was given last."""
        waiting = self.open.get(key)
        if waiting:
            waiting.popleft()
        if not waiting:
            self.open.pop(key, None)


class Digest:
    """Hash of a request's body, piece by piece."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, piece: bytes) -> None:
        """Take in the next piece."""
        self._sha256.update(piece)

    def of(self, key: str) -> bytes:
        """The hash, and whose it is."""
        whole = self._sha256.copy()
        whole.update(key.encode("utf-8", "surrogateescape"))
        return whole.digest()
