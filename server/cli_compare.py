"""`flower-server compare`: strategies on equal terms, in a lab or on a model; needs no server."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli_output import AsJson, emit, say, table

if TYPE_CHECKING:
    from server.compare.comparison import Compared, Place
    from server.compare.study import Progress
    from strategies.compare.setting import Setting

OUT = Path("comparison")
Flag = Annotated[bool, typer.Option("--quick", help="The lab's first table: seconds.")]
Preset = Annotated[str, typer.Option(help="paper-trends: known orderings, seen or not.")]
Model = Annotated[str, typer.Option(help="lab, semilla, or a model's folder.")]
Strategies = Annotated[
    str,
    typer.Option(help="Names, joined by commas (default: all of ours); flower-median, …"),
]
Weighers = Annotated[str, typer.Option(help="Likewise: uniform,uniform+rfa.")]
Optimisers = Annotated[str, typer.Option(help="Likewise: none,nesterov.")]
Proximal = Annotated[str, typer.Option(help="FedProx, strengths: 0,0.1.")]
Noises = Annotated[str, typer.Option(help="none, central:Z:C or local:Z:C (noise, bound).")]
Partitions = Annotated[
    str,
    typer.Option(
        help="iid, dirichlet:A, domain, language, quantity:A; in the lab shift:H, aligned:H."
    ),
]
Attacks = Annotated[
    str, typer.Option(help="none, or KIND:SHARE:STRENGTH of sign, scale, noise, inverse, …")
]
Seeds = Annotated[
    int,
    typer.Option(
        min=0, max=1000, help="How many (default: 5; paper-trends: 20).", show_default=False
    ),
]
Baseline = Annotated[str, typer.Option(help="What others are compared with.")]
Screen = Annotated[bool, typer.Option("--screen/--no-screen", help="Screen sizes.")]
Rates = Annotated[
    list[str] | None, typer.Option(help="Learning rate: 0.01 or STRATEGY=0.01; repeat.")
]
Fixed = Annotated[
    list[str] | None,
    typer.Option("--set", help="clients, rounds, steps, rank, ranks, coding, …=value; repeat."),
]
Data = Annotated[list[Path] | None, typer.Option(help="JSONL of texts; repeat.")]
Workers = Annotated[int, typer.Option(min=1, max=64, help="Processes (models).")]
Out = Annotated[Path, typer.Option(help="Folder of the results.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on in --out.")]
Logged = Annotated[
    bool, typer.Option("--mlflow/--no-mlflow", help="Log runs where mlflow is installed.")
]


def add_to(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(compare)


def compare(  # noqa: PLR0913 (the options of one command)
    quick: Flag = False,
    preset: Preset = "",
    model: Model = "lab",
    strategies: Strategies = "",
    weighers: Weighers = "",
    optimisers: Optimisers = "none",
    proximal: Proximal = "0",
    noises: Noises = "none",
    partitions: Partitions = "",
    attacks: Attacks = "none",
    seeds: Seeds = 0,
    baseline: Baseline = "fedit",
    screen: Screen = True,
    lr: Rates = None,
    setting: Fixed = None,
    data: Data = None,
    workers: Workers = 2,
    out: Out = OUT,
    resume: Resume = False,
    mlflow: Logged = True,
    as_json: AsJson = False,
) -> None:
    """Compare strategies × partitions × attacks × seeds, and write a report."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is loaded
    from server.compare import comparison, grid

    wish = grid.Wish(
        model=model,
        strategies=_words(strategies),
        weighers=_words(weighers),
        optimisers=_words(optimisers),
        proximal=grid.parse_proximal(_words(proximal)),
        noises=_words(noises),
        partitions=_words(partitions),
        attacks=_words(attacks),
        seeds=seeds,
        screen=screen,
        rates=grid.parse_rates(lr or ()),
        fixed=grid.parse_fixed(setting or ()),
    )
    chosen = grid.choose(wish, quick=quick, preset=preset)
    for arm, why in chosen.left_out.items():
        say(f"left out: {arm}: {why}")
    place = comparison.Place(
        out.absolute(), wish.model, tuple(data or ()), workers, Path.cwd(), mlflow
    )
    with _progress(len(chosen.cells)) as progress:
        found = comparison.compare(
            place,
            chosen.cells,
            comparison.Telling(baseline, chosen.claims, chosen.left_out),
            resume=resume,
            progress=progress,
        )
    if as_json:
        emit(found.table.to_json(), as_json=True, text="")
    else:
        _show(found)
    _end(place, found)


def _end(place: Place, found: Compared) -> None:
    from server.compare.comparison import track

    say(f"Written to {place.folder}: report.html, table.md, table.json.")
    if tracked := track(place, found):
        say(f"{tracked} runs logged to {place.folder / 'mlflow.db'}.")


def _show(found: Compared) -> None:
    from server.compare.report import TREND_COLUMNS, trend_cells

    for panel, rows in found.table.panels().items():
        against = f"against {found.table.baselines[panel]}"
        columns = ("arm", "loss", against, "MB up", "down")
        table(f"{panel} ({rows[0].seeds} seeds)", columns, [_short(row) for row in rows])
    if found.verdicts:
        table("Orderings", TREND_COLUMNS, [trend_cells(each) for each in found.verdicts])
    for line in found.table.unfair:
        say(f"not fair: {line}")


def _short(row: Any) -> Sequence[str]:  # noqa: ANN401 - a figures.Row, which --help does not load
    told, shown = row.difference, ""
    if told is not None:
        mark = " clear" if told.is_clear else ""
        shown = f"{told.mean:+.3f} [{told.low:+.3f}, {told.high:+.3f}]{mark}"
    return (row.arm, f"{row.loss:.4f}", shown, f"{row.up / 1e6:.2f}", f"{row.down / 1e6:.2f}")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


@contextmanager
def _progress(cells: int) -> Iterator[Progress]:
    """A bar with the time left, on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from server.compare.study import Progress

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(file=sys.stderr)
    with Bar(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        running = bar.add_task("cells", total=cells)

        def cell(done: int, _all: int, _ran: bool) -> None:
            bar.update(running, completed=done)

        def round_(at: Setting, number: int, loss: float) -> None:
            told = f"{at.arm}, seed {at.seed}: round {number} of {at.rounds}, loss {loss:.3f}"
            bar.update(running, description=told)

        yield Progress(cell, round_)
