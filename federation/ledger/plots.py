"""Pictures of what a run measured, drawn without a display (the matplotlib door)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from federation import durable

# Okabe and Ito's colours, told apart with any kind of colour vision; shapes differ as well.
GREY, ORANGE, GREEN = "#767676", "#D98A00", "#009E73"
SKY, BLUE, INK = "#56B4E9", "#0072B2", "#222222"
VERSION_MARKS = ("s", "D", "^", "v", "P", "X")
SIZE_INCHES = (12.0, 6.9)
DOTS_PER_INCH = 100


@dataclass(frozen=True)
class DemoTable:
    """What the demo measured: every loss tuple has one value per entry of `rows`.

    Attributes:
        rows: names of the held-out sets, the overall one last.
        base: held-out loss (nats per token) of the base model.
        lone: node name -> losses of that node's adapter, trained alone.
        versions: "v1", "v2", … -> losses of that global adapter, in order.
        traffic: node name -> (bytes up, bytes down), all nights together.
        phases: name of a phase -> seconds, in the order they happened.

    Raises:
        ValueError: a loss tuple does not fit `rows`.
    """

    rows: tuple[str, ...]
    base: tuple[float, ...]
    lone: Mapping[str, tuple[float, ...]]
    versions: Mapping[str, tuple[float, ...]]
    traffic: Mapping[str, tuple[int, int]]
    phases: Mapping[str, float]

    def __post_init__(self) -> None:
        for name, losses in {"base": self.base, **self.lone, **self.versions}.items():
            if len(losses) != len(self.rows):
                raise ValueError(f"'{name}' has {len(losses)} losses for {len(self.rows)} rows")

    def lone_mean(self) -> tuple[float, ...]:
        """Average the lone nodes' losses, row by row."""
        count = len(self.lone)
        return tuple(sum(values) / count for values in zip(*self.lone.values(), strict=True))


def demo_picture(table: DemoTable, path: Path) -> None:
    """Draw `table` into the PNG file `path`, 1200 pixels wide."""
    figure = Figure(figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, width_ratios=[2.15, 1], wspace=0.03)
    _draw_losses(figure.add_subplot(grid[:, 0]), table)
    _draw_traffic(figure.add_subplot(grid[0, 1]), table.traffic)
    _draw_phases(figure.add_subplot(grid[1, 1]), table.phases)
    _save(figure, path)


def way_picture(
    rates: Mapping[str, tuple[float, float]], waits_ms: Sequence[float], path: Path
) -> None:
    """Draw what the way to the server carries into the PNG file `path`, 1000 pixels wide.

    Args:
        rates: size of a transfer, in words -> KiB/s up and down.
        waits_ms: time to the first byte of each small request.
        path: target.
    """
    figure = Figure(figsize=(10.0, 4.2), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1.3, 1])
    _draw_rates(left, rates)
    _draw_waits(right, waits_ms)
    _save(figure, path)


def _draw_rates(axes: Axes, rates: Mapping[str, tuple[float, float]]) -> None:
    for shift, column, name, colour in ((-0.2, 0, "up", GREEN), (0.2, 1, "down", SKY)):
        values = [pair[column] for pair in rates.values()]
        places = [place + shift for place in range(len(rates))]
        bars = axes.barh(places, values, height=0.36, color=colour, label=name)
        axes.bar_label(bars, [f"{value:.0f}" for value in values], padding=4, color=INK)
    axes.set_yticks(range(len(rates)), list(rates))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max((max(pair) for pair in rates.values()), default=1.0))
    axes.set_xlabel("KiB/s")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.45, -0.16), ncols=2)
    _title(axes, "How fast, by size of the transfer")
    _plain(axes)


def _draw_waits(axes: Axes, waits_ms: Sequence[float]) -> None:
    ordered = sorted(waits_ms)
    shares = [100 * (place + 1) / len(ordered) for place in range(len(ordered))]
    axes.step(ordered, shares, where="post", color=BLUE, linewidth=2)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 103)
    axes.grid(color="#EEEEEE")
    axes.set_axisbelow(True)
    axes.set_xlabel("ms to the first byte")
    axes.set_ylabel("% of requests")
    _title(axes, "How long a small request waits")
    _plain(axes)


