"""A network namespace with nothing in it but its own loopback: no route leads out of it.

What runs inside reaches other processes by unix sockets alone. A leak is a failed connection.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from typing import Self

PROGRAMS = ("unshare", "nsenter", "ip")
ENTER = ("unshare", "--net", "sh", "-c", 'ip link set lo up && echo up && exec "$@"', "sh")
STOP_S = 10.0


@cache
def why_not() -> str:
    """Why there can be no namespace here, "" if there can."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"not installed: {', '.join(missing)} (Debian: util-linux, iproute2)"
    done = subprocess.run([*ENTER, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"network namespaces are forbidden here: {done.stderr.strip()}"
    return ""


class Namespace:
    """One namespace, alive as long as the block; `wrap` puts a command inside."""

    def __init__(self) -> None:
        self._holder: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        # `cat` holds the namespace until its input is closed, by us or by our end.
        holder = subprocess.Popen(
            [*ENTER, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._holder = holder
        if holder.stdout is None or holder.stdout.readline() != "up\n":
            self.close()
            raise OSError("the network namespace did not come up")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the holder; the namespace goes with the last process in it."""
        holder, self._holder = self._holder, None
        if holder is None:
            return
        for stream in (holder.stdin, holder.stdout):
            if stream is not None:
                stream.close()
        try:
            holder.wait(STOP_S)
        except subprocess.TimeoutExpired:
            holder.kill()
            holder.wait()

    @property
    def wrap(self) -> tuple[str, ...]:
        """What to put before a command line."""
        if self._holder is None:
            raise ValueError("the namespace is closed")
        return ("nsenter", f"--net=/proc/{self._holder.pid}/ns/net")

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end."""
        return subprocess.run([*self.wrap, *command], capture_output=True, text=True, check=False)
