"""Child processes: start in order, wait until ready, watch, restart with backoff, stop.

A child is restarted on any exit, a clean one too: Flower's processes end with status 0 when their
server disappears. `judge` sees what the child printed last and may say "do not restart, because".
Each child leads its own process group, so that what it started ends with it; a leash process
(`federation.leash`) ends them all if this process is killed (POSIX).

Not thread-safe: `start`, `tick`, `run` and `stop` belong to one thread, the main one if signals
are to be handled. `request_stop` may be called from anywhere.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from federation.errors import ConscienceError, ProcessError
from federation.leash import Leash
from federation.process_group import is_running, signal_group
from federation.process_log import ProcessLog

logger = logging.getLogger(__name__)

POLL_S = 0.2
SHOWN_LINES = 12


@dataclass(frozen=True)
class RestartPolicy:
    """How long to wait before a child is started again.

    Attributes:
        first_s: before the first restart; doubles with each further one.
        longest_s: upper bound.
        settle_s: a child that lived this long starts again at `first_s`.
    """

    first_s: float = 1.0
    longest_s: float = 60.0
    settle_s: float = 60.0

    def delay(self, failures: int, rng: random.Random) -> float:
        """Seconds before restart number `failures` (from 1), with jitter of half down to full."""
        full = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return full * rng.uniform(0.5, 1.0)


@dataclass(frozen=True)
class Stop:
    """A judge's verdict: do not restart; end everything and raise `kind(reason, hint=hint)`."""

    reason: str
    kind: type[ConscienceError] = ProcessError
    hint: str = ""


