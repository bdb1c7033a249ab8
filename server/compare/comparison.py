"""A whole comparison: cells run, told in a folder, and logged to MLflow where it is installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from federation import durable
from federation.errors import UsageError
from federation.ledger import tracker
from federation.model.documents import Document
from server.compare.client_app import app
from server.compare.flower_nodes import FlowerLab, FlowerNodes, Network
from server.compare.grid import LAB
from server.compare.in_process import InProcessGrid
from server.compare.language import FirstRounds, LanguageTask, Texts, split
from server.compare.players import STAGE, Players
from server.compare.report import write_report
from server.compare.study import Json, Open, Progress, Study, code_facts
from strategies.compare.figures import Table, tabulate
from strategies.compare.setting import Setting
from strategies.compare.trends import Claim, Verdict, judge

LOCK = ".compare.lock"


@dataclass(frozen=True)
class Place:
    """Where a comparison lies, and with what it is run.

    Attributes:
        folder: results; made if missing.
        model: "lab", or a base model as `federation.model.choose` takes it.
        data: files of texts; empty: the starter texts of a node.
        workers: processes that play nodes (models only).
        search: folder where local models lie.
        mlflow: log to `folder/mlflow.db` where mlflow is installed.
    """

    folder: Path
    model: str = LAB
    data: tuple[Path, ...] = ()
    workers: int = 2
    search: Path = field(default_factory=Path.cwd)
    mlflow: bool = True


@dataclass(frozen=True)
class Telling:
    """How the report is made.

    Attributes:
        baseline: arm that the others are compared with.
        claims: orderings to look for.
        left_out: arm -> why it was not run.
    """

    baseline: str = "fedit"
    claims: Sequence[Claim] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Compared:
    """What came out, and the records of all cells."""

    table: Table
    verdicts: list[Verdict]
    records: Sequence[Json]


@dataclass(frozen=True)
class Opened:
    """What cells of one task are run with.

    Attributes:
        task: gives the task of a cell.
        facts: what else decides a result: base, data, code, versions.
        about: sentences about them.
    """

    task: Open
    facts: dict[str, str]
    about: list[str]

    def run(
        self,
        folder: Path,
        cells: Sequence[Setting],
        *,
        resume: bool,
        progress: Progress | None = None,
    ) -> list[Json]:
        """Run cells and keep them below `folder`; see `Study.run`."""
        runs = [replace(cell, task=self.facts["task"]) for cell in cells]
        return Study(folder, self.task, self.facts).run(runs, resume=resume, progress=progress)


def compare(
    place: Place,
    cells: Sequence[Setting],
    telling: Telling | None = None,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> Compared:
    """Run all cells and write table.md, table.json and report.html.

    Args:
        place: where and with what.
        cells: of one task, `place.model`.
        telling: how the report is made.
        resume: keep cells that are there already.
        progress: told after each cell.

    Raises:
        UsageError: the folder holds another comparison and `resume` was not said.
        ConscienceError: another process works in the folder, or the model does not load.
    """
    if not resume and (place.folder / "cells").exists() and not _is_ours_alone(place.folder):
        raise UsageError(f"{place.folder} is not empty", hint="Say --resume, or another --out.")
    with durable.locked(place.folder / LOCK, timeout_s=0.0, busy=f"{place.folder} is in use"):
        with opened(place, cells) as found:
            records = found.run(place.folder, cells, resume=resume, progress=progress)
        return _tell(place, records, telling or Telling(), found.about)


def track(place: Place, found: Compared) -> int:
    """Log every cell to MLflow, where that is wanted and installed; a cell once.

    Apart from `compare`, since mlflow takes longer to begin than a quick comparison.

    Returns:
        How many were logged.
    """
    if not (place.mlflow and tracker.is_installed()):
        return 0
    with durable.locked(place.folder / LOCK, timeout_s=0.0, busy=f"{place.folder} is in use"):
        runs = [_run_of(record) for record in found.records]
        return tracker.log_cells(place.folder / "mlflow.db", runs)


@contextmanager
def opened(place: Place, cells: Sequence[Setting]) -> Iterator[Opened]:
    """Give what cells are run with: nodes in this process, for the lab or for a model.

    One node plays all clients of the lab, which train at once. A model has a node for each client;
    as many of them train at a time as there are worker processes.
    """
    if place.model == LAB:
        with closing(InProcessGrid(app, 1)) as grid:
            yield of_lab(grid, grid.get_node_ids())
        return
    most = max(place.workers, *(cell.clients for cell in cells))
    with closing(STAGE), closing(InProcessGrid(app, most, workers=place.workers)) as grid:
        nodes = grid.get_node_ids()
        opening = opening_of(place, cells)
        yield of_model(FlowerNodes(grid, nodes, opening, at_once=place.workers))


def of_lab(grid: Network, nodes: Sequence[int]) -> Opened:
    """Cells of the lab, on nodes behind a grid."""
    about = ["Task: the regression lab, one LoRA layer of 32 × 24, no language model."]
    return Opened(
        lambda setting: nullcontext(FlowerLab(grid, nodes, setting)),
        code_facts() | {"task": LAB},
        about,
    )


def of_model(players: Players) -> Opened:
    """Cells of the model that `players` have opened."""
    texts = split([Document(**each) for each in players.opened["documents"]])
    spec: Json = players.opened["spec"]
    facts = code_facts("torch", "transformers", "peft") | {"data": texts.sha256}
    facts |= {"task": spec["base_hash"]}
    first = FirstRounds()
    return Opened(
        lambda each: LanguageTask(players, texts, each, first), facts, _about(spec, texts)
    )


def opening_of(place: Place, cells: Sequence[Setting]) -> Json:
    """What those who play nodes are opened with."""
    rank = max(max(cell.ranks, default=cell.rank) for cell in cells)
    data = [str(path.absolute()) for path in place.data]
    opening = {"model": place.model, "search": str(place.search), "rank": rank}
    return opening | {"alpha": 2.0 * rank, "data": data}


def _tell(
    place: Place,
    records: Sequence[Json],
    telling: Telling,
    about: Sequence[str],
) -> Compared:
    table = tabulate(records, telling.baseline)
    verdicts = judge(telling.claims, records)
    seeds = {record["setting"]["seed"] for record in records}
    sentences = [*about, f"{len(records)} cells, {len(seeds)} seeds."]
    write_report(place.folder, table, about=sentences, left_out=telling.left_out, verdicts=verdicts)
    return Compared(table, verdicts, records)


def _run_of(record: Json) -> tracker.Run:
    setting = Setting.from_json(record["setting"])
    curves: dict[str, list[float]] = {}
    for each in record["rounds"]:
        for name in ("loss", "worst", "up", "down"):
            curves.setdefault(name, []).append(float(each[name]))
    name = f"{setting.arm} · {setting.panel} · seed {setting.seed}"
    return tracker.Run(setting.key(record["facts"]), name, record["setting"], curves)


def _about(spec: Mapping[str, Any], texts: Texts) -> list[str]:
    return [
        f"Base model: {spec['base_ref']} ({str(spec['base_hash'])[:12]}), rank {spec['rank']}.",
        f"Texts: {len(texts.train)} to learn from, {len(texts.held_out)} held out "
        f"({texts.sha256[:12]}).",
    ]


def _is_ours_alone(folder: Path) -> bool:
    """Whether nothing was finished there yet."""
    return not any((folder / "cells").glob("*.json"))
