"""The command `privacy`: what left this machine, and what that can reveal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli_output import Cli, emit, table
from federation.language import _

if TYPE_CHECKING:
    from client.asked import Host
    from client.privacy import Account

SHOWN_HOSTS = 20


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
        _("To {whom}, {way}.").format(whom=found.to, way=found.way)
        if found.way
        else _("This node has not joined a federation yet."),
        table([_("day (UTC)"), _("requests"), _("sent"), _("packages"), _("of these")], days)
        if days
        else _("Nothing has left this machine yet."),
    ]
    if packages:
        headers = [_("package sent (UTC)"), "sha256", _("bytes"), _("with padding"), _("state")]
        parts.append(table(headers, packages))
    if found.feeds:
        parts.append(_feeds(found.feeds))
    parts.append(found.counted)
    parts.append("\n".join([_("What it can reveal:"), *(f"- {line}" for line in found.reveals)]))
    return "\n\n".join([*parts, found.stays])


def _feeds(hosts: Sequence[Host]) -> str:
    """The servers of feeds that were asked last."""
    rows = [
        [h.host, h.requests, h.through_tor, _size(h.sent_bytes), _size(h.received_bytes),
         h.last[:16].replace("T", " ")]
        for h in hosts[:SHOWN_HOSTS]
    ]  # fmt: skip
    headers = [_("server of a feed"), _("requests"), _("through Tor"), _("sent"), _("received"),
               _("last (UTC)")]  # fmt: skip
    shown = table(headers, rows)
    rest = len(hosts) - SHOWN_HOSTS
    return shown if rest <= 0 else shown + "\n" + _("… and {count} more").format(count=rest)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
