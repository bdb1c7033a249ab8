"""One round now: start the Flower run, wait for its end, read its report.

`flwr run` comes back at once and with status 0 whatever becomes of the run, so the end is read from
`flwr list`, and what happened from the report that the ServerApp writes.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from federation import bundle, durable
from federation.errors import ProcessError, RoundError
from server.config import ServerConfig, ServerHome
from server.control import SuperLink
from server.serve import Running, running

POLL_S = 0.5
ASK_EVERY_S = 30.0
SETTLE_S = 2.0
MARGIN_S = 900.0
COMPLETED = "finished:completed"
_REPORT = re.compile(r"^([0-9]+)\.json$")


def report_paths(home: ServerHome) -> dict[int, Path]:
    """Round number -> its report, ascending."""
    if not home.rounds.is_dir():
        return {}
    found = ((_REPORT.match(path.name), path) for path in home.rounds.iterdir())
    return dict(sorted((int(match.group(1)), path) for match, path in found if match))


def next_report_path(home: ServerHome) -> Path:
    """Where the report of the next round goes."""
    return home.rounds / f"{max(report_paths(home), default=0) + 1}.json"


def read_report(path: Path) -> dict[str, Any]:
    """One report as JSON, its number under "round".

    Raises:
        RoundError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise RoundError(f"the report {path} cannot be read: {err}") from err
    return {"round": int(path.stem), **content}


def run_rounds(
    home: ServerHome,
    config: ServerConfig,
    *,
    mode: str = "collect",
    rounds: int = 1,
    say: Callable[[str], None] = lambda _line: None,
    clock: Callable[[], float] = time.monotonic,
) -> list[dict[str, Any]]:
    """Run `rounds` rounds in one Flower run; returns their reports.

    Raises:
        RoundError: the server is not up or went down, the run failed, or it outlived its deadline.
        ConscienceError: another round is running.
    """
    server = running(home)
    if server is None:
        raise RoundError("the server is not up", hint="Run: flower-server up")
    with durable.locked(home.round_lock, timeout_s=0.0, busy="another round is running"):
        before = set(report_paths(home))
        superlink = SuperLink(home)
        app = bundle.write_app(home.app)
        run_id = superlink.start_run(app, [f"mode='{mode}'", f"num-server-rounds={rounds}"])
        say(f"round started (Flower run {run_id})")
        deadline = clock() + rounds * config.round_deadline_s + MARGIN_S
        waiting = _Waiting(home, superlink, run_id, before, rounds)
        status = waiting.status(clock)
        while not status.startswith("finished"):
            if clock() > deadline:
                superlink.stop_run(run_id)
                raise RoundError(
                    f"the round was stopped: it outlived its deadline (Flower run {run_id})",
                    hint="What nodes handed over is in the spool; the next round uses it.",
                )
            _require_same(home, server)
            time.sleep(POLL_S)
            status = waiting.status(clock)
        reports = [path for number, path in report_paths(home).items() if number not in before]
        if status != COMPLETED:
            raise RoundError(
                f"the Flower run {run_id} ended as {status}",
                hint=f"See {home.logs / 'superexec.log'}; the next round uses what was received.",
            )
        return [read_report(path) for path in reports]


def _require_same(home: ServerHome, server: Running) -> None:
    if running(home) != server:
        raise RoundError(
            "the server went down in the middle of the round",
            hint="Start it (flower-server up) and run a round: it uses what was received.",
        )


class _Waiting:
    """Asks for a run's status seldom, and at once when its reports are there.

    Each question starts a Python process, which a small machine in a round can ill afford.
    """

    def __init__(
        self, home: ServerHome, superlink: SuperLink, run_id: str, before: set[int], rounds: int
    ) -> None:
        self._home = home
        self._superlink = superlink
        self._run_id = run_id
        self._before = before
        self._rounds = rounds
        self._ask_at = 0.0

    def status(self, clock: Callable[[], float]) -> str:
        """The run's status, or "running" while it is too early to ask."""
        done = len(set(report_paths(self._home)) - self._before) >= self._rounds
        now = clock()
        if self._ask_at == 0.0:
            self._ask_at = now + ASK_EVERY_S
        if done:
            self._ask_at = min(self._ask_at, now)
        if now < self._ask_at:
            return "running"
        self._ask_at = now + (SETTLE_S if done else ASK_EVERY_S)
        try:
            return self._superlink.run_status(self._run_id)
        except ProcessError:
            return "running"  # the SuperLink may be restarting; the deadline bounds this
