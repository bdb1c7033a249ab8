"""The benchmark of rounds in memory runs, and both of its sides do the same work."""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from typing import Any

import bench_simulation
import numpy as np
import pytest
from bench_simulation import NO_RAY, OURS, main, measure, parse
from bench_simulation_flower import client_app, record_of, server_app, start_of, trainer
from flwr.app import Context, Error, Message, RecordDict

from federation.errors import ProcessError
from server.compare.in_process import InProcessGrid
from strategies.compare.federate import Job
from strategies.compare.lab import Lab
from strategies.compare.setting import Setting

pytestmark = pytest.mark.strategies


def test_the_benchmark_counts_clients_and_rounds() -> None:
    asked = ["--clients=4", "--train=lab:3,lab-each:3,semilla:2:1", "--rounds=1", "--ours-alone"]
    rows = list(measure(parse(asked)))
    assert [row["case"] for row in rows] == ["idle:4", "lab:3", "lab-each:3", "semilla:2:1"]
    assert [row["clients"] for row in rows] == [4, 3, 3, 2]
    assert {row["side"] for row in rows} == {OURS}
    for row in rows:
        figures = ("first_s", "per_s", "per_cpu_s", "rounds_a_minute", "peak_mb")
        assert min(row[name] for name in figures) > 0


def test_without_ray_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_simulation, "has_ray", lambda: False)
    main(["--clients=", "--train=lab:2", "--rounds=1"])
    first, last = capsys.readouterr().out.splitlines()
    assert first.split()[:2] == ["lab:2", OURS]
    assert last == NO_RAY


def play(kind: str, app: Any) -> tuple[list[Message], int]:
    """Two rounds of two clients; what was sent, and how many rounds came to an end."""
    ends: list[tuple[float, float]] = []
    sent: list[Message] = []

    def watched(message: Message, context: Context) -> Message:
        sent.append(message)
        found: Message = app(message, context)
        return found

    context = Context(1, 1, {}, RecordDict(), {})
    with closing(InProcessGrid(watched, 2)) as grid:
        server_app(start_of(kind, 1.0), 2, 2, ends)(grid, context)
    return sent, len(ends)


@pytest.mark.parametrize("kind", ["idle", "lab", "semilla"])
def test_flowers_side_runs_the_same_clients_round_by_round(kind: str) -> None:
    sent, rounds = play(kind, client_app(kind, 2, 2))
    assert (len(sent), rounds) == (4, 2)
    first, *_, last = (dict(message.content["arrays"]) for message in sent)
    same = [np.array_equal(first[name].numpy(), last[name].numpy()) for name in first]
    assert all(same) == (kind == "idle")


def test_a_client_of_flowers_that_fails_ends_the_benchmark() -> None:
    def fail(message: Message, _context: Context) -> Message:
        return Message(Error(code=2, reason="out of texts"), reply_to=message)

    with pytest.raises(ProcessError, match="out of texts"):
        play("idle", fail)


def test_a_client_of_the_lab_learns_the_same_on_both_sides() -> None:
    setting = Setting(clients=3, rank=bench_simulation.RANK)
    start = Lab(setting).initial()
    jobs = [Job(client, 1, start, frozenset("AB")) for client in range(3)]
    ours = list(Lab(setting).train(jobs))
    theirs = [trainer("lab", 3, 40)(start, client, 1) for client in range(3)]
    for mine, other in zip(ours, theirs, strict=True):
        assert all(np.array_equal(mine[name], other[name]) for name in start)
    sent = record_of(theirs[0])
    assert {name: array.numpy().shape for name, array in islice(sent.items(), 2)} == {
        name: value.shape for name, value in start.items()
    }