def _draw_losses(axes: Axes, table: DemoTable) -> None:
    places = [float(place) for place in range(len(table.rows))]
    places[-1] += 0.3  # the overall row stands apart from the fields it sums up
    latest = next(reversed(list(table.versions)), "")  # "": the gate let nothing through
    final = table.versions.get(latest, ())
    for place, start, end in zip(places, table.base, final, strict=False):
        axes.plot([start, end], [place, place], color="#DDDDDD", linewidth=7, zorder=1)
    _dots(axes, table.base, places, "base model", GREY, "o")
    for index, values in enumerate(table.lone.values()):
        name = "each node training alone" if index == 0 else ""
        axes.scatter(
            values, places, s=34, facecolors="white", edgecolors=ORANGE, label=name, zorder=2
        )
    _dots(axes, table.lone_mean(), places, "their average", ORANGE, "o")
    for index, (version, values) in enumerate(table.versions.items()):
        colour = BLUE if version == latest else SKY
        mark = VERSION_MARKS[index % len(VERSION_MARKS)]
        _dots(axes, values, places, f"global {version}", colour, mark)
    _write_values(axes, places, table.base, final)
    axes.set_yticks(places, table.rows)
    axes.get_yticklabels()[-1].set_fontweight("bold")
    axes.set_ylim(places[-1] + 0.55, -0.75)
    axes.margins(x=0.08)
    axes.grid(axis="x", color="#EEEEEE")
    axes.set_axisbelow(True)
    axes.set_xlabel("held-out loss, nats per token: further left is better")
    _title(axes, "Texts the models have not seen, by field")
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.46, -0.09),
        ncols=5,
        columnspacing=1.2,
        handletextpad=0.3,
        frameon=False,
    )
    _plain(axes)


def _dots(
    axes: Axes, values: Sequence[float], places: Sequence[float], name: str, colour: str, mark: str
) -> None:
    axes.scatter(values, places, s=95, color=colour, marker=mark, label=name, zorder=3)


def _write_values(
    axes: Axes, places: Sequence[float], base: Sequence[float], latest: Sequence[float]
) -> None:
    """Write the base model's loss above its dots, the latest adapter's below."""
    for values, colour, above in ((base, GREY, 9), (latest, BLUE, -19)):
        for value, place in zip(values, places, strict=False):
            axes.annotate(
                f"{value:.3f}",
                (value, place),
                xytext=(0, above),
                textcoords="offset points",
                ha="center",
                color=colour,
                fontweight="bold",
            )


def _draw_traffic(axes: Axes, traffic: Mapping[str, tuple[int, int]]) -> None:
    places = range(len(traffic))
    largest = max((max(pair) for pair in traffic.values()), default=1)
    for shift, column, name, colour in ((-0.2, 0, "up", GREEN), (0.2, 1, "down", SKY)):
        values = [pair[column] / 1e6 for pair in traffic.values()]
        bars = axes.barh(
            [place + shift for place in places], values, height=0.36, color=colour, label=name
        )
        axes.bar_label(bars, [_bytes(v * 1e6) for v in values], padding=4, color=INK)
    axes.set_yticks(list(places), list(traffic))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * largest / 1e6)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.45, -0.12), ncols=2)
    _title(axes, "MB up and down, by node")
    _plain(axes)


def _draw_phases(axes: Axes, phases: Mapping[str, float]) -> None:
    values = list(phases.values())
    bars = axes.barh(range(len(values)), values, height=0.6, color="#B8B8B8")
    axes.bar_label(bars, [f"{value:.1f} s" for value in values], padding=4, color=INK)
    axes.set_yticks(range(len(values)), list(phases))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * max(values, default=1.0))
    axes.set_xlabel("seconds")
    _title(axes, "Where the time went")
    _plain(axes)


def _bytes(count: float) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=13, fontweight="bold", color=INK, pad=10)


def _plain(axes: Axes) -> None:
    """Keep only the axes' lines that carry meaning."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=11)
    axes.xaxis.set_major_locator(MaxNLocator(6))


def _save(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    durable.write_bytes(path, picture.getvalue())
