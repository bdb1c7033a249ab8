"""The first words of an adapter tell a broken one from a sound one."""

from __future__ import annotations

import pytest

from federation.model.canary import stutter
from federation.model.speak import Piece


def pieces(text: str) -> list[Piece]:
    words = text.split(" ") if text else []
    ids = {word: n for n, word in enumerate(dict.fromkeys(words))}
    return [Piece(f"{word} ", ids[word], -1.0, 1.0) for word in words]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("el agua es un líquido que bebemos todos los días", ""),
        ("sí sí", ""),  # short is no stutter
        ("a a a a a a a b c d", "it repeats one word"),
        ("la la la la la la la la la la", "it repeats one word"),
        ("a b a b a b a b a b", ""),
        ("", "it writes nothing"),
    ],
)
def test_silence_and_stutter_are_told_from_words(text: str, fault: str) -> None:
    assert stutter(pieces(text)) == fault


def test_white_space_alone_is_silence() -> None:
    assert stutter([Piece("\n", n, -1.0, 1.0) for n in range(9)]) == "it writes nothing"
