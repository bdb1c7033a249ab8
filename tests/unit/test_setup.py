"""Set-up: the tested set fits what the project asks for, and the scripts can be run as they are."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ASKED = [
    Requirement(text)
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for text in group
]


def pins() -> dict[str, str]:
    """Read constraints.txt: distribution -> version."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {str(canonicalize_name(name)): version for name, version in found}


@pytest.fixture
def setup_script() -> ModuleType:
    """Load scripts/setup.py, which is no module of a package."""
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "scripts" / "setup.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: str(asked.name))
def test_every_dependency_is_pinned_to_a_version_that_is_allowed(asked: Requirement) -> None:
    assert asked.specifier.contains(pins()[canonicalize_name(asked.name)])


def test_the_tested_set_holds_versions_only() -> None:
    odd = {name: v for name, v in pins().items() if not re.fullmatch(r"[0-9][0-9a-z.]*", v)}
    assert odd == {}


@pytest.mark.skipif(os.name == "nt", reason="executable bits are POSIX")
@pytest.mark.parametrize("name", ["scripts/demo", "scripts/test", "scripts/check", "scripts/fix"])
def test_the_scripts_can_be_run_as_they_are(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)
    assert (ROOT / name).read_text(encoding="utf-8").startswith("#!/usr/bin/env python3\n")


@pytest.mark.parametrize("path", ["scripts/setup.py", "scripts/demo", "scripts/test"])
def test_an_old_python_can_read_what_runs_before_set_up(path: str) -> None:
    source = (ROOT / path).read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 7))


def test_without_a_newer_python_the_sentence_names_the_one_that_ran(
    setup_script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=re.escape(sys.executable)) as caught:
        setup_script._newer_python()
    assert "3.11 or newer" in str(caught.value)


def test_set_up_is_decided_by_dependencies_and_not_by_lint_settings(
    setup_script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fingerprint(project: str, constraints: str) -> str:
        (tmp_path / "pyproject.toml").write_text(project, encoding="utf-8")
        (tmp_path / "constraints.txt").write_text(constraints, encoding="utf-8")
        return str(setup_script._fingerprint())

    monkeypatch.setattr(setup_script, "ROOT", tmp_path)
    monkeypatch.setattr(setup_script, "CONSTRAINTS", tmp_path / "constraints.txt")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    now = fingerprint(project, "torch==1\n")
    assert fingerprint(project + "\n[tool.other]\nkey = 1\n", "torch==1\n") == now
    assert fingerprint(project, "torch==2\n") != now
    assert fingerprint(project.replace('"numpy>=', '"numpy>'), "torch==1\n") != now


def test_the_embedder_is_installed_alone_by_its_hash(
    setup_script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []

    def call(command: list[str], **_options: object) -> int:
        calls.append(command)
        return 0

    monkeypatch.setattr(setup_script, "_works", lambda *_: False)
    monkeypatch.setattr(setup_script.subprocess, "call", call)
    setup_script._install_embedder()
    (command,) = calls
    assert {"--no-deps", "--require-hashes", "--only-binary"} <= set(command)
    assert command[-2:] == ["-r", str(ROOT / "scripts" / "embedder.txt")]
    monkeypatch.setattr(setup_script, "_works", lambda *_: True)
    setup_script._install_embedder()
    assert len(calls) == 1, "not again where it is"


def test_set_up_goes_on_without_the_embedder_and_says_so(
    setup_script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup_script, "_works", lambda *_: False)
    monkeypatch.setattr(setup_script.subprocess, "call", lambda *_args, **_options: 1)
    setup_script._install_embedder()
    said = capsys.readouterr().err
    assert "searches by words alone" in said
    assert "--no-deps" in said


def test_the_embedder_that_is_installed_is_the_one_that_is_known(setup_script: ModuleType) -> None:
    from rag.retrieval import embedders

    known = (embedders.EMBEDDED, embedders.EMBEDDED_VERSION)
    assert setup_script._pinned_embedder() == known
    needs = " ".join(PROJECT["dependencies"])
    assert embedders.EMBEDDED not in needs
    assert "sentence-transformers" not in needs


def test_ci_runs_the_checks_and_the_tests_of_the_readme() -> None:
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = [line for line in text.splitlines() if line.startswith("scripts/")]
    assert commands == ["scripts/check", "scripts/test"]
    for readme in ("README.md", "README.es.md"):
        block = (ROOT / readme).read_text(encoding="utf-8").split("```sh\n")[1].split("```")[0]
        assert [line.split()[0] for line in block.splitlines()] == ["scripts/demo", "scripts/test"]
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)
