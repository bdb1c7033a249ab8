"""A task's token goes to its process through a pipe: every local user can read command lines.

Flower's executor starts `flwr-clientapp … --token TOKEN` and the like. With `hide` it writes `-`
there and the token to the new process's standard input, where our command reads it with `take`.
Nothing here knows Flower: its module is given.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import IO, Any

from federation.errors import ProcessError

OPTION, PIPED = "--token", "-"


def hide(executor: Any) -> None:  # noqa: ANN401 - flwr's module `subprocess_executor`, or a stand-in
    """Make `executor`, which starts processes by `subprocess.Popen`, pass tokens by `popen`.

    Raises:
        ProcessError: it no longer starts them so: tokens would stand on command lines.
    """
    if getattr(executor, "subprocess", None) is not subprocess:
        raise ProcessError("this version of Flower starts its processes in another way")
    executor.subprocess = SimpleNamespace(Popen=popen, DEVNULL=subprocess.DEVNULL)


def popen(arguments: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401
    """Start a process as `subprocess.Popen` does, its token through a pipe instead."""
    shown = list(arguments)
    place = shown.index(OPTION) + 1
    token, shown[place] = shown[place], PIPED
    process = subprocess.Popen(shown, stdin=subprocess.PIPE, **options)  # noqa: S603 - no shell
    if process.stdin is not None:
        # a token is far shorter than a pipe: this never waits
        with suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(f"{token}\n".encode("ascii"))
    return process


def take(arguments: Sequence[str], source: IO[str]) -> list[str]:
    """Return `arguments` with the token read from `source`, if that is where it is."""
    known = list(arguments)
    if OPTION in known[:-1]:
        place = known.index(OPTION) + 1
        if known[place] == PIPED:
            known[place] = source.readline().strip()
    return known
