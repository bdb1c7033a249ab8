"""Pictures of a comparison of strategies, as PNG bytes (a matplotlib door)."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any kind of colour vision; line styles differ as well.
COLOURS = ("#0072B2", "#D98A00", "#009E73", "#CC79A7", "#56B4E9", "#222222")
STYLES = ("-", "--", ":", "-.")
CLEAR, UNCLEAR = "#0072B2", "#767676"
DOTS_PER_INCH = 90


@dataclass(frozen=True)
class Curve:
    """Points of one arm, round by round: (bytes so far, mean loss); the first is the start."""

    points: Sequence[tuple[float, float]]


def curves_picture(curves: Mapping[str, Curve]) -> bytes:
    """Draw loss by round beside loss by cumulative bytes; one line per arm."""
    figure, (left, right) = _figure(12.0, 4.6, 2)
    for place, (arm, curve) in enumerate(curves.items()):
        losses = [loss for _, loss in curve.points]
        megabytes = [moved / 1e6 for moved, _ in curve.points]
        colour, style = COLOURS[place % len(COLOURS)], STYLES[place // len(COLOURS) % len(STYLES)]
        left.plot(range(len(losses)), losses, label=arm, color=colour, linestyle=style)
        right.plot(megabytes, losses, color=colour, linestyle=style)
    left.set_xlabel("round")
    left.set_ylabel("held-out loss")
    right.set_xlabel("MB moved so far, up and down, all clients")
    largest = max((moved for each in curves.values() for moved, _ in each.points), default=0.0)
    least = min((each.points[-1][0] for each in curves.values() if each.points), default=0.0)
    if least > 0 and largest > 4 * least:
        right.set_xscale("symlog", linthresh=least / 1e6 / 10)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return _png(figure)


def differences_picture(spans: Mapping[str, tuple[float, float, float]], baseline: str) -> bytes:
    """Draw mean and interval of each arm's difference to `baseline`; left of 0 is better."""
    figure, (axes,) = _figure(9.0, 1.2 + 0.33 * len(spans), 1)
    for place, (mean, low, high) in enumerate(spans.values()):
        colour = CLEAR if low > 0 or high < 0 else UNCLEAR
        axes.plot([low, high], [place, place], color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot(mean, place, "o", color=colour)
    axes.axvline(0, color="#222222", linewidth=1)
    axes.set_yticks(range(len(spans)), list(spans))
    axes.invert_yaxis()
    axes.set_xlabel(f"loss against {baseline}, paired by seed: left of 0 is better")
    return _png(figure)


def attacks_picture(losses: Mapping[str, Mapping[str, float]]) -> bytes:
    """Draw the loss of each arm (rows) under each attack (columns) as a table of shades."""
    attacks = list(dict.fromkeys(kind for each in losses.values() for kind in each))
    rows = [[each.get(kind, math.nan) for kind in attacks] for each in losses.values()]
    figure, (axes,) = _figure(3.0 + 1.5 * len(attacks), 1.4 + 0.4 * len(rows), 1)
    known = sorted(value for row in rows for value in row if math.isfinite(value))
    top = known[-1] if known else 1.0
    if len(known) > 2 and top > 4 * known[len(known) // 2]:
        top = 4 * known[len(known) // 2]  # one ruined run would leave all others in one shade
    axes.imshow(rows, aspect="auto", cmap="cividis_r", vmin=known[0] if known else 0.0, vmax=top)
    middle = ((known[0] if known else 0.0) + top) / 2
    for down, row in enumerate(rows):
        for across, value in enumerate(row):
            colour = "white" if value > middle else "#222222"
            axes.text(across, down, f"{value:.3f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(attacks)), attacks)
    axes.set_yticks(range(len(rows)), list(losses))
    return _png(figure)


def _figure(width: float, height: float, parts: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes: list[Axes] = list(figure.subplots(1, parts, squeeze=False)[0])
    for each in axes:
        for side in ("top", "right"):
            each.spines[side].set_visible(False)
    return figure, axes


def _png(figure: Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
