"""Whether the process that left a note behind is still that process."""

from __future__ import annotations


def is_alive(pid: int, since: float) -> bool:
    """Whether process `pid` runs and was there at Unix time `since`.

    After a crash its number may be another process's, or a zombie's.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        has_ended = process.status() == psutil.STATUS_ZOMBIE
        return not has_ended and process.create_time() <= since
    except (psutil.Error, ValueError):
        return False
