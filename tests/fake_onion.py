"""A tor that publishes a server's onion service, played by a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self

from federation.errors import TorError
from federation.tor.bootstrap import Bootstrap
from server.onion import Onion

PROGRAM = "#!/bin/sh\necho 'pow: yes'\n"  # in place of the tor program: what is asked of it alone


@dataclass
class FakeTor:
    """Answers as a Control would; `asked` is what it was told to do.

    Attributes:
        refuses: so many publications before one is taken.
        has_descriptor: whether a directory has the service.
    """

    socks_address: str = ""
    percent: int = 100
    refuses: int = 0
    has_descriptor: bool = True
    asked: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.asked.append("close")

    def bootstrap(self) -> Bootstrap:
        return Bootstrap(self.percent)

    def reload(self) -> None:
        self.asked.append("reload")

    def newnym(self) -> None:
        self.asked.append("newnym")

    def halt(self) -> None:
        self.asked.append("halt")

    def info(self, key: str) -> str:
        return {"process/pid": "77"}[key]

    def socks(self) -> list[str]:
        return [self.socks_address]

    def fetch(self, _host: str, _timeout_s: float) -> bool:
        self.asked.append("fetch")
        return self.has_descriptor

    @contextmanager
    def uploads(self, host: str) -> Iterator[FakeTor]:
        self.asked.append(f"watch {host[:4]}")
        yield self

    def wait(self, _timeout_s: float) -> int:
        self.refuses -= 1
        if self.refuses >= 0:
            raise TorError("refused")
        return 8


class OnionOf(Onion):
    """The service of a server whose tor is a fake; None: the server is down."""

    tor: FakeTor | None = None

    def control(self) -> FakeTor | None:  # type: ignore[override]
        return self.tor
