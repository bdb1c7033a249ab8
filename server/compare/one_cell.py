"""One cell of a comparison, asked for by `flwr run --run-config` and run over a grid."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from federation import durable
from federation.errors import UsageError
from server.compare import grid as wishes
from server.compare.comparison import LOCK, Opened, Place, of_lab, of_model, opening_of
from server.compare.flower_nodes import FlowerNodes, Network, gathered
from server.compare.study import CELLS, Json, Progress
from strategies.compare.lab import KINDS
from strategies.compare.setting import Setting

SMALL_MODEL = "semilla"
Config = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """What is run.

    Attributes:
        place: model and data; its folder is used where `keep` says so.
        keep: whether the cell is kept in the folder.
    """

    place: Place
    cell: Setting
    keep: bool


def read(config: Config) -> Asked:
    """Read a run-config: names of `server/simulation/pyproject.toml`; "" and 0 are the usual.

    Where no model is named the partition says which: one of the lab's, or one of texts.

    Raises:
        UsageError: a path that is not absolute: Flower decides where a ServerApp runs.
        ConfigError: what `flower-server compare` refuses too.
    """
    model = str(config["model"]) or _fitting(str(config["partition"]))
    rate = [f"{config['lr']}"] if config["lr"] else []
    wish = wishes.Wish(
        model=model,
        strategies=(str(config["strategy"]),),
        weighers=_given(config, "weigher"),
        optimisers=_given(config, "optimiser") or ("none",),
        proximal=(float(config["proximal"]),),
        noises=_given(config, "noise") or ("none",),
        partitions=_given(config, "partition"),
        attacks=_given(config, "attack") or ("none",),
        seeds=1,
        screen=bool(config["screen"]),
        rates=wishes.parse_rates(rate),
        fixed=wishes.parse_fixed(f"{name}={config[name]}" for name in wishes.FIXED if config[name]),
    )
    cell = replace(wishes.cells(wish)[0][0], seed=int(config["seed"]))
    data = tuple(_absolute(name) for name in str(config["data"]).split(",") if name)
    folder = _absolute(str(config["out"])) if config["out"] else Path(tempfile.gettempdir())
    place = Place(folder, model, data, search=Path(model).parent)
    return Asked(place, cell, keep=bool(config["out"]))


def run(over: Network, config: Config, say: Callable[[str], None]) -> Json:
    """Run the cell on Flower's nodes and return its record, which is the in-process one.

    Args:
        over: Flower's grid.
        config: of the run.
        say: told each round, and where the record lies.

    Raises:
        ConscienceError: as `read`; the folder is in use; a node failed.
    """
    asked = read(config)
    say(f"{asked.cell.arm} · {asked.cell.panel} · seed {asked.cell.seed}")
    if not asked.keep:
        with tempfile.TemporaryDirectory() as passing:
            return _run(over, asked, Path(passing), say)
    folder = asked.place.folder
    with durable.locked(folder / LOCK, timeout_s=0.0, busy=f"{folder} is in use"):
        record = _run(over, asked, folder, say)
    say(f"Kept in {folder / CELLS}. A table of what lies there: flower-server compare --resume …")
    return record


def _run(over: Network, asked: Asked, folder: Path, say: Callable[[str], None]) -> Json:
    told = Progress(round=lambda _cell, number, loss: say(f"round {number}: loss {loss:.6f}"))
    opened = _opened(over, asked)
    (record,) = opened.run(folder, [asked.cell], resume=False, progress=told)
    return record


def _opened(over: Network, asked: Asked) -> Opened:
    nodes = gathered(over, asked.cell.clients)
    if asked.place.model == wishes.LAB:
        return of_lab(over, nodes)
    return of_model(FlowerNodes(over, nodes, opening_of(asked.place, [asked.cell])))


def _fitting(partition: str) -> str:
    return wishes.LAB if partition.partition(":")[0] in ("", *KINDS) else SMALL_MODEL


def _given(config: Config, name: str) -> tuple[str, ...]:
    return (str(config[name]),) if config[name] else ()


def _absolute(name: str) -> Path:
    path = Path(name.strip()).expanduser()
    if not path.is_absolute():
        raise UsageError(f"'{name}' is no absolute path", hint="Flower runs this somewhere else.")
    return path
