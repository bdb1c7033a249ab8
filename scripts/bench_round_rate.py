"""Part `rate` of `bench_round`: how fast updates are merged, ours and stock in turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench_merge import CODINGS, OPENED, OURS, STOCK, parse
from bench_merge import measure as measure_merge
from bench_round_table import Line, Section

GOAL_GB_PER_CPU_S = 2.5
BF16_BYTES, F32_BYTES = 2, 4


def measure(clients: int, reply_mb: float, repeat: int, say: Callable[[str], None]) -> Section:
    """Merge `clients` updates that are `reply_mb` as bf16, in both codings."""
    megabytes = reply_mb * F32_BYTES / BF16_BYTES
    lines: list[Line] = []
    figures: dict[str, Any] = {"clients": clients, "adapter_mb": megabytes}
    for coding in CODINGS:
        say(f"rate: {clients} updates of {megabytes:g} MB (f32), {coding}")
        command = ["--clients", str(clients), "--megabytes", str(megabytes)]
        command += ["--coding", coding, "--repeat", str(repeat)]
        figures[coding] = rows = measure_merge(parse(command), memory=False)["rows"]
        lines += [_line(coding, side, rows[side]["gb_per_cpu_second"]) for side in rows]
    return Section(
        title="Merging, GB of f32-equivalent updates per CPU-second",
        lines=lines,
        notes=(
            "CPU seconds of the whole process, all threads; medians. Ours reads a spool on disk,",
            f"stock's arrays are in memory already. '{OPENED}' checks packages as well.",
        ),
        figures=figures,
    )


def _line(coding: str, side: str, rate: float) -> Line:
    has_goal = side == OURS
    name = side if side == STOCK else f"{side}, {coding}"
    return Line(
        what=name,
        measured=f"{rate:.2f}",
        goal=f"≥ {GOAL_GB_PER_CPU_S:g}" if has_goal else "",
        met=rate >= GOAL_GB_PER_CPU_S if has_goal else None,
    )
