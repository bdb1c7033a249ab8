"""A random wait before a node's first contact: starts at a fixed hour would be a pattern.

It blurs when a node appears, by a few seconds: enough that nodes started by the same timer do not
arrive together, and that an arrival does not tell when its machine was switched on. It hides
nothing from somebody who watches for days.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from federation.language import _

SILENT_S = 1.0


def wait(
    longest_s: float,
    say: Callable[[str], None],
    *,
    rng: random.Random | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Wait a random time of at most `longest_s` seconds; returns how long.

    Args:
        longest_s: 0 waits not at all.
        say: told the time, if it is long enough to be noticed.
        rng: None takes the system's own randomness.
        sleep: time's edge.
    """
    pause = (rng or random.SystemRandom()).uniform(0.0, longest_s)
    if pause >= SILENT_S:
        say(
            _("Starting in {seconds} s: a random moment tells less (start_jitter_s).").format(
                seconds=round(pause)
            )
        )
    if pause > 0:
        sleep(pause)
    return pause
