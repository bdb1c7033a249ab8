"""The demo: one server, three volunteers, two nights, all in separate real processes.

    scripts/demo [--keep DIR] [--data DIR] [--nights N] [--tor]

Everything is done with the commands that a person would type; only adapter weights travel, over
TLS through the gateway; with --tor through an onion service, in a whole Tor network that is made
on the spot and reaches nothing but this machine. At the end every adapter is measured on the same
held-out text, beside each node training alone for as long. It does not show how well a large model
would do: the base model, semilla, is small on purpose.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from demo_data import Material, from_folder, starter, without_field
from demo_measure import measure, peak_memory, print_table
from rich.console import Console
from tor_network import PrivateTor
from tor_process import TorNetworkError
from town import CommandError, Town

from federation import durable
from federation.ledger.plots import demo_picture

COUNTED_S = 1.5  # the gateway writes its counters every second
SETTINGS: dict[str, Any] = {
    "learning_rate": 3e-3,
    "epochs": 1,
    "batch_size": 2,
    "gradient_accumulation": 4,  # as 8 at a time, in a quarter of the memory
    "max_seq_len": 256,
    "qa_subset_size": 0,
}
console = Console(stderr=True, highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; the exit status is 0 only if the last global adapter beats base and lone."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the homes in DIR")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="DIR/NODE/train.jsonl and heldout.jsonl"
    )
    parser.add_argument("--nights", type=int, default=2, choices=range(1, 8))
    parser.add_argument("--tor", action="store_true", help="through a private Tor network")
    options = parser.parse_args(arguments)
    material = from_folder(options.data.resolve()) if options.data else starter()
    with _workplace(options.keep) as root:
        try:
            return play(root, material, options.nights, through_tor=options.tor)
        except (CommandError, TorNetworkError) as err:
            console.print(f"[red]error:[/] {err}")
            return 1


def play(root: Path, material: Material, nights: int, *, through_tor: bool = False) -> int:
    """Set up, run the nights, measure, and show it."""
    phases: dict[str, float] = {}
    with ExitStack() as stack:
        memory = stack.enter_context(peak_memory())
        tor = _tor_network(stack, root, phases) if through_tor else None
        town = Town(root, say=lambda line: console.print(f"    {line}"), tor=tor)
        stack.callback(town.stop)
        with _phase(phases, "set-up", "The operator sets up a server, the volunteers join"):
            gate = ("--gate-data", str(material.gate)) if material.gate else ()
            town.start_server("--base", "semilla", "--quorum", "2", *gate)
            rows = {
                name: [without_field(row) for row in mine] for name, mine in material.train.items()
            }
            town.join_all(rows, SETTINGS)
        for night in range(1, nights + 1):
            with _phase(
                phases, f"train, night {night}", f"Night {night}: each node trains at home"
            ):
                town.volunteers("contribute")
            with _phase(phases, f"round, night {night}", f"Night {night}: collect, merge, deploy"):
                _tell(town.round())
        time.sleep(COUNTED_S)
        traffic = town.traffic()
    with _phase(phases, "measure", "Every adapter on the same held-out text"):
        table = measure(root, material, nights, traffic, phases)
    picture = root / "demo.png"
    demo_picture(table, picture)
    summary = asdict(table) | {"peak_memory_bytes": memory.peak_bytes}
    durable.write_text(root / "demo.json", json.dumps(summary, indent=2) + "\n")
    return print_table(Console(), table, picture, memory.peak_bytes)


def _tor_network(stack: ExitStack, root: Path, phases: dict[str, float]) -> dict[str, Any]:
    """Start a Tor network that lives as long as `stack`; the settings of tors that belong to it."""
    with _phase(phases, "Tor network", "A Tor network of four nodes, on this machine alone"):
        network = stack.enter_context(PrivateTor(root / "tor-network"))
    return {"mode": "own", "torrc": str(network.torrc_file)}


def _tell(report: Mapping[str, Any]) -> None:
    outcome = report["outcome"]
    version = outcome["version"]
    said = f"v{version} published" if version is not None else "nothing published"
    console.print(f"    {len(outcome['merged'])} packages merged, {said}: {outcome['reason']}")
    for trouble in [*report["lost"], *outcome["refused"]]:
        console.print(f"    [yellow]{trouble}[/]")


@contextmanager
def _phase(phases: dict[str, float], name: str, said: str) -> Iterator[None]:
    console.print(f"[bold]{said}[/]")
    started = time.monotonic()
    yield
    phases[name] = time.monotonic() - started
    console.print(f"    {phases[name]:.0f} s")


@contextmanager
def _workplace(keep: Path | None) -> Iterator[Path]:
    """The folder for all homes: kept if asked for, else removed but for table and picture."""
    if keep is not None:
        root = keep.resolve()
        if root.exists() and any(root.iterdir()):
            raise SystemExit(f"error: {root} is not empty; name a new folder with --keep")
        yield durable.make_folder(root)
        return
    with tempfile.TemporaryDirectory(prefix="conscience-demo-") as folder:
        yield Path(folder)
        for name in ("demo.png", "demo.json"):
            source = Path(folder) / name
            if source.exists():
                shutil.copyfile(source, Path.cwd() / name)


if __name__ == "__main__":
    sys.exit(main())
