"""A task's token reaches its process, and no command line shows it."""

from __future__ import annotations

import io
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from federation import task_token
from federation.errors import ProcessError

TOKEN = "0123456789abcdef" * 4
READER = (
    "import sys, psutil\n"
    "from federation.task_token import take\n"
    "arguments = take(sys.argv[1:], sys.stdin)\n"
    "print(arguments, psutil.Process().cmdline()[2:], sep='\\n')\n"
)


@pytest.mark.security
def test_h05_the_token_of_a_task_is_on_no_command_line() -> None:
    from flwr.supercore.superexec.executor import subprocess_executor

    stand_in = SimpleNamespace(subprocess=subprocess_executor.subprocess)
    task_token.hide(stand_in)
    arguments = [sys.executable, "-c", READER, "--token", TOKEN, "--insecure"]
    with stand_in.subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        assert TOKEN not in " ".join(psutil.Process(process.pid).cmdline())
        taken, shown = process.stdout.read().decode().splitlines()
    assert taken == str(["--token", TOKEN, "--insecure"])
    assert TOKEN not in shown


def test_a_token_that_is_given_as_ever_is_left_alone() -> None:
    assert task_token.take(["--token", "x"], io.StringIO("y\n")) == ["--token", "x"]
    assert task_token.take(["--help"], io.StringIO()) == ["--help"]
    assert task_token.take(["--token"], io.StringIO()) == ["--token"]


def test_a_flwr_that_starts_processes_otherwise_is_refused() -> None:
    with pytest.raises(ProcessError, match="another way"):
        task_token.hide(SimpleNamespace())
