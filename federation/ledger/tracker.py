"""Runs of a comparison in a local MLflow store, where mlflow is installed (the mlflow door).

SQLite beside the results; no server, no network, no telemetry.
"""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation import durable

EXPERIMENT = "strategies compared"
CELL = "conscienceai.cell"
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # else it tells how it makes its tables
}


@dataclass(frozen=True)
class Run:
    """One cell.

    Attributes:
        key: its name; a cell is logged once.
        params: its setting.
        curves: name -> one value per round.
    """

    key: str
    name: str
    params: Mapping[str, Any]
    curves: Mapping[str, Sequence[float]]


def is_installed() -> bool:
    """Whether there is an mlflow to log with; it is not loaded for this."""
    return importlib.util.find_spec("mlflow") is not None


def log_cells(store: Path, runs: Sequence[Run]) -> int:
    """Log every run that the store does not hold yet; returns how many.

    Args:
        store: SQLite file, made if missing.
        runs: any number.
    """
    os.environ.update(QUIET)
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    durable.make_folder(store.parent)
    client = MlflowClient(tracking_uri=f"sqlite:///{store.absolute()}")
    found = client.get_experiment_by_name(EXPERIMENT)
    experiment = (
        found.experiment_id
        if found is not None
        else client.create_experiment(
            EXPERIMENT, artifact_location=(store.parent / "mlartifacts").absolute().as_uri()
        )
    )
    logged = 0
    for run in runs:
        if client.search_runs([experiment], filter_string=f"tags.`{CELL}` = '{run.key}'"):
            continue
        made = client.create_run(experiment, run_name=run.name, tags={CELL: run.key})
        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, step)
            for name, values in run.curves.items()
            for step, value in enumerate(values)
        ]
        params = [Param(name, str(value)) for name, value in run.params.items()]
        client.log_batch(made.info.run_id, metrics=metrics, params=params)
        client.set_terminated(made.info.run_id)
        logged += 1
    return logged
