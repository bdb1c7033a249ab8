"""The error tree: what its docstring draws is what the classes are."""

from __future__ import annotations

import inspect
import json
import re

import pytest

from federation import errors
from federation.errors import ConscienceError, error_from

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, ConscienceError)
]


def drawn() -> dict[str, tuple[int, str | None]]:
    """Read the tree in the module docstring: class name -> (exit code, parent)."""
    found: dict[str, tuple[int, str | None]] = {}
    branch: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^([│├└─ ]*)(\w+)\s+(\d+)  ", line)
        if match:
            depth = len(match[1]) // 4
            branch[depth:] = [match[2]]
            found[match[2]] = (int(match[3]), branch[depth - 1] if depth else None)
    return found


def test_the_drawing_names_every_class_and_no_other() -> None:
    assert sorted(drawn()) == sorted(kind.__name__ for kind in CLASSES)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: str(kind.__name__))
def test_each_class_has_the_exit_code_and_parent_that_are_drawn(
    kind: type[ConscienceError],
) -> None:
    code, parent = drawn()[kind.__name__]
    assert kind.exit_code == code
    assert kind.__base__ is not None
    assert kind.__base__.__name__ == (parent or "Exception")


def test_an_error_carries_its_sentence_and_the_next_step() -> None:
    error = ConscienceError("outbox is full", hint="Free some space.")
    assert str(error) == error.message == "outbox is full"
    assert error.hint == "Free some space."
    assert ConscienceError("no hint").hint == ""


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: str(kind.__name__))
def test_what_another_process_told_is_an_error_again_with_its_exit_code(
    kind: type[ConscienceError],
) -> None:
    error = kind("what", hint="next")
    again = error_from(json.loads(json.dumps(error.to_json())))
    assert (again.message, again.hint, again.exit_code) == ("what", "next", kind.exit_code)
    assert isinstance(error, type(again))


def test_a_code_that_nobody_has_is_an_error_still() -> None:
    assert type(error_from({"error": "what", "hint": "", "code": 99})) is ConscienceError
