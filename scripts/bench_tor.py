"""What the way through Tor costs, on a private Tor network of this machine.

    python scripts/bench_tor.py [--part goodput|first|memory|round]… [--scheduler vanilla|kist]
                                [--json FILE]

goodput  a body of 10 MB through forwarder, TLS and gateway, beside a bare HTTP body
first    the first connection after a start of tor, beside a bare circuit
memory   of a forwarder that carries a hundred connections at once
round    twenty volunteers' nodes on one onion service complete a round

All four by default, on a quiet machine. "vanilla" lets tor send as fast as it can; "kist" is its
default and nearer to the rates of the real network. The exit status is 0 only if every goal is met.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench_round_table import Section, show, to_json
from rich.console import Console
from tor_network import SCHEDULERS
from tor_process import TorNetworkError

from federation import durable
from federation.flower_env import flower_environment

Say = Callable[[str], None]
PARTS = ("goodput", "first", "memory", "round")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts asked for; returns 1 if a goal was missed."""
    options = parse(arguments)
    console, talk = Console(), Console(stderr=True, highlight=False)
    found: dict[str, Section] = {}
    with tempfile.TemporaryDirectory(prefix="bench-tor-") as folder:
        # Read by flwr when it is imported, which the last part does.
        os.environ |= flower_environment(os.environ, Path(folder) / "flwr")
        try:
            for name, section in measure(Path(folder), options, talk.print):
                found[name] = section
                show(console, section)
        except TorNetworkError as err:
            talk.print(f"[red]error:[/] {err}")
            return 1
    if options.json:
        content = {part: to_json(section) for part, section in found.items()}
        facts = {"scheduler": options.scheduler, "cores": os.cpu_count()}
        durable.write_text(options.json, json.dumps(facts | content, indent=2) + "\n")
    return 0 if all(section.is_met for section in found.values()) else 1


def measure(folder: Path, options: argparse.Namespace, say: Say) -> Iterator[tuple[str, Section]]:
    """Run each part; the first three share one network."""
    parts = options.part or PARTS
    if any(part != "round" for part in parts):
        import bench_tor_path as path
        from bench_tor_stand import stand

        with stand(folder, options.scheduler, say) as made:
            if "goodput" in parts:
                yield "goodput", path.goodput(made, options.repeat, say)
            if "first" in parts:
                yield "first", path.first(made, options.repeat, say)
            if "memory" in parts:
                yield "memory", path.memory(made, say)
    if "round" in parts:
        from bench_tor_round import measure as measure_round

        yield "round", measure_round(folder / "round", options.nodes, options.scheduler, say)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of all parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--part", action="append", choices=PARTS, help="repeatable")
    parser.add_argument("--scheduler", choices=list(SCHEDULERS), default="vanilla")
    parser.add_argument("--repeat", type=int, default=7, help="medians over this many pairs")
    parser.add_argument("--nodes", type=int, default=20, help="round: volunteers' nodes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
