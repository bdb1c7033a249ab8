"""Commands about what lies in the home: config and outbox."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from client.cli_output import Cli, emit, table
from federation.language import _


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands to the tree."""
    config = typer.Typer(help=_("The node's settings."), no_args_is_help=True)
    config.command(help=_("Say whether the settings are valid."))(check)
    config.command(help=_("Show the settings."))(show)
    app.add_typer(config, name="config")
    outbox = typer.Typer(help=_("Packages on their way to the server."), no_args_is_help=True)
    outbox.command("list", help=_("List all packages."))(list_packages)
    outbox.command("show", help=_("Show one package."))(show_package)
    outbox.command(help=_("Give up a package that has not left this machine."))(drop)
    app.add_typer(outbox, name="outbox")


def check(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Read the settings; a wrong one ends with exit code 2."""
    cli: Cli = context.obj
    cli.config()
    text = _("The settings are valid ({path}).").format(path=cli.home.config)
    emit({"valid": True, "path": str(cli.home.config)}, text, as_json=as_json)


def show(
    context: typer.Context,
    effective: Annotated[
        bool, typer.Option("--effective", help=_("Every value and where it comes from."))
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Show the settings of the file, or all that are in force."""
    from client.config import load_config

    cli: Cli = context.obj
    settings, sources = load_config(cli.home)
    if not effective:
        settings, sources = load_config(cli.home, environment={})
    values = settings.model_dump(mode="json")
    shown = values if effective else {k: v for k, v in values.items() if sources[k] == "file"}
    content: dict[str, Any] = shown
    if effective:
        content = {key: {"value": value, "source": sources[key]} for key, value in shown.items()}
    rows = [[key, json.dumps(value), sources[key]] for key, value in shown.items()]
    emit(content, table([_("key"), _("value"), _("source")], rows), as_json=as_json)


def list_packages(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """List the outbox."""
    from client.outbox import open_outbox

    cli: Cli = context.obj
    with open_outbox(cli.home, cli.config()) as outbox:
        entries = outbox.entries()
    headers = [_("package"), _("state"), _("from"), _("examples"), _("bytes"), _("since"), ""]
    rows = [
        [
            entry.sha256[:12],
            entry.state,
            f"v{entry.global_version}",
            entry.examples,
            entry.size_bytes,
            _when(entry.changed_at),
            entry.reason or (f"v{entry.version}" if entry.version is not None else ""),
        ]
        for entry in entries
    ]
    content = {"packages": [asdict(entry) for entry in entries]}
    emit(content, table(headers, rows) if rows else _("The outbox is empty."), as_json=as_json)


def show_package(
    context: typer.Context,
    package: Annotated[str, typer.Argument(help=_("The first characters of its hash."))],
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Show one package."""
    from client.outbox import open_outbox

    cli: Cli = context.obj
    with open_outbox(cli.home, cli.config()) as outbox:
        content = asdict(outbox.entry(package))
    rows = [[key, value] for key, value in content.items()]
    emit(content, table([_("what"), _("value")], rows), as_json=as_json)


def drop(
    context: typer.Context,
    package: Annotated[str, typer.Argument(help=_("The first characters of its hash."))],
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Drop one package."""
    from client.outbox import open_outbox

    cli: Cli = context.obj
    with open_outbox(cli.home, cli.config()) as outbox:
        entry = outbox.drop(outbox.entry(package).sha256)
    text = _("Package {sha} will not leave this machine.").format(sha=entry.sha256[:12])
    emit(asdict(entry), text, as_json=as_json)


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
