"""The leash: ends a supervisor's children if the supervisor itself is killed.

A tiny process of its own, run by path (`python -I -S leash.py`) with the standard library alone.
The supervisor writes one line a process group on its standard input, `+1234` when a child starts
and `-1234` when it has ended. A closed pipe means that the supervisor is gone: what is still held
gets SIGTERM, and SIGKILL after a grace. This works where PR_SET_PDEATHSIG does not exist (macOS)
and reaches grandchildren, which that signal does not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

GRACE_S = 5.0


class Leash:
    """The supervisor's end of it: one helper process for all children."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", str(Path(__file__).resolve())]
        self._process = subprocess.Popen(  # noqa: S603 - our own file, absolute interpreter
            command, stdin=subprocess.PIPE, start_new_session=True
        )

    def hold(self, group: int) -> None:
        """End process group `group` when this process ends."""
        self._tell(f"+{group}\n")

    def release(self, group: int) -> None:
        """Forget a process group that has ended."""
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """Let go: every group still held is ended."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=GRACE_S + 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _tell(self, line: str) -> None:
        if self._process.stdin is None:
            return
        try:
            self._process.stdin.write(line.encode("ascii"))
            self._process.stdin.flush()
        except BrokenPipeError:
            return  # the leash was killed: children go on, unprotected


def end_group(group: int, signal_number: int) -> bool:
    """Signal a process group; False if nothing is left of it."""
    try:
        os.killpg(group, signal_number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def main() -> None:
    """Hold what is announced on standard input, end it when the pipe closes."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    held: set[int] = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line.startswith("+"):
            held.add(group)
        else:
            held.discard(group)
    deadline = time.monotonic() + GRACE_S
    left = {group for group in held if end_group(group, signal.SIGTERM)}
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = {group for group in left if end_group(group, 0)}
    for group in left:
        end_group(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
