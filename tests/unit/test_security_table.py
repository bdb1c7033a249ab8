"""docs/security.md names a test for each threat: all of them exist, and `-m security` runs them."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent.parent
ROWS = re.compile(r"^\| (H\d\d) \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)
NAMED = re.compile(r"`(\w+/\w+\.py)::(\w+)`")
THREATS = [f"H{number:02}" for number in range(1, 31)]


def rows() -> dict[str, str]:
    """Threat -> what its row says of tests."""
    text = (TESTS.parent / "docs" / "security.md").read_text(encoding="utf-8")
    return dict(ROWS.findall(text))


@cache
def secured(file: str) -> dict[str, bool]:
    """Test -> whether it carries the mark, itself or through its module."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    module = any(
        "mark.security" in ast.unparse(node)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
    )
    return {
        node.name: module or any("mark.security" in ast.unparse(d) for d in node.decorator_list)
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_threat_has_its_row() -> None:
    assert list(rows()) == THREATS


@pytest.mark.parametrize("threat", THREATS)
def test_a_row_names_marked_tests_or_the_part_that_brings_them(threat: str) -> None:
    row = rows()[threat]
    named = NAMED.findall(row)
    assert named or re.match(r"part \d", row)
    for file, test in named:
        assert secured(file).get(test) is True, f"{file}::{test}"


def test_every_test_named_for_a_threat_is_marked() -> None:
    files = [path.relative_to(TESTS).as_posix() for path in TESTS.glob("*/test_*.py")]
    unmarked = [
        f"{file}::{test}"
        for file in files
        for test, is_marked in secured(file).items()
        if re.match(r"test_h\d\d_", test) and not is_marked
    ]
    assert unmarked == []
