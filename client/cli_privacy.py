"""The command `privacy`: what left this machine, and what that can reveal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from client.cli_output import Cli, emit, table
from federation.language import _

if TYPE_CHECKING:
    from client.privacy import Account


def add_commands(app: typer.Typer) -> None:
    """Add this file's command to the tree."""
    app.command(help=_("Show what left this machine, to whom, and what it can reveal."))(privacy)


def privacy(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Account for what was sent."""
    from client.privacy import account

    cli: Cli = context.obj
    found = account(cli.home, cli.config())
    emit(found.to_json(), _text(found), as_json=as_json)


def _text(found: Account) -> str:
    days = [
        [day.day, day.requests, _size(day.sent_bytes), day.packages, _size(day.package_bytes)]
        for day in found.days
    ]
    packages = [
        [p.at[:16].replace("T", " "), p.sha256[:12], p.size_bytes, p.wire_bytes, p.state]
        for p in found.packages
    ]
    parts = [
        _("To {whom}, {way}.").format(whom=found.to, way=found.way),
        table([_("day (UTC)"), _("requests"), _("sent"), _("packages"), _("of these")], days)
        if days
        else _("Nothing has left this machine yet."),
    ]
    if packages:
        headers = [_("package sent (UTC)"), "sha256", _("bytes"), _("with padding"), _("state")]
        parts.append(table(headers, packages))
    parts.append(found.counted)
    parts.append("\n".join([_("What it can reveal:"), *(f"- {line}" for line in found.reveals)]))
    return "\n\n".join([*parts, found.stays])


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
