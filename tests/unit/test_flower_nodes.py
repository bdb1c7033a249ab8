"""A cell over Flower's messages is the cell in memory, to the last bit, whoever plays the nodes.

Here the grid is that of `flower-server compare`; `tests/integration/test_simulation.py` runs
`flwr run`.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

from client.virtual import VirtualNodes
from federation.adapter.format import initial_arrays
from federation.adapter.tensors import save_tensors
from federation.errors import ConfigError, ConscienceError, ProcessError, UsageError
from server.compare import grid, one_cell
from server.compare.client_app import app
from server.compare.flower_nodes import FlowerNodes, gathered
from server.compare.in_process import InProcessGrid
from server.compare.players import STAGE, Player, Question
from strategies.compare.federate import Task, federate
from strategies.compare.lab import MODULE, Lab, lab_spec
from strategies.compare.setting import Setting
from tests.adapter_samples import random_arrays
from tests.fake_grid import FakeGrid
from tests.tiny_model import make_tiny_llama, text_rows, write_rows

pytestmark = pytest.mark.strategies
ROOT = Path(__file__).resolve().parents[2]
APP = tomllib.loads((ROOT / "server/simulation/pyproject.toml").read_text(encoding="utf-8"))
USUAL: dict[str, Any] = APP["tool"]["flwr"]["app"]["config"]
SMALL: dict[str, Any] = {"clients": 3, "rounds": 2, "steps": 3, "seed": 2}


@pytest.fixture(autouse=True)
def nobody_is_left_on_the_stage() -> Iterator[None]:
    STAGE.close()
    yield
    STAGE.close()


def flower(nodes: int = 3, workers: int = 2) -> InProcessGrid:
    """Some nodes, played by fewer players, whoever is free."""
    return InProcessGrid(app, nodes, workers=workers)


def ran(over: Grid, **config: Any) -> dict[str, Any]:
    """The record of a cell, without its seconds."""
    told: list[str] = []
    record = one_cell.run(over, USUAL | config, told.append)
    assert any(line.startswith("round 1: loss") for line in told)
    return record | {"seconds": None}


def in_memory(task: Task, setting: Setting) -> dict[str, Any]:
    record = federate(task, setting).to_json()
    found: dict[str, Any] = json.loads(json.dumps(record))
    return found | {"seconds": None}


@pytest.mark.parametrize(
    "wish",
    [
        {"strategy": "flora", "partition": "shift:2"},  # adds to the base
        {"strategy": "fedsa"},  # every node keeps its own B
        {"strategy": "rolora", "coding": "int8"},  # trains one factor at a time
        {"strategy": "flexlora", "ranks": "2:4:6", "attack": "flip:0.3:2"},
        {"strategy": "ffa", "proximal": 0.5, "noise": "local:1:0.5"},
        {"strategy": "flower-median"},
    ],
    ids=lambda wish: str(wish["strategy"]),
)
def test_a_cell_of_the_lab_is_the_same_over_flower(wish: Mapping[str, Any]) -> None:
    asked = count()

    def counted(message: Message, context: Context) -> Message:
        next(asked)
        return app(message, context)

    found = ran(InProcessGrid(counted, 3, workers=2), **SMALL, **wish)
    setting = Setting.from_json(found["setting"])
    assert (setting.strategy, setting.seed) == (wish["strategy"], 2)
    assert found == in_memory(Lab(setting), setting)
    assert next(asked) == setting.clients * setting.rounds


def test_fewer_nodes_than_clients_play_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.compare.flower_nodes.SETTLED_S", 0.0)
    three = ran(flower(nodes=3), **SMALL)
    assert ran(flower(nodes=1), **SMALL) == ran(flower(nodes=2), **SMALL) == three


def test_flowers_server_app_is_the_one_that_runs_the_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from server.simulation_server_app import app as server

    config = USUAL | SMALL | {"out": str(tmp_path)}
    with closing(flower()) as over:
        server(over, Context(1, 1, {}, RecordDict(), config))
    (path,) = (tmp_path / "cells").glob("*.json")
    last = ran(flower(), **SMALL)["rounds"][-1]
    assert json.loads(path.read_bytes())["rounds"][-1] == last
    assert f"loss {last['loss']:.6f}" in capsys.readouterr().err


def test_a_kept_cell_is_the_one_that_a_comparison_finds_there(tmp_path: Path) -> None:
    from server.compare.comparison import Place, compare
    from server.compare.study import Progress

    ran(flower(), **SMALL, out=str(tmp_path))
    (cell,) = grid.cells(grid.Wish(strategies=("fedit",), seeds=1, fixed={"clients": 3}))[0]
    cell = replace(cell, rounds=2, steps=3, seed=2)
    took: list[bool] = []
    progress = Progress(cell=lambda _done, _all, was_run: took.append(was_run))
    compare(Place(tmp_path, mlflow=False), [cell], resume=True, progress=progress)
    assert took == [False]


class Inside(VirtualNodes):
    """A `Worker` in this process; counts what it is asked."""

    opened = 0

    def ask(self, what: str, blob: bytes = b"", **values: Any) -> Any:
        Inside.opened += what == "open"
        return self.answer({"do": what, **values}, blob)

    def stop(self) -> None:
        pass

    def each(self, tasks: Any) -> Any:
        return [self.ask(what, blob, **values) for what, blob, values in tasks]


class Alone(Inside):
    """The one player of a comparison, without messages (`players.Players`)."""

    def add_base(self, delta: bytes) -> None:
        self.ask("base", delta)

    def reset_base(self) -> None:
        self.ask("base")

    def each(self, tasks: Any) -> Any:
        return iter(super().each(tasks))


def test_a_cell_on_a_model_is_the_same_over_flower_and_a_player_loads_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.compare.players.Worker", Inside)
    folder = make_tiny_llama(tmp_path / "tiny")
    rows = [row | {"lang": "en", "field": f"f{n % 2}"} for n, row in enumerate(text_rows(20))]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    wish = {"model": str(folder), "data": str(data), "strategy": "flora", "partition": "iid"}
    sizes = {"clients": 2, "rounds": 2, "steps": 1, "rank": 4, "tokens": 32}
    Inside.opened = 0
    found = ran(flower(nodes=2, workers=1), **wish, **sizes)
    assert Inside.opened == 1
    setting = Setting.from_json(found["setting"])
    with model_task(found, setting, wish) as task:
        assert found == in_memory(task, setting)
    assert found["rounds"][-1]["loss"] < found["rounds"][0]["loss"]


def model_task(
    found: Mapping[str, Any], setting: Setting, wish: Mapping[str, str]
) -> AbstractContextManager[Task]:
    """The task that a pool of workers would have, on one of this process."""
    from server.compare.comparison import Place, of_model, opening_of

    place = Place(Path(), wish["model"], (Path(wish["data"]),), search=Path(wish["model"]).parent)
    worker: Any = Alone()
    worker.opened, _ = worker.ask("open", **opening_of(place, [setting]))
    assert worker.opened["spec"]["base_hash"] == found["setting"]["task"]
    return of_model(worker).task(setting)


def ask(player: Player, setting: Setting, bases: list[bytes]) -> bytes:
    start = save_tensors(initial_arrays(lab_spec(setting.rank), 0))
    task = ("train", start, {"client": 0, "round": 1, "trains": ["A", "B"]})
    laid = [hashlib.sha256(base).hexdigest() for base in bases]
    ((_, found),) = player.answer(Question({"setting": setting.to_json()}, [task], laid, bases))
    return found


def test_what_lies_on_a_base_is_what_the_question_says_whoever_was_asked_before() -> None:
    setting, player = Setting(clients=2, steps=2), Player()
    one, two = (save_tensors(random_arrays(lab_spec(2), seed, 0.5)) for seed in (1, 2))
    orders = [[], [one], [one, two], [two], [], [one, two]]
    found = [ask(player, setting, bases) for bases in orders]
    assert found == [ask(Player(), setting, bases) for bases in orders]
    assert len(set(found)) == 4
    other = replace(setting, seed=1)
    assert ask(player, other, [one]) == ask(Player(), other, [one]) != found[1]
    assert MODULE.encode() in found[0]


def test_a_node_that_fails_or_says_nothing_ends_the_cell_with_its_reason() -> None:
    from flwr.app import Error

    def fail(message: Message) -> Message:
        return Message(Error(code=2, reason="no such partition"), reply_to=message)

    for node, reason in ((fail, "no such partition"), (lambda _message: None, "no answer")):
        with pytest.raises(ProcessError, match=reason):
            ran(FakeGrid({1: node, 2: node, 3: node}), **SMALL)  # type: ignore[arg-type]


def test_what_a_player_cannot_do_is_said_with_the_next_step_and_the_next_one_is_done() -> None:
    setting = Setting(clients=2, steps=2)
    good, bad = setting.to_json(), setting.to_json() | {"partition": "shift:x"}
    start = save_tensors(initial_arrays(lab_spec(setting.rank), 0))
    task = ("train", start, {"client": 0, "round": 1, "trains": ["A", "B"]})
    with closing(flower(nodes=1, workers=1)) as over:
        nodes = over.get_node_ids()
        (first,) = FlowerNodes(over, nodes, {"setting": good}).each([task])
        for opening in (bad, bad):
            with pytest.raises(UsageError, match="'shift:x' is no partition") as caught:
                next(FlowerNodes(over, nodes, {"setting": opening}).each([task]))
            assert caught.value.hint.startswith("Write shift:H")
        assert list(FlowerNodes(over, nodes, {"setting": good}).each([task])) == [first]
        assert list(FlowerNodes(over, nodes, {"setting": good}).each([])) == []


def test_without_nodes_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.compare.flower_nodes.PATIENCE_S", 0.0)
    with pytest.raises(ProcessError, match="no nodes"):
        gathered(FakeGrid({}), 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"out": "study"}, UsageError),
        ({"data": "rows.jsonl", "model": "semilla"}, UsageError),
        ({"strategy": "fedits"}, ConscienceError),
        ({"partition": "iid", "model": "lab"}, ConfigError),
        ({"rounds": -1}, ConfigError),
        ({"attack": "sign:2"}, ConfigError),
    ],
    ids=str,
)
def test_a_run_config_that_makes_no_sense_is_refused(
    wrong: dict[str, Any], kind: type[ConscienceError]
) -> None:
    with pytest.raises(kind):
        one_cell.read(USUAL | wrong)


def test_where_no_model_is_named_the_partition_says_which() -> None:
    found = {name: one_cell.read(USUAL | {"partition": name}) for name in ("", "shift:2", "iid")}
    assert [each.place.model for each in found.values()] == ["lab", "lab", "semilla"]
    assert [each.cell.partition for each in found.values()] == ["shift:1", "shift:2", "iid"]


def test_every_setting_of_a_comparison_is_one_of_the_apps() -> None:
    others = {"model", "data", "out", "strategy", "weigher", "optimiser", "partition", "attack"}
    others |= {"proximal", "noise", "screen", "seed", "lr"}
    assert USUAL.keys() == others | grid.FIXED.keys()
    given = {"weigher": "uniform+rfa", "optimiser": "adam", "screen": False, "lr": 0.03}
    fixed = {"clients": 6, "rounds": 7, "steps": 8, "rank": 3, "coding": "bf16"}
    fixed |= {"server_lr": 0.5, "batch": 4, "tokens": 9}
    cell = one_cell.read(USUAL | given | fixed | {"proximal": 0.1, "noise": "local:1:2"}).cell
    expected = replace(Setting(), **given, **fixed, proximal_mu=0.1, noise="local:1:2")
    assert cell == expected
    assert one_cell.read(USUAL).cell == replace(Setting(), lr=grid.rate(grid.Wish(), "fedit"))
