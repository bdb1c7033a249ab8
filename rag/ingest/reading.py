"""The child that reads hostile bytes: feeds and files in, entries out, as lines of JSON.

    python -m rag.ingest.reading KIND    # spoken to by `rag.ingest.reader` alone

KIND, "feed" or "file", is that of its first job; others may follow. A job is one line of JSON and
`size` bytes after it; its answer is one line. The child has a limit of memory, may write no file,
and ends itself where a job takes too much time.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any, BinaryIO

from federation.errors import FormatError
from federation.language import _, set_language

MEMORY_BYTES = 2 * 1024**3
MODULES = {"feed": ("rag.ingest.parse", "rag.ingest.raw"), "file": ("rag.ingest.files",)}
# What libraries import and nothing here uses, a third of the start: sockets, TLS and mail among it.
UNUSED = ("inspect", "traceback", "urllib.error", "urllib.request", "feedparser.http")
# Two dozen expressions for dates that `rag.ingest.dates` seldom leaves to feedparser.
SELDOM_USED = ("feedparser.datetimes",)
GARBAGE = 20_000  # objects between two looks for cycles: what a feed becomes has few


def main() -> None:
    """Answer jobs until the standard input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no answer
    put_off(*UNUSED)
    put_off(*SELDOM_USED, stand_in=_LaterFunctions)
    for name in MODULES[sys.argv[1]]:  # while their bytecode may still be written
        import_module(name)
    limit()
    gc.freeze()
    gc.set_threshold(GARBAGE)
    serve(sys.stdin.buffer, answers)


class _Later(ModuleType):
    """Stands for a module until something of it is used; the standard one loads at any import."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the module has
        del sys.modules[self.__name__]
        module = import_module(self.__name__)
        vars(self).update(vars(module))
        return getattr(module, name)


class _LaterFunctions(_Later):
    """The same for a module of functions, which may be imported one by one: a call loads it."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the module has
        if name.startswith("__"):
            raise AttributeError(name)
        return partial(self._call, name)

    def _call(self, name: str, *arguments: object) -> object:
        if sys.modules[self.__name__] is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)(*arguments)


def put_off(*names: str, stand_in: type[ModuleType] = _Later) -> None:
    """Load modules no earlier than something of them is used."""
    for name in names:
        if name in sys.modules:
            continue
        later = sys.modules[name] = stand_in(name)
        parent, _dot, last = name.rpartition(".")
        if parent in sys.modules:
            setattr(sys.modules[parent], last, later)


def serve(jobs: BinaryIO, answers: BinaryIO) -> None:
    """Read jobs and write their answers."""
    while line := jobs.readline():
        job = json.loads(line)
        body = jobs.read(job["size"])
        set_language(job["language"])
        alarm(job["deadline_s"])
        answer = do(job, body)
        alarm(0.0)
        answers.write(json.dumps(answer).encode("ascii") + b"\n")
        answers.flush()


def do(job: Mapping[str, Any], body: bytes) -> dict[str, Any]:
    """One job's answer: what was read, or a sentence on why it could not be."""
    now = datetime.fromisoformat(job["now"])
    try:
        if job["kind"] == "feed":
            from rag.ingest.parse import parse_feed

            options = {key: job[key] for key in ("url", "content_type", "tag", "max_items")}
            return parse_feed(body, now=now, **options)._asdict()
        from rag.ingest.files import read_file

        return {"entries": read_file(body, job["name"], now)}
    except FormatError as err:
        return {"error": err.message, "hint": err.hint}
    except MemoryError:
        return {"error": _("reading it takes too much memory"), "hint": ""}
    except (RecursionError, Exception) as err:  # noqa: BLE001 - any library may fail in any way on hostile bytes; named, and the next job goes on
        return {"error": _("it cannot be read ({why})").format(why=type(err).__name__), "hint": ""}


def limit() -> None:
    """Bound what this process may take; a no-op where the system has no such limits."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def alarm(seconds: float) -> None:
    """End this process after so many seconds of its CPU time, whatever it is doing then.

    A busy machine makes a sound feed slow, but not hungrier. 0 takes the alarm back.
    """
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    main()
