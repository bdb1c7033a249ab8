"""Commands about the node itself: init, join, run, status, doctor, sync."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli_output import Cli, emit, say, table, talk
from client.prompt import ask
from federation.errors import ConscienceError, UsageError
from federation.language import _

if TYPE_CHECKING:
    from client.adapters import AdapterStore


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands to the tree."""
    app.command(help=_("Make this node's folder and its settings file."))(init)
    app.command(help=_("Join a federation with an invitation."))(join)
    app.command(help=_("Stay connected, until stopped."))(run)
    app.command(help=_("Show what this node is and has."))(status)
    app.command(help=_("Check that everything a round needs is in order."))(doctor)
    app.command(help=_("Install a global adapter from a file."))(sync)


def init(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Make the home."""
    from client.config import write_default

    cli: Cli = context.obj
    path = write_default(cli.home)
    text = _("This node's settings are in {path}").format(path=path)
    emit({"home": str(cli.home.root), "config": str(path)}, text, as_json=as_json)


def join(
    context: typer.Context,
    invitation: Annotated[
        str | None,
        typer.Argument(help=_("A file with the invitation, or - for stdin; asked for without it.")),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help=_("Fetch the base model from its hub if needed."))
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Redeem an invitation."""
    from client.config import shown_address
    from client.join import join as redeem

    cli: Cli = context.obj
    config = cli.config()
    joined = redeem(cli.home, config, _source(invitation), allow_download=download, say=talk)
    federation = joined.federation
    content = {
        "node": federation.node,
        "address": shown_address(federation.address),
        "base": joined.base,
        "notes": list(joined.notes),
    }
    text = _("Joined as node {node}; base model {base}. Next: flower-client run").format(
        node=federation.node, base=joined.base
    )
    emit(content, "\n".join([text, *joined.notes]), as_json=as_json)


def run(context: typer.Context) -> None:
    """Stay connected."""
    from client import launcher

    cli: Cli = context.obj
    launcher.run(cli.home, cli.config(), say)


def status(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Show the node."""
    cli: Cli = context.obj
    content = _status(cli)
    rows = [[key, value] for key, value in content.items() if not isinstance(value, dict)]
    rows += [
        [f"{key}.{name}", value]
        for key, part in content.items()
        if isinstance(part, dict)
        for name, value in part.items()
    ]
    emit(content, table([_("what"), _("state")], rows), as_json=as_json)


def doctor(
    context: typer.Context,
    model: Annotated[
        bool, typer.Option("--model", help=_("Only the base model: which, and why; loads it."))
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Check this node; exits with 1 if something is wrong."""
    from client import doctor as checks

    cli: Cli = context.obj
    findings = checks.model(cli.home, cli.config()) if model else checks.all_checks(cli.home)
    rows = [["ok" if item.is_good else _("PROBLEM"), item.name, item.detail] for item in findings]
    content = {"ok": all(item.is_good for item in findings), "checks": [vars(i) for i in findings]}
    emit(content, table(["", _("check"), _("finding")], rows), as_json=as_json)
    if not content["ok"]:
        raise typer.Exit(1)


def sync(
    context: typer.Context,
    source: Annotated[
        Path, typer.Option("--from", help=_("A global adapter package, as the operator sends it."))
    ],
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Install a global adapter without the network."""
    cli: Cli = context.obj
    try:
        data = source.expanduser().read_bytes()
    except OSError as err:
        raise UsageError(_("{path} cannot be read.").format(path=source)) from err
    version = _store(cli).install(data)
    text = _("Global version {version} is installed.").format(version=version)
    emit({"version": version}, text, as_json=as_json)


def _source(invitation: str | None) -> str:
    """The invitation's text or its file, as it was given or is now asked for."""
    from federation.invitation import PREFIX

    if invitation is None:
        return ask(_("Paste the invitation (it is not shown) and press Enter: "))
    if invitation == "-":
        return sys.stdin.read()
    if invitation.lstrip().startswith(PREFIX):
        talk(
            _(
                "The invitation stood on the command line: programs of this machine could read it "
                "in the process list, and the shell may keep it. Next time run flower-client join "
                "without it, and paste it when asked."
            )
        )
    return invitation


def _store(cli: Cli) -> AdapterStore:
    from client.adapters import AdapterStore
    from client.config import load_federation

    return AdapterStore(cli.home, load_federation(cli.home))


def _status(cli: Cli) -> dict[str, Any]:
    from client.board import running_state
    from client.config import load_federation, server_address, shown_address
    from client.outbox import open_outbox

    config = cli.config()
    content: dict[str, Any] = {
        "name": config.node_id,
        "home": str(cli.home.root),
        "joined": cli.home.federation.exists(),
    }
    if content["joined"]:
        federation = load_federation(cli.home)
        content |= {
            "node": federation.node,
            "server": shown_address(server_address(config, federation.address)),
            "base": federation.base_ref,
            "global_version": _store(cli).held_version(),
        }
    if cli.home.outbox.is_dir():
        with open_outbox(cli.home, config) as outbox:
            states = [entry.state for entry in outbox.entries()]
        content["outbox"] = {state: states.count(state) for state in dict.fromkeys(states)}
    content["running"] = running_state(cli.home)
    content["last_run"] = _last_run(cli)
    return content


def _last_run(cli: Cli) -> dict[str, Any]:
    from client.record import latest_run

    try:
        record = latest_run(cli.home.runs).record()
    except ConscienceError:
        return {}
    training = record.get("training", {})
    names = ("examples", "tokens", "loss_before", "loss_after", "start_version")
    return {"day": record.get("day")} | {name: training.get(name) for name in names}
