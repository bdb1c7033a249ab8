"""Real child processes under the supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from federation.errors import ProcessError, RevokedError
from federation.processes import Child, RestartPolicy, Stop, Supervisor

LIMIT_S = 60.0
QUICK = RestartPolicy(first_s=0.02, longest_s=0.05)
SLEEP = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP
WITH_GRANDCHILD = (
    "import subprocess, sys, time; "
    f"print('grandchild', subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid, flush=True); "
    "time.sleep(600)"
)


@pytest.fixture
def stopping() -> Iterator[list[Supervisor]]:
    """Supervisors put in here are stopped when the test ends, whatever happened."""
    started: list[Supervisor] = []
    yield started
    for supervisor in started:
        supervisor.stop()


def waiting_for(go: Path) -> str:
    """The beginning of a child that ends at once: else it may be gone before it is seen alive."""
    return f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\n"


def child(tmp_path: Path, code: str, name: str = "fake", **other: object) -> Child:
    """A child that runs Python code."""
    made = Child(
        name,
        [sys.executable, "-c", code],
        dict(os.environ),
        tmp_path / f"{name}.log",
        restart=QUICK,
    )
    return replace(made, **other)  # type: ignore[arg-type]


def tick_until(supervisor: Supervisor, condition: Callable[[], bool]) -> None:
    """Look at the children until `condition` holds."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        supervisor.tick()
        time.sleep(0.02)


def wait_until_gone(pid: int) -> None:
    """Wait until a process has ended (a zombie has)."""
    deadline = time.monotonic() + LIMIT_S
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def started(
    stopping: list[Supervisor], children: list[Child], names: dict[str, str] | None = None
) -> Supervisor:
    """A started supervisor; waits until each child named in `names` has printed that text."""
    supervisor = Supervisor(children, poll_s=0.02)
    stopping.append(supervisor)
    supervisor.start()
    for name, text in (names or {}).items():
        tick_until(supervisor, lambda name=name, text=text: text in supervisor.tail(name))  # type: ignore[misc]
    return supervisor


def test_a_restart_is_put_off_until_it_is_allowed(
    tmp_path: Path, stopping: list[Supervisor]
) -> None:
    asked: list[bool] = []

    def may_restart() -> bool:
        asked.append(len(asked) >= 2)
        return asked[-1]

    supervisor = started(stopping, [child(tmp_path, SLEEP, may_restart=may_restart)])
    assert asked == [], "the first start is nobody's question"
    before = supervisor.pid("fake")
    assert before is not None
    os.kill(before, signal.SIGKILL)
    tick_until(supervisor, lambda: supervisor.pid("fake") not in (None, before))
    assert asked == [False, False, True]
    assert supervisor.restarts("fake") == 1


def test_children_start_in_order_and_stop_in_reverse(
    tmp_path: Path, stopping: list[Supervisor]
) -> None:
    events = tmp_path / "events"
    code = (
        "import signal, sys, time\n"
        f"say = lambda what: open({str(events)!r}, 'a').write(what + chr(10))\n"
        "def end(*_): say('stop ' + sys.argv[1]); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "time.sleep(float(sys.argv[2])); say('start ' + sys.argv[1])\n"
        "while True: time.sleep(0.05)"
    )

    def one(name: str, delay: str) -> Child:
        made = child(
            tmp_path,
            code,
            name,
            ready=lambda: events.exists() and f"start {name}" in events.read_text(),
        )
        return replace(made, argv=[*made.argv, name, delay])

    supervisor = started(stopping, [one("first", "0.3"), one("second", "0"), one("third", "0")])
    supervisor.stop()
    assert events.read_text().splitlines() == [
        "start first",
        "start second",
        "start third",
        "stop third",
        "stop second",
        "stop first",
    ]


def test_a_child_that_ends_before_it_is_ready_is_named_with_its_last_lines(
    tmp_path: Path,
) -> None:
    good = child(tmp_path, SLEEP, "good")
    bad = child(tmp_path, "print('port taken'); raise SystemExit(3)", "bad", ready=lambda: False)
    supervisor = Supervisor([good, bad], poll_s=0.02)
    with pytest.raises(ProcessError, match=r"(?s)bad ended with status 3.*port taken"):
        supervisor.start()
    assert supervisor.pid("good") is None


def test_a_child_that_is_never_ready_is_given_up_at_its_deadline(tmp_path: Path) -> None:
    late = child(tmp_path, SLEEP, "late", ready=lambda: False, ready_within_s=0.2)
    supervisor = Supervisor([late], poll_s=0.02)
    with pytest.raises(ProcessError, match=r"late was not ready within 0\.2 s"):
        supervisor.start()
    assert supervisor.pid("late") is None


def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    lost = replace(child(tmp_path, SLEEP, "lost"), argv=[str(tmp_path / "nothing-here")])
    with pytest.raises(ProcessError, match="lost could not be started"):
        Supervisor([lost]).start()


