"""Commands about learning: train, package, contribute."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli_output import Cli, emit, feeds_bar, progress_bar, table, talk
from federation.errors import NoDataError
from federation.language import _

if TYPE_CHECKING:
    from client.config import NodeConfig


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands to the tree."""
    app.command(help=_("Train an adapter from the current global one on local texts."))(train)
    app.command(help=_("Package today's adapter, explain a package, or verify one."))(package)
    app.command(help=_("Train, package, and leave the package for the next round."))(contribute)


def train(
    context: typer.Context,
    task: Annotated[str | None, typer.Option(help=_("qa, lm or auto."))] = None,
    data: Annotated[list[Path] | None, typer.Option(help=_("JSONL file; may be repeated."))] = None,
    max_minutes: Annotated[float | None, typer.Option(help=_("Stop after so long."))] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help=_("Continue a run that was interrupted."))
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Train."""
    from client import cycle

    cli: Cli = context.obj
    config = _with_flags(cli, task, data, max_minutes)
    with progress_bar() as report:
        folder = cycle.train_cycle(cli.home, config, resume=resume, report=report)
    record = folder.record()
    text = _summary(record["training"])
    where = _("The run is in {folder}").format(folder=folder.path)
    emit({"folder": str(folder.path), **record}, f"{text}\n{where}", as_json=as_json)


def package(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(help=_("A package; today's training without one."))
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help=_("List every byte and what it can reveal."))
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help=_("Check it as the server will."))
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Package, explain or verify."""
    from client import cycle, packaging
    from client.config import load_federation
    from federation.adapter.format import AdapterSpec

    cli: Cli = context.obj
    path = file or cycle.package_today(cli.home, cli.config())
    content: dict[str, Any] = {"package": str(path)}
    lines = [str(path)]
    if explain:
        parts = packaging.explain(path)
        content["parts"] = [part._asdict() for part in parts]
        headers = [_("file"), _("field"), _("bytes"), _("what it is")]
        rows = [[part.member, part.field, part.size_bytes, part.what] for part in parts]
        total = sum(part.size_bytes for part in parts)
        lines += [table(headers, rows), _("{total} bytes in all").format(total=total)]
    if verify:
        spec = AdapterSpec.from_json(load_federation(cli.home).spec)
        content["findings"] = packaging.verify(path, spec)
        lines += content["findings"]
    emit(content, "\n".join(lines), as_json=as_json)


def contribute(
    context: typer.Context,
    task: Annotated[str | None, typer.Option(help=_("qa, lm or auto."))] = None,
    data: Annotated[list[Path] | None, typer.Option(help=_("JSONL file; may be repeated."))] = None,
    max_minutes: Annotated[float | None, typer.Option(help=_("Stop after so long."))] = None,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Train, package and leave for collection; nothing to do is no error."""
    from client import cycle

    cli: Cli = context.obj
    config = _with_flags(cli, task, data, max_minutes)
    _read_feeds(cli, config)
    try:
        with progress_bar() as report:
            entry = cycle.contribute(cli.home, config, report=report)
    except NoDataError as err:
        text = _("Nothing to contribute: {why}").format(why=err.message)
        emit({"package": None, "why": err.message}, text, as_json=as_json)
        return
    if entry is None:
        text = _("Nothing new to contribute: today's package was made before.")
        emit({"package": None, "why": text}, text, as_json=as_json)
        return
    text = _("Package {sha} ({size} bytes, {examples} examples) waits for the next round.").format(
        sha=entry.sha256[:12], size=entry.size_bytes, examples=entry.examples
    )
    emit({"package": entry.sha256, **asdict(entry)}, text, as_json=as_json)


def _read_feeds(cli: Cli, config: NodeConfig) -> None:
    """First what is new, if there are feeds; a feed that fails stops nothing."""
    from datetime import date

    from client.ingesting import name_of, take_before_training

    today = date.today().isoformat()  # noqa: DTZ011 - the owner's day, as the run's folder has it
    with feeds_bar() as ears:
        summary = take_before_training(cli.home, config, today, ears)
    if summary is None:
        return
    for result in summary.failed:
        talk(_("failed: {name}: {why}").format(name=name_of(result), why=result.why))
    told = _("Feeds read first: {new} new entries.")
    talk(told.format(new=summary.count("new")))


def _with_flags(
    cli: Cli, task: str | None, data: list[Path] | None, max_minutes: float | None
) -> NodeConfig:
    files = tuple(str(path.expanduser().absolute()) for path in data) if data else None
    return cli.config(task=task, data=files, max_minutes=max_minutes)


def _summary(training: dict[str, Any]) -> str:
    return _(
        "{examples} examples, {tokens} tokens in {seconds} s; held-out loss {before} → {after}"
    ).format(
        examples=training["examples"],
        tokens=training["tokens"],
        seconds=f"{training['seconds']:.0f}",
        before=f"{training['loss_before']:.4f}",
        after=f"{training['loss_after']:.4f}",
    )
