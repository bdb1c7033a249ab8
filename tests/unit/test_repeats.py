"""Answers that were lost: given again to the same node, for the same thing, not for ever."""

from __future__ import annotations

from server.repeats import MOST_GIVEN, MOST_OPEN, MOST_PUSHED, MOST_PUSHED_BYTES, Digest, Repeats


def digest(body: bytes) -> Digest:
    made = Digest()
    for start in range(0, len(body), 2):
        made.add(body[start : start + 2])
    return made


def test_a_message_stays_open_until_the_node_confirms_it() -> None:
    repeats = Repeats()
    assert repeats.pulled("ana", b"message") == b"message"
    assert repeats.pulled("ana", b"") == b"message"
    assert repeats.pulled("bea", b"") == b""
    repeats.confirmed("ana")
    assert repeats.pulled("ana", b"") == b""


def test_a_second_message_waits_for_the_first() -> None:
    repeats = Repeats()
    repeats.pulled("ana", b"one")
    assert repeats.pulled("ana", b"two") == b"one"
    repeats.confirmed("ana")
    assert repeats.pulled("ana", b"") == b"two"
    repeats.confirmed("ana")
    assert repeats.open == {}


def test_a_message_that_a_node_cannot_use_is_not_given_for_ever() -> None:
    repeats = Repeats()
    given = [repeats.pulled("ana", b"bad" if not number else b"") for number in range(9)]
    assert given == [b"bad"] * MOST_GIVEN + [b""] * (9 - MOST_GIVEN)


def test_a_confirmation_of_nothing_is_nothing() -> None:
    repeats = Repeats()
    repeats.confirmed("ana")
    assert repeats.pulled("ana", b"") == b""


def test_an_object_that_was_stored_is_stored_when_it_comes_again() -> None:
    repeats = Repeats()
    assert repeats.pushed("ana", digest(b"object"), b"stored") == b"stored"
    assert repeats.pushed("ana", digest(b"object"), b"") == b"stored"
    assert repeats.pushed("bea", digest(b"object"), b"") == b""
    assert repeats.pushed("ana", digest(b"other"), b"") == b""


def test_the_objects_that_a_reply_still_needs_are_named_again() -> None:
    repeats = Repeats()
    assert repeats.pushed("ana", digest(b"reply"), b"session 1, objects") == b"session 1, objects"
    assert repeats.pushed("ana", digest(b"reply"), b"session 2") == b"session 1, objects"
    assert repeats.pushed("ana", digest(b"reply"), b"session 3, objects") == b"session 3, objects"


def test_what_is_remembered_is_bounded() -> None:
    repeats = Repeats()
    for number in range(MOST_PUSHED + 10):
        repeats.pushed("ana", digest(b"%d" % number), b"stored")
        repeats.pulled("ana", b"message %d" % number)
    assert len(repeats.answers) == MOST_PUSHED
    assert len(repeats.open["ana"]) == MOST_OPEN
    assert repeats.pushed("ana", digest(b"0"), b"") == b""
    for number in range(300):
        repeats.pushed("ana", digest(b"long %d" % number), bytes(2**16))
    assert sum(map(len, repeats.answers.values())) <= MOST_PUSHED_BYTES
