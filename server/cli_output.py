"""How the operator's commands print, and the two options they all share."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

HOME_VARIABLE = "CONSCIENCE_SERVER_HOME"  # as in server.config, which loads too much for --help
Home = Annotated[
    Path | None,
    typer.Option(
        "--home", help="The server's folder (CONSCIENCE_SERVER_HOME).", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def emit(content: Any, as_json: bool, text: str) -> None:  # noqa: ANN401 (anything JSON can hold)
    """Print a result: `content` as JSON, or `text`."""
    print(json.dumps(content, ensure_ascii=False) if as_json else text, flush=True)


def say(line: str) -> None:
    """Print talk, which is not the result."""
    print(line, file=sys.stderr, flush=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title=title, title_justify="left")
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(str(cell) for cell in row))
    Console().print(drawn)


def day(seconds: float) -> str:
    """Unix seconds as UTC to the minute; "" for 0."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M") if seconds else ""
