"""The console scripts: they answer `--help` from anywhere, and load nothing heavy for it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "faiss", "flwr", "peft", "bitsandbytes", "matplotlib", "datasets"}
SCRIPTS = {"flower-client": "client.cli:main", "flower-server": "server.cli:main"}
AS_MODULE = [[sys.executable, "-m", name] for name in ("client", "server")]
AS_SCRIPTS = [[str(Path(sys.executable).with_name(name))] for name in SCRIPTS]
LOADED = """
import json, sys
from {module} import {function}
sys.argv = ["program", "--help"]
try:
    {function}()
except SystemExit as end:
    status = end.code or 0
print("LOADED", json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
sys.exit(status)
"""


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `command` in `folder` and capture what it says."""
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_console_scripts_are_those_that_are_documented() -> None:
    ours = [
        e for e in entry_points(group="console_scripts") if e.dist and e.dist.name == "conscienceai"
    ]
    assert {entry.name: entry.value for entry in ours} == SCRIPTS


@pytest.mark.parametrize("command", AS_SCRIPTS + AS_MODULE, ids=lambda c: Path(c[-1]).name)
def test_help_is_answered_from_another_folder(command: list[str], tmp_path: Path) -> None:
    answer = run([*command, "--help"], tmp_path)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "Usage" in answer.stdout


@pytest.mark.parametrize("target", SCRIPTS.values(), ids=SCRIPTS)
def test_help_loads_no_heavy_library(target: str, tmp_path: Path) -> None:
    module, _, function = target.partition(":")
    answer = run([sys.executable, "-c", LOADED.format(module=module, function=function)], tmp_path)
    assert answer.returncode == 0, answer.stderr
    loaded = answer.stdout.rpartition("LOADED ")[2]
    assert "typer" in loaded
    assert {name for name in HEAVY if f'"{name}"' in loaded} == set()


@pytest.mark.parametrize("command", AS_SCRIPTS, ids=lambda c: Path(c[-1]).name)
def test_an_unknown_command_is_a_usage_error_without_traceback(
    command: list[str], tmp_path: Path
) -> None:
    answer = run([*command, "no-such-command"], tmp_path)
    assert answer.returncode == 2
    assert "no-such-command" in answer.stderr
    assert "Traceback" not in answer.stderr
