"""A round measured beside stock Flower's FedAvg: memory, speed, bytes, and what coding costs.

    python scripts/bench_round.py [--part memory|rate|bytes|coding]… [--json FILE]

memory   what the replies of a round cost the ServerApp process
rate     GB of updates merged per CPU-second
bytes    what a node sends in a round, counted at the gateway
coding   held-out loss after two nights with int8, bf16 and f32 deltas, over several seeds

All four by default, on a quiet machine: about half an hour on two cores. The exit status is 0 only
if every goal is met.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench_round_table import Section, show, to_json
from rich.console import Console

from federation import durable
from federation.flower_env import flower_environment

Say = Callable[[str], None]
PARTS = ("memory", "rate", "bytes", "coding")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts asked for; returns 1 if a goal was missed."""
    options = parse(arguments)
    console, talk = Console(), Console(stderr=True, highlight=False)
    found: dict[str, Section] = {}
    with tempfile.TemporaryDirectory(prefix="bench-flwr-") as folder:
        # Read by flwr when it is imported, which the parts do.
        os.environ |= flower_environment(os.environ, Path(folder))
        for name in options.part or PARTS:
            found[name] = run_part(name, options, talk.print)
            show(console, found[name])
            if options.json:
                content = {part: to_json(section) for part, section in found.items()}
                durable.write_text(options.json, json.dumps(content, indent=2) + "\n")
    return 0 if all(section.is_met for section in found.values()) else 1


def run_part(name: str, options: argparse.Namespace, say: Say) -> Section:
    """Run one part; only its own modules are imported."""
    if name == "memory":
        from bench_round_memory import measure as measure_memory

        return measure_memory(options.replies, options.reply_mb, say)
    if name == "rate":
        from bench_round_rate import measure as measure_rate

        return measure_rate(options.clients, options.reply_mb, options.repeat, say)
    if name == "bytes":
        from bench_round_bytes import measure as measure_bytes

        return measure_bytes(options.rank, say)
    from bench_round_coding import measure as measure_coding

    return measure_coding(options.seeds, options.rows, say)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of all parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--part", action="append", choices=PARTS, help="repeatable")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--replies", type=int, nargs="+", default=[10, 100], help="memory")
    parser.add_argument("--reply-mb", type=float, default=9.0, help="memory, rate: one reply")
    parser.add_argument("--clients", type=int, default=32, help="rate: updates merged")
    parser.add_argument("--repeat", type=int, default=7, help="rate: medians over this many")
    parser.add_argument("--rank", type=int, default=148, help="bytes: 148 makes 9 MB of semilla")
    parser.add_argument("--seeds", type=int, default=3, help="coding")
    parser.add_argument("--rows", type=int, default=48, help="coding: rows per node and night")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
