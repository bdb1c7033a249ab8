"""Markup in an Atom text: pieces of it, as a parser gives them."""

from __future__ import annotations

from collections.abc import Sequence


def unwrapped(pieces: Sequence[str]) -> Sequence[str]:
    """The pieces without the `div` that encloses them all, if one does, and without outer spaces.

    Args:
        pieces: tags and texts, each one whole.
    """
    first, end = 0, len(pieces)
    while end - first > 1 and not pieces[end - 1].strip():
        end -= 1
    while end - first > 1 and not pieces[first].strip():
        first += 1
    inside = pieces[first:end]
    return inside[1:-1] if _is_one_div(inside) else inside


def _is_one_div(pieces: Sequence[str]) -> bool:
    if not pieces or pieces[-1] != "</div>" or not pieces[0].startswith(("<div>", "<div ")):
        return False
    depth = 0
    for piece in pieces[:-1]:
        if piece.startswith("</"):
            depth -= 1
            if not depth:
                return False
        elif piece.startswith("<") and not piece.endswith("/>"):
            depth += 1
    return True
