"""Times `flower-client --help` and `flower-server --help`: python scripts/bench_startup.py.

Ten runs of each as a fresh process, after one that warms the file cache; the aim is a median under
0.5 s. Prints a Markdown table.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 10
AIM_S = 0.5


def measure(command: list[str]) -> list[float]:
    """Return the wall-clock seconds of each run of `command`, the first one left out."""
    seconds = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def main() -> int:
    """Print the table; fails if a median is over the aim."""
    print("| command | median s | fastest s | slowest s |\n|---|---|---|---|")
    slow = 0
    for name in ("flower-client", "flower-server"):
        taken = measure([str(Path(sys.executable).with_name(name)), "--help"])
        median = statistics.median(taken)
        slow += median > AIM_S
        print(f"| `{name} --help` | {median:.2f} | {min(taken):.2f} | {max(taken):.2f} |")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
