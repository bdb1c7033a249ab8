"""A rule of another distribution: found by its entry point, held to the shared suite by name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.strategies
ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "docs" / "strategy_template"
MEAN = "FedAvg of A and B, each by itself"
HONEST = f"""
from strategies.rule import Rule, Traits
from strategies.rules.fedit import fedit

MINE = Rule("mymean", fedit, Traits(linear=True), "{MEAN}")
BOASTS = Rule("boasts", fedit, Traits(linear=True, exact=True), "{MEAN}")
NO_RULE = fedit
"""


def install(folder: Path, points: dict[str, str], code: str = HONEST) -> None:
    """Put a module and its distribution's records where Python finds both, as pip would."""
    (folder / "stranger.py").write_text(code, encoding="utf-8")
    info = folder / "stranger-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 0.1\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[conscienceai.strategies]", *lines, ""]))


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    environment |= {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def suite(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    tests = ["tests/property/test_reducers.py", "-k", name, "-q", "-p", "no:cacheprovider"]
    return run(folder, "-m", "pytest", *tests)


def find(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    code = f"from strategies.catalogue import find; print(find({name!r}).summary)"
    return run(folder, "-c", code)


def test_an_installed_rule_is_found_and_passes_the_shared_suite_by_its_name(tmp_path: Path) -> None:
    install(tmp_path, {"mymean": "stranger:MINE"})
    assert find(tmp_path, "mymean").stdout.strip() == MEAN
    done = suite(tmp_path, "mymean")
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 9


def test_a_rule_that_promises_too_much_fails_the_suite(tmp_path: Path) -> None:
    install(tmp_path, {"boasts": "stranger:BOASTS"})
    done = suite(tmp_path, "boasts")
    assert done.returncode == 1
    assert "test_7_the_change_is_the_weighted_sum_of_products[boasts]" in done.stdout


def test_a_stranger_cannot_take_one_of_our_names(tmp_path: Path) -> None:
    install(tmp_path, {"fedit": "stranger:BOASTS"})
    code = "from strategies.catalogue import all_rules, find\n"
    code += "print(find('fedit').traits.exact, sum(r.name == 'fedit' for r in all_rules()))"
    assert run(tmp_path, "-c", code).stdout.split() == ["False", "1"]


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        ("stranger:NO_RULE", "is no strategies.rule.Rule"),
        ("stranger:MISSING", "cannot be loaded"),
        ("stranger:MINE", "calls itself 'mymean'"),
    ],
)
def test_what_is_wrong_with_a_strangers_rule_is_said(
    tmp_path: Path, point: str, reason: str
) -> None:
    install(tmp_path, {"other": point})
    done = find(tmp_path, "other")
    assert done.returncode == 1
    assert reason in done.stderr


def test_the_template_of_the_docs_is_a_rule_in_forty_lines(tmp_path: Path) -> None:
    code = (TEMPLATE / "evened.py").read_text(encoding="utf-8")
    assert len(code.splitlines()) <= 40
    project = (TEMPLATE / "pyproject.toml").read_text(encoding="utf-8")
    point = re.search(r'entry-points."conscienceai.strategies"\]\n(\w+) = "(\w+):(\w+)"', project)
    assert point is not None
    install(tmp_path, {point[1]: f"stranger:{point[3]}"}, code)
    done = suite(tmp_path, point[1])
    assert done.returncode == 0, done.stdout
