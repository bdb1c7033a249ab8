"""Pictures of a comparison of strategies, as PNG bytes (a matplotlib door)."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

# Okabe and Ito's colours, told apart with any kind of colour vision; line styles differ as well.
COLOURS = ("#0072B2", "#D98A00", "#009E73", "#CC79A7", "#56B4E9", "#222222")
STYLES = ("-", "--", ":", "-.")
CLEAR, UNCLEAR = "#0072B2", "#767676"
DOTS_PER_INCH = 90
WIDTH = 0.085  # of a letter, in inches


@dataclass(frozen=True)
class Curve:
    """Points of one arm, round by round: (bytes so far, mean loss); the first is the start.

    Attributes:
        look: which colour and style it is drawn in; the same arm has the same in all pictures.
    """

    points: Sequence[tuple[float, float]]
    look: int


def curves_picture(curves: Mapping[str, Curve]) -> bytes:
    """Draw loss by round beside loss by cumulative bytes; one line per arm."""
    figure, (left, right) = _figure(
        (12.0, 4.6), 2, labels=0.8, beside=0.4 + WIDTH * _longest(curves)
    )
    largest = max((moved for each in curves.values() for moved, _ in each.points), default=0.0)
    least = min((each.points[-1][0] for each in curves.values() if each.points), default=0.0)
    is_wide = least > 0 and largest > 4 * least
    for arm, curve in curves.items():
        losses = [loss for _, loss in curve.points]
        colour = COLOURS[curve.look % len(COLOURS)]
        style = STYLES[curve.look // len(COLOURS) % len(STYLES)]
        left.plot(range(len(losses)), losses, label=arm, color=colour, linestyle=style)
        shown = [(moved / 1e6, loss) for moved, loss in curve.points if moved or not is_wide]
        right.plot(*zip(*shown, strict=True), color=colour, linestyle=style, marker=".")
    left.set_xlabel("round")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_ylabel("held-out loss")
    right.set_xlabel("MB moved so far, up and down, all clients")
    if is_wide:  # the start has moved nothing and is left out
        right.set_xscale("log")
        right.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        right.xaxis.set_major_formatter("{x:g}")
        right.xaxis.set_minor_formatter(NullFormatter())
    figure.legend(loc="upper right", frameon=False, fontsize=9)
    return _png(figure)


@dataclass(frozen=True)
class Span:
    """One arm's mean difference and its interval; a clear one is drawn in colour."""

    mean: float
    low: float
    high: float
    is_clear: bool


def differences_picture(spans: Mapping[str, Span], baseline: str) -> bytes:
    """Draw mean and interval of each arm's difference to `baseline`; left of 0 is better."""
    height = 1.2 + 0.33 * len(spans)
    figure, (axes,) = _figure((9.0, height), 1, labels=0.2 + WIDTH * _longest(spans))
    for place, span in enumerate(spans.values()):
        colour = CLEAR if span.is_clear else UNCLEAR
        ends, rows = [span.low, span.high], [place, place]
        axes.plot(ends, rows, color=colour, linewidth=3, solid_capstyle="butt")
        axes.plot(span.mean, place, "o", color=colour)
    axes.axvline(0, color="#222222", linewidth=1)
    axes.set_yticks(range(len(spans)), list(spans))
    axes.invert_yaxis()
    axes.set_xlabel(f"loss against {baseline}, by seed; left of 0 is better, grey is not clear")
    return _png(figure)


def attacks_picture(losses: Mapping[str, Mapping[str, float]]) -> bytes:
    """Draw the loss of each arm (rows) under each attack (columns) as a table of shades."""
    attacks = list(dict.fromkeys(kind for each in losses.values() for kind in each))
    rows = [[each.get(kind, math.nan) for kind in attacks] for each in losses.values()]
    size = 3.0 + 1.5 * len(attacks), 1.0 + 0.4 * len(rows)
    figure, (axes,) = _figure(size, 1, labels=0.2 + WIDTH * _longest(losses))
    known = sorted(value for row in rows for value in row if math.isfinite(value))
    top = known[-1] if known else 1.0
    if len(known) > 2 and top > 4 * known[len(known) // 2]:
        top = 4 * known[len(known) // 2]  # one ruined run would leave all others in one shade
    axes.imshow(rows, aspect="auto", cmap="cividis_r", vmin=known[0] if known else 0.0, vmax=top)
    middle = ((known[0] if known else 0.0) + top) / 2
    for down, row in enumerate(rows):
        for across, value in enumerate(row):
            if not math.isfinite(value):
                continue
            colour = "white" if value > middle else "#222222"
            axes.text(across, down, f"{value:.3f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(attacks)), attacks)
    axes.set_yticks(range(len(rows)), list(losses))
    return _png(figure)


def _figure(
    size: tuple[float, float], parts: int, *, labels: float, beside: float = 0.2
) -> tuple[Figure, list[Axes]]:
    """Make a figure with fixed margins, in inches: measuring them takes longer than drawing."""
    width, height = size
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    axes: list[Axes] = list(figure.subplots(1, parts, squeeze=False)[0])
    edges = {"left": labels / width, "right": 1 - beside / width}
    figure.subplots_adjust(bottom=0.6 / height, top=1 - 0.2 / height, wspace=0.15, **edges)
    for each in axes:
        for side in ("top", "right"):
            each.spines[side].set_visible(False)
    return figure, axes


def _longest(names: Iterable[str]) -> int:
    return max((len(name) for name in names), default=0)


def _png(figure: Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
