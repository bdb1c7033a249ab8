"""How the node's commands speak: results on stdout, talk on stderr, JSON where asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from federation.errors import ConscienceError
from federation.language import _
from federation.redaction import redact

if TYPE_CHECKING:
    from rich.progress import TaskID

    from client.config import NodeConfig, NodeHome
    from client.cycle import Report
    from client.ingesting import Ears, Result
    from client.training_plan import Progress as TrainingProgress


@dataclass(frozen=True)
class Cli:
    """What every command is given."""

    home: NodeHome

    def config(self, **flags: Any) -> NodeConfig:  # noqa: ANN401 - values of any setting
        """Settings with the command line's flags merged in; None means not given."""
        from client.config import load_config

        return load_config(self.home, flags=flags)[0]


def emit(content: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print the result: `content` as one JSON object, or `text` for people."""
    if as_json:
        print(json.dumps(content, ensure_ascii=False, default=str))
    elif text:
        print(text)


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Plain text in columns."""
    cells = [[str(cell) for cell in row] for row in [headers, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    ]
    return "\n".join(line.rstrip() for line in lines)


def say(sentence: str) -> None:
    """Tell the owner something at once."""
    print(sentence, flush=True)


def talk(sentence: str) -> None:
    """Tell the owner how far something has come, beside the result."""
    print(sentence, file=sys.stderr, flush=True)


def fail(error: ConscienceError, *, as_json: bool) -> None:
    """Print one sentence and what to do next; a JSON object on stdout too if asked for."""
    message, hint = redact(error.message), redact(error.hint)
    if as_json:
        content = {"error": message, "hint": hint, "code": error.exit_code}
        print(json.dumps(content, ensure_ascii=False))
    print(_("Error: {message}").format(message=message), file=sys.stderr)
    if hint:
        print(hint, file=sys.stderr)


@contextmanager
def progress_bar() -> Iterator[Report]:
    """A progress bar on stderr for a training run."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (
        TextColumn(_("training")),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[facts]}"),
    )
    with Progress(*columns, console=console, transient=not console.is_terminal) as bar:
        task = bar.add_task("train", total=None, facts="")

        def report(progress: TrainingProgress) -> None:
            if progress.note:
                console.print(progress.note, highlight=False)
            if progress.steps:
                bar.update(
                    task, total=progress.steps, completed=progress.step, facts=_facts(progress)
                )

        yield report


@contextmanager
def steps_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr for named steps; nothing is drawn before the first report."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    names = {"reading": _("reading"), "cutting": _("cutting"), "embedding": _("embedding")}
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def report(step: str, done: int, of: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(names.get(step, step), total=of)
            bar.update(tasks[step], completed=done, total=of)

        yield report


@contextmanager
def feeds_bar() -> Iterator[Ears]:
    """A progress bar on stderr for an ingest; nothing is drawn where nothing is read."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from client.ingesting import Ears, name_of

    console = Console(stderr=True)
    columns = (
        TextColumn(_("reading")),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[name]}"),
    )
    with Progress(*columns, console=console, transient=not console.is_terminal) as bar:
        tasks: list[TaskID] = []

        def begin(total: int | None) -> None:
            tasks.append(bar.add_task("ingest", total=total, name=""))

        def report(result: Result) -> None:
            if not tasks:
                begin(None)
            bar.update(tasks[0], advance=1, name=name_of(result)[-40:])

        yield Ears(begin, report, talk)


def _facts(progress: TrainingProgress) -> str:
    minutes, seconds = divmod(int(progress.eta_s), 60)
    return _("loss {loss}  {rate} tokens/s  {minutes}:{seconds} left").format(
        loss=f"{progress.loss:.3f}",
        rate=f"{progress.tokens_per_s:.0f}",
        minutes=minutes,
        seconds=f"{seconds:02d}",
    )
