"""What the demo measured: held-out loss of every adapter, peak memory, and how it is shown."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from demo_data import Material
from rich.console import Console
from rich.table import Table

from client.config import NodeHome, load_config
from client.cycle import load_data, plan_of
from client.training_plan import Session, Start
from federation.adapter.format import AdapterSpec, Arrays, read_adapter_folder
from federation.ledger.plots import DemoTable

OVERALL = "overall"
MEMORY_EVERY_S = 1.0
CHANGED_BYTES = 4 * 2**20  # looking costs, the system adds up every page: only at what changed


@dataclass
class Memory:
    """Largest memory of this process and all that it started, in bytes (PSS where there is one)."""

    peak_bytes: int = 0


@contextmanager
def peak_memory() -> Iterator[Memory]:
    """Watch memory while the block runs; shared pages count once."""
    memory, done = Memory(), threading.Event()

    def watch() -> None:
        me = psutil.Process(os.getpid())
        known: dict[int, tuple[int, int]] = {}
        while not done.wait(MEMORY_EVERY_S):
            known = {
                child.pid: _memory_of(child, known.get(child.pid, (0, 0)))
                for child in [me, *me.children(recursive=True)]
            }
            total = sum(share for _resident, share in known.values())
            memory.peak_bytes = max(memory.peak_bytes, total)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield memory
    finally:
        done.set()
        watcher.join()


def measure(
    root: Path,
    material: Material,
    nights: int,
    traffic: Mapping[str, tuple[int, int]],
    phases: Mapping[str, float],
) -> DemoTable:
    """Held-out loss of base, lone nodes and global versions, on one model loaded once.

    A lone node trains as long as in the federation: its first night's adapter is the one it
    packaged, and it goes on from there by itself.
    """
    from federation.model.load import open_base

    loaded = open_base("semilla", search=root)
    registry = root / "server" / "registry"
    start, spec, _manifest = read_adapter_folder(registry / "v0")
    versions = sorted(int(path.name[1:]) for path in registry.glob("v[0-9]*"))
    gauge = _Gauge(loaded, spec, material)
    lone = {
        name: gauge.losses(_alone(root / name, loaded, spec, nights)) for name in material.train
    }
    return DemoTable(
        rows=(*material.fields(), OVERALL),
        base=gauge.losses(start),
        lone=lone,
        versions={
            f"v{n}": gauge.losses(read_adapter_folder(registry / f"v{n}")[0])
            for n in versions
            if n > 0
        },
        traffic=traffic,
        phases=phases,
    )


def print_table(console: Console, table: DemoTable, picture: Path, peak_bytes: int) -> int:
    """Show the table; returns 0 only if the newest global adapter is the best of all."""
    shown = Table(title="Held-out loss, nats per token (lower is better)", title_justify="left")
    shown.add_column("held-out text")
    columns = ("base", *(f"{name} alone" for name in table.lone), "alone, mean", *table.versions)
    for name in columns:
        shown.add_column(name, justify="right")
    values = (table.base, *table.lone.values(), table.lone_mean(), *table.versions.values())
    for index, row in enumerate(table.rows):
        losses = [column[index] for column in values]
        best = min(losses)
        cells = [f"[bold]{x:.3f}[/]" if x == best else f"{x:.3f}" for x in losses]
        shown.add_row(row, *cells, end_section=index == len(table.rows) - 2)
    console.print(shown)
    bytes_table = Table(title="Bytes through the gateway, all nights", title_justify="left")
    for name in ("node", "up", "down"):
        bytes_table.add_column(name, justify="right" if name != "node" else "left")
    for name, (up, down) in table.traffic.items():
        bytes_table.add_row(name, f"{up:,}", f"{down:,}")
    console.print(bytes_table)
    seconds = "  ".join(f"{name} {took:.0f} s" for name, took in table.phases.items())
    console.print(f"{seconds}  (total {sum(table.phases.values()):.0f} s)")
    console.print(f"Peak memory of all processes: {peak_bytes / 1e9:.2f} GB")
    console.print(f"Picture: {picture.name}")
    return _verdict(console, table)


def _verdict(console: Console, table: DemoTable) -> int:
    if not table.versions:
        console.print("[red]No global version was published.[/]")
        return 1
    name, losses = list(table.versions.items())[-1]
    last, base, alone = losses[-1], table.base[-1], table.lone_mean()[-1]
    if last < base and last < alone:
        console.print(
            f"[green]Global {name} beats the base model ({base:.3f} → {last:.3f}) and the "
            f"average node training alone ({alone:.3f}) on the overall held-out set.[/]"
        )
        return 0
    console.print(
        f"[red]Global {name} ({last:.3f}) does not beat both {base:.3f} and {alone:.3f}.[/]"
    )
    return 1


class _Gauge:
    """Measures adapters on the held-out rows."""

    def __init__(self, loaded: Any, spec: AdapterSpec, material: Material) -> None:  # noqa: ANN401
        self._loaded = loaded
        self._spec = spec
        self._documents = material.documents()
        self._fields = material.fields()

    def losses(self, arrays: Arrays) -> tuple[float, ...]:
        """Nats per token for each field, and for all documents together."""
        from federation.model import adapted
        from federation.model.loss import document_losses, mean_loss

        model = adapted.attach(self._loaded, self._spec, arrays, trainable=False)
        measured = document_losses(model, self._loaded.tokenizer, self._documents, max_tokens=512)
        adapted.detach(self._loaded)
        names = [document.field for document in self._documents]
        by_field = [
            mean_loss(measured[[name == field for name in names]]) for field in self._fields
        ]
        return (*by_field, mean_loss(measured))


def _alone(home: Path, loaded: Any, spec: AdapterSpec, nights: int) -> Arrays:  # noqa: ANN401
    """The adapter of a node that trains `nights` times and never hears of the others."""
    from client.training import train

    place = NodeHome(home)
    config = load_config(place)[0]
    first = sorted(place.runs.glob("*/record.json"), key=lambda path: path.stat().st_mtime)[0]
    arrays = read_adapter_folder(first.parent / "adapter")[0]
    for night in range(2, nights + 1):
        data = load_data(place, config, f"alone-{night}")
        session = Session(work=place.runs / f"alone-{night}")
        arrays, _record = train(loaded, Start(spec, arrays), data, plan_of(config), session)
    return arrays


def _memory_of(process: psutil.Process, before: tuple[int, int]) -> tuple[int, int]:
    """Resident memory, and its proportional share where the system knows it (Linux), else again it.

    The share is `before`'s as long as resident memory has hardly changed since.
    """
    try:
        resident = int(process.memory_info().rss)
        if before[1] and abs(resident - before[0]) < CHANGED_BYTES:
            return before
        rollup = Path(f"/proc/{process.pid}/smaps_rollup")
        if rollup.exists():
            for line in rollup.read_text(encoding="ascii").splitlines():
                if line.startswith("Pss:"):
                    return resident, int(line.split()[1]) * 1024
    except (psutil.Error, OSError):
        return 0, 0
    return resident, resident
