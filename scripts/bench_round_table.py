"""What each part of `bench_round` hands over, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Line:
    """One figure beside its goal.

    Attributes:
        met: None where the figure is there for comparison only.
    """

    what: str
    measured: str
    goal: str = ""
    met: bool | None = None


@dataclass(frozen=True)
class Section:
    """The result of one part.

    Attributes:
        notes: what a reader must know to read the figures rightly.
        figures: the same and more as plain values, for JSON.
    """

    title: str
    lines: Sequence[Line]
    notes: Sequence[str] = ()
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def is_met(self) -> bool:
        """Whether no goal was missed."""
        return all(line.met is not False for line in self.lines)


def show(console: Console, section: Section) -> None:
    """Print a section as a table, notes below."""
    table = Table(title=section.title, title_justify="left")
    table.add_column("what")
    for name in ("goal", "measured"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for line in section.lines:
        table.add_row(line.what, line.goal, line.measured, _verdict(line))
    console.print(table)
    for note in section.notes:
        console.print(f"  {note}", style="dim")


def to_json(section: Section) -> dict[str, Any]:
    """Plain values of a section."""
    lines = [vars(line) for line in section.lines]
    return {"met": section.is_met, "lines": lines, "figures": section.figures}


def _verdict(line: Line) -> str:
    if line.met is None:
        return ""
    return "[green]met[/]" if line.met else "[red]missed[/]"
