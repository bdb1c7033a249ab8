"""A child and all that it started: one process group, signalled as one (POSIX)."""

from __future__ import annotations

import os
import signal
import subprocess

import psutil

from federation.leash import end_group


def signal_group(group: int, process: subprocess.Popen[bytes] | None, *, hard: bool) -> None:
    """Send SIGTERM (or SIGKILL if `hard`) to a whole group; where there are none, to `process`."""
    if os.name == "posix":
        if group:
            end_group(group, signal.SIGKILL if hard else signal.SIGTERM)
    elif process is not None and process.poll() is None:
        process.kill() if hard else process.terminate()


def is_running(group: int, process: subprocess.Popen[bytes] | None) -> bool:
    """Whether `process`, or anything it started in its group, still runs."""
    if process is not None and process.poll() is None:
        return True
    return os.name == "posix" and _has_members(group)


def _has_members(group: int) -> bool:
    """Whether a group has a member that is not a zombie (orphans may wait long for a reaper)."""
    if not end_group(group, 0):
        return False
    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) != group:
                continue
        except (ProcessLookupError, PermissionError):
            continue
        if process.info["status"] != psutil.STATUS_ZOMBIE:
            return True
    return False