@dataclass(frozen=True)
class Child:
    """What to run and how to look after it.

    Attributes:
        name: for people, logs and errors.
        argv: program (absolute path) and arguments; nothing secret.
        env: the whole environment.
        log_path: receives stdout and stderr, mode 0600, rotated.
        ready: True once the child answers; None means ready when started. Must not block.
        restart: backoff.
        may_restart: asked before every restart; False puts it off by the longest backoff.
        judge: called with the child and what this run printed last, on an exit; see `Stop`.
        alive: liveness probe, called every `probe_every_s` once ready; False means kill and
            restart. Must answer within a second or two.
        cwd: working folder; None keeps ours.
        ready_within_s: deadline of `ready`.
        grace_s: between SIGTERM and SIGKILL.
        probe_every_s: pause between liveness probes.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log_path: Path
    ready: Callable[[], bool] | None = None
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    may_restart: Callable[[], bool] | None = None
    judge: Callable[[Child, str], Stop | None] | None = None
    alive: Callable[[], bool] | None = None
    cwd: Path | None = None
    ready_within_s: float = 180.0
    grace_s: float = 10.0
    probe_every_s: float = 15.0


class Supervisor:
    """Runs `children`: starts them in order, stops them in reverse.

    Args:
        children: names must differ.
        clock: monotonic seconds.
        rng: source of the jitter.
        poll_s: pause between two looks at the children.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        if len({child.name for child in children}) != len(children):
            raise ValueError("two children of the same name")
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._poll_s = poll_s
        self._leash: Leash | None = None
        self._units = [_Unit(child, clock) for child in children]
        self._stopping = False

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for."""
        return self._stopping

    def request_stop(self) -> None:
        """Ask `run` or `start` to come back; safe in a signal handler."""
        self._stopping = True

    def pid(self, name: str) -> int | None:
        """Process id of a child, None while it is down."""
        return self._unit(name).pid

    def restarts(self, name: str) -> int:
        """How often a child was started again."""
        return self._unit(name).restarts

    def tail(self, name: str) -> str:
        """What the present (or last) run of a child printed last."""
        return self._unit(name).tail()

    def start(self) -> None:
        """Start every child, each after the one before is ready.

        Raises:
            ProcessError: a child ended or was not ready in time; it is named, with its last log
                lines. What was already started is stopped.
            ConscienceError: of the kind a judge asked for.
        """
        self._leash = Leash() if os.name == "posix" else None
        try:
            for unit in self._units:
                if self._stopping:
                    return
                unit.launch(self._leash)
                self._await(unit)
        except BaseException:
            self.stop()
            raise

    def tick(self) -> None:
        """Look at every child once: restart what ended, probe what is due.

        Raises:
            ConscienceError: of the kind a judge asked for; nothing is stopped yet.
        """
        for unit in self._units:
            unit.tick(self._leash, self._rng)

    def run(self, each: Callable[[], None] | None = None) -> None:
        """Start, watch until SIGTERM, SIGINT, SIGHUP or `request_stop`, then stop.

        Args:
            each: called after every look at the children (a few times a second).

        Raises:
            ConscienceError: as `start` and `tick`; everything is stopped first.
        """
        with _signals(self.request_stop):
            try:
                self.start()
                while not self._stopping:
                    self.tick()
                    if each is not None:
                        each()
                    time.sleep(self._poll_s)
            finally:
                self.stop()

    def stop(self) -> None:
        """Stop in reverse order: SIGTERM to the group, SIGKILL after the grace. Idempotent."""
        self._stopping = True
        for unit in reversed(self._units):
            unit.stop(self._leash)
        if self._leash is not None:
            self._leash.close()
            self._leash = None

    def _unit(self, name: str) -> _Unit:
        return next(unit for unit in self._units if unit.child.name == name)

    def _await(self, unit: _Unit) -> None:
        deadline = self._clock() + unit.child.ready_within_s
        while not self._stopping:
            if (code := unit.poll()) is not None:
                unit.raise_if_judged()
                raise _not_started(unit, f"ended with status {code} before it was ready")
            if unit.check_ready():
                logger.info("%s is ready (pid %s)", unit.child.name, unit.pid)
                return
            if self._clock() > deadline:
                late = f"was not ready within {unit.child.ready_within_s:g} s"
                raise _not_started(unit, late)
            time.sleep(min(self._poll_s, 0.1))


class _Unit:
    """One child with its present process, log and backoff."""

    def __init__(self, child: Child, clock: Callable[[], float]) -> None:
        self.child = child
        self.restarts = 0
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._group = 0
        self._log = ProcessLog(child.log_path)
        self._failures = 0
        self._started_at = 0.0
        self._restart_at = 0.0
        self._probe_at = 0.0
        self._is_ready = False

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def tail(self, lines: int = 200) -> str:
        return self._log.tail(lines)

    def finish_log(self) -> None:
        self._log.finish()

    def launch(self, leash: Leash | None) -> None:
        child = self.child
        self._log = ProcessLog(child.log_path)
        try:
            process = subprocess.Popen(  # noqa: S603 - argv is ours, no shell
                list(child.argv),
                env=dict(child.env),
                cwd=child.cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as err:
            raise ProcessError(f"{child.name} could not be started: {err}") from err
        self._process, self._group = process, process.pid
        if leash is not None:
            leash.hold(process.pid)
        if process.stdout is not None:
            self._log.follow(process.stdout)
        self._started_at = self._probe_at = self._clock()
        self._is_ready = False
        logger.info("%s started (pid %d)", child.name, process.pid)

    def poll(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return None if self._process is None else self._process.poll()

    def check_ready(self) -> bool:
        if not self._is_ready:
            self._is_ready = self.child.ready is None or self.child.ready()
            self._probe_at = self._clock() + self.child.probe_every_s
        return self._is_ready

    def tick(self, leash: Leash | None, rng: random.Random) -> None:
        if self._process is None:
            if self._clock() < self._restart_at:
                return
            if self.child.may_restart is None or self.child.may_restart():
                self._launch_again(leash)
            else:
                self._restart_at = self._clock() + self.child.restart.longest_s
            return
        code = self.poll()
        if code is not None:
            self._note_exit(code, rng)
        elif not self._is_well():
            logger.warning("%s (pid %d) does not respond, killed", self.child.name, self.pid)
            signal_group(self._group, self._process, hard=True)

    def raise_if_judged(self) -> None:
        self._log.finish()
        if self.child.judge is None:
            return
        stop = self.child.judge(self.child, self.tail())
        if stop is not None:
            raise stop.kind(stop.reason, hint=stop.hint)

    def stop(self, leash: Leash | None) -> None:
        process, self._process = self._process, None
        self._restart_at = float("inf")
        if self._group == 0:
            return
        deadline = self._clock() + self.child.grace_s
        signal_group(self._group, process, hard=False)
        while is_running(self._group, process) and self._clock() < deadline:
            time.sleep(0.05)
        signal_group(self._group, process, hard=True)
        if process is not None:
            logger.info("%s stopped (status %s)", self.child.name, process.wait())
        self._log.finish()
        self._let_go(leash)

    def _is_well(self) -> bool:
        now = self._clock()
        if not self.check_ready():
            return now < self._started_at + self.child.ready_within_s
        if self.child.alive is None or now < self._probe_at:
            return True
        self._probe_at = now + self.child.probe_every_s
        return self.child.alive()

    def _note_exit(self, code: int, rng: random.Random) -> None:
        process, self._process = self._process, None
        signal_group(self._group, process, hard=False)  # what it started, if anything is left
        self.raise_if_judged()
        lived = self._clock() - self._started_at
        self._failures = 1 if lived >= self.child.restart.settle_s else self._failures + 1
        delay = self.child.restart.delay(self._failures, rng)
        self._restart_at = self._clock() + delay
        logger.warning("%s ended with status %d, restart in %.1f s", self.child.name, code, delay)

    def _launch_again(self, leash: Leash | None) -> None:
        if self._group:
            signal_group(self._group, None, hard=True)
            self._let_go(leash)
        self.restarts += 1
        self.launch(leash)

    def _let_go(self, leash: Leash | None) -> None:
        if leash is not None and self._group:
            leash.release(self._group)
        self._group = 0


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_listening(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something accepts connections on a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(2.0)
        return probe.connect_ex((host, port)) == 0


def _not_started(unit: _Unit, what: str) -> ProcessError:
    unit.finish_log()
    shown = unit.tail(SHOWN_LINES) or "(it printed nothing)"
    return ProcessError(
        f"{unit.child.name} {what}; its last lines:\n{shown}",
        hint=f"The whole log is in {unit.child.log_path}",
    )


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGTERM, SIGINT and SIGHUP for the length of the block (main thread only)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop()

    names = ("SIGTERM", "SIGINT", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
