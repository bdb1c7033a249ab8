"""The forwarder: 127.0.0.1:p → SOCKS → server, for programs that speak TLS but no SOCKS.

A server that is down is a dropped connection to them, whatever tor says of it: a local connection
is dialled again and again for a while, then reset. Reset, not closed: to a TLS client an orderly
end before the first answer is a fault of TLS, and Flower never tries again after one.

    (echo HOST:PORT; cat) | python -m federation.tor.forwarder 127.0.0.1:9050
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import threading
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple, Self

from federation import redaction
from federation.errors import TorError
from federation.tor.relay import CHUNK_BYTES, StalledError, Stream, finish, relay, reset
from federation.tor.socks import SocksAddress, SocksError, dial

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
BACKLOG = 512


class Patience(NamedTuple):
    """With a server that cannot be reached: how long to dial, the pauses in between.

    In sum below 30 s, where Flower's TLS handshake times out: after that it never tries again.
    """

    dial_s: float = 25.0
    answer_s: float = 3.0  # from then until the server's first bytes
    silence_s: float = 10.0  # of one dial: longer, and its circuit is taken for dead
    stall_s: float = 15.0  # of a connection that has waited for an answer
    first_pause_s: float = 0.5
    longest_pause_s: float = 8.0

    def pause_s(self, failures: int) -> float:
        """Pause after so many failures in a row: doubled each time, with jitter."""
        full = min(self.longest_pause_s, self.first_pause_s * 2.0 ** min(failures - 1, 30))
        return full * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret


PATIENCE = Patience()


@dataclass(frozen=True)
class Attempt:
    """How a dial ended, `at` in seconds since the epoch; `failures` in a row, with this one."""

    at: float
    ok: bool
    code: int | None = None
    sentence: str = ""
    leg: str = ""
    is_final: bool = False
    failures: int = 0


class Forwarder:
    """Listens on 127.0.0.1 in a thread of its own; a context manager.

    Args:
        socks: tor's SOCKS port, or what tells it before each dial (a restarted tor has another):
            that must not block, and raises TorError while there is none.
        host: the server's; `port` likewise.
        purpose: connections of other purposes go over other circuits.
        patience: how long a local connection waits for the server; None is `PATIENCE`.
        on_attempt: told of each dial, in the forwarder's thread.
    """

    def __init__(
        self,
        socks: SocksAddress | Callable[[], SocksAddress],
        host: str,
        port: int,
        *,
        purpose: str,
        patience: Patience | None = None,
        on_attempt: Callable[[Attempt], None] | None = None,
    ) -> None:
        self.last: Attempt | None = None
        self._socks, self._host, self._port, self._purpose = socks, host, port, purpose
        self._patience, self._on_attempt, self._failures = patience or PATIENCE, on_attempt, 0
        self._circuit, self._is_new = 1, False
        self._ready: Future[tuple[int, Callable[[], object]]] = Future()
        self._thread = threading.Thread(target=self._run, name=f"forwarder {purpose}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.result()
        return self

    def __exit__(self, *_: object) -> None:
        self._ready.result()[1]()
        self._thread.join()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"{HOST}:{self._ready.result()[0]}"

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except OSError as err:
            self._ready.set_exception(err)

    async def _serve(self) -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        def connected(reader: StreamReader, writer: StreamWriter) -> None:
            if stop.is_set():
                reset(writer)
                return
            task = loop.create_task(self._carry((reader, writer)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            task.add_done_callback(lambda _task: reset(writer))  # also if it never began

        server = await asyncio.start_server(connected, HOST, 0, limit=CHUNK_BYTES, backlog=BACKLOG)
        port = int(server.sockets[0].getsockname()[1])
        self._ready.set_result((port, lambda: loop.call_soon_threadsafe(stop.set)))
        await stop.wait()
        # Not only ours: a connection just accepted is lost, and open, unless it gets to `connected`
        # while the server stands.
        while running := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(running)
        server.close()

    async def _carry(self, near: Stream) -> None:
        deadline = asyncio.get_running_loop().time() + self._patience.dial_s
        far = await self._dial(deadline)
        circuit = self._circuit
        if far is None:
            return
        try:
            answer_by = deadline + self._patience.answer_s
            if await relay(near, far, answer_by, self._patience.stall_s):
                await finish(near)
        except StalledError:
            logger.info("%s: no answer to what was sent", self._purpose)
            self._give_up(circuit)

    async def _dial(self, deadline: float) -> Stream | None:
        loop = asyncio.get_running_loop()
        server = (self._host, self._port)
        while True:
            left_s, circuit = deadline - loop.time(), self._circuit
            wait_s = left_s if self._is_new else min(left_s, self._patience.silence_s)
            purpose = f"{self._purpose} {circuit}" if circuit > 1 else self._purpose
            try:
                socks = self._socks() if callable(self._socks) else self._socks
                far = await dial(socks, *server, purpose=purpose, timeout_s=wait_s)
            except TorError as err:
                attempt = self._note(err)
                if isinstance(err.__cause__, TimeoutError):
                    self._give_up(circuit)
            else:
                self._note(None)
                self._is_new = False
                return far
            pause_s = self._patience.pause_s(attempt.failures)
            enough_s = self._patience.dial_s / 8  # less is not worth a dial
            if attempt.is_final or deadline - loop.time() - pause_s < enough_s:
                return None
            await asyncio.sleep(pause_s)

    def _give_up(self, circuit: int) -> None:
        """Dial over other circuits from now on.

        A service whose tor was killed can leave one behind that leads nowhere and that tor uses
        on, for minutes.
        """
        if circuit == self._circuit:
            self._circuit, self._is_new = circuit + 1, True

    def _note(self, err: TorError | None) -> Attempt:
        self._failures = 0 if err is None else self._failures + 1
        code, leg, is_final = None, "" if err is None else "tor", False
        if isinstance(err, SocksError):
            code, leg, is_final = err.code, err.leg, err.is_final
        attempt = Attempt(
            time.time(), err is None, code, str(err or ""), leg, is_final, self._failures
        )
        if err is not None or (self.last and not self.last.ok):
            logger.info("%s: %s", self._purpose, attempt)
        self.last = attempt
        if self._on_attempt is not None:
            self._on_attempt(attempt)
        return attempt


def main() -> None:
    """Forward until the standard input ends; its first line names the server (not in `ps`)."""
    redaction.install()
    socks = SocksAddress.parse(sys.argv[1])
    host, _colon, port = sys.stdin.readline().strip().rpartition(":")
    with Forwarder(socks, host, int(port), purpose="forwarder") as forwarder:
        sys.stdout.write(f"{forwarder.address}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