@pytest.mark.parametrize("status", [0, 1])
def test_any_exit_leads_to_a_restart(
    tmp_path: Path, stopping: list[Supervisor], status: int
) -> None:
    go = tmp_path / "go"
    code = f"{waiting_for(go)}raise SystemExit({status})"
    supervisor = started(stopping, [child(tmp_path, code)])
    go.touch()
    tick_until(supervisor, lambda: supervisor.restarts("fake") >= 3)
    assert supervisor.restarts("fake") >= 3


def test_a_judge_ends_it_with_an_error_of_its_own(
    tmp_path: Path, stopping: list[Supervisor]
) -> None:
    def judge(which: Child, tail: str) -> Stop | None:
        return Stop(f"{which.name} is revoked", RevokedError) if "2004" in tail else None

    go = tmp_path / "go"
    code = waiting_for(go) + (
        f"n = len(os.listdir({str(tmp_path / 'runs')!r})); "
        f"open({str(tmp_path / 'runs')!r} + '/' + str(n), 'w'); print('code 2004' if n else 'net')"
    )
    (tmp_path / "runs").mkdir()
    supervisor = started(stopping, [child(tmp_path, code, judge=judge)])
    go.touch()
    with pytest.raises(RevokedError, match="fake is revoked"):
        tick_until(supervisor, lambda: False)
    assert supervisor.restarts("fake") == 1


def test_a_child_without_life_is_killed_and_started_again(
    tmp_path: Path, stopping: list[Supervisor]
) -> None:
    answers = iter([True, False])
    supervisor = Supervisor(
        [child(tmp_path, SLEEP, alive=lambda: next(answers, True), probe_every_s=0.05)],
        poll_s=0.02,
    )
    stopping.append(supervisor)
    supervisor.start()
    first = supervisor.pid("fake")
    tick_until(supervisor, lambda: supervisor.restarts("fake") == 1)
    assert first is not None
    wait_until_gone(first)
    assert supervisor.pid("fake") not in (None, first)


def test_a_child_that_ignores_sigterm_is_killed_after_its_grace(
    tmp_path: Path, stopping: list[Supervisor]
) -> None:
    supervisor = started(stopping, [child(tmp_path, STUBBORN, grace_s=0.3)], {"fake": "up"})
    pid = supervisor.pid("fake")
    supervisor.stop()
    assert pid is not None
    assert not is_running(pid)


def test_what_a_child_started_ends_with_it(tmp_path: Path, stopping: list[Supervisor]) -> None:
    supervisor = started(stopping, [child(tmp_path, WITH_GRANDCHILD)], {"fake": "grandchild"})
    grandchild = int(supervisor.tail("fake").split()[1])
    assert is_running(grandchild)
    supervisor.stop()
    wait_until_gone(grandchild)


def test_what_a_crashed_child_started_ends_before_the_restart(
    tmp_path: Path, stopping: list[Supervisor]
) -> None:
    supervisor = started(stopping, [child(tmp_path, WITH_GRANDCHILD)], {"fake": "grandchild"})
    grandchild = int(supervisor.tail("fake").split()[1])
    pid = supervisor.pid("fake")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    tick_until(supervisor, lambda: supervisor.restarts("fake") == 1)
    wait_until_gone(grandchild)


SUPERVISED = """
import os, sys
from pathlib import Path
from federation.processes import Child, Supervisor
code, folder = sys.argv[1:3]
child = Child("fake", [sys.executable, "-c", code], dict(os.environ), Path(folder) / "fake.log")
supervisor = Supervisor([child], poll_s=0.05)
tail = lambda: " ".join(supervisor.tail("fake").split())
supervisor.run(each=lambda: print(tail(), supervisor.pid("fake"), flush=True))
print("stopped cleanly", flush=True)
"""


def run_supervisor(tmp_path: Path, code: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A supervisor in a process of its own; returns it and the pids it printed, once it has."""
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISED, code, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        pids = [int(word) for word in line.split() if word.isdigit()]
        if len(pids) >= (2 if "Popen" in code else 1) and ("up" in line or "grand" in line):
            return process, pids
    raise AssertionError("the supervisor ended")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    process, pids = run_supervisor(tmp_path, SLEEP)
    process.send_signal(number)
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert output.rstrip().endswith("stopped cleanly")
    assert not any(is_running(pid) for pid in pids)


@pytest.mark.skipif(os.name != "posix", reason="the leash needs process groups")
def test_children_and_grandchildren_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    process, pids = run_supervisor(tmp_path, WITH_GRANDCHILD)
    process.kill()
    process.communicate(timeout=LIMIT_S)
    for pid in pids:
        wait_until_gone(pid)
    assert pids
    assert not any(is_running(pid) for pid in pids)


def test_signals_are_left_alone_outside_the_main_thread(tmp_path: Path) -> None:
    supervisor = Supervisor([child(tmp_path, SLEEP)], poll_s=0.02)
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    supervisor.request_stop()
    thread.join(LIMIT_S)
    assert not thread.is_alive()
    assert signal.getsignal(signal.SIGTERM) is before
