"""`flower-server invite`, `nodes`, `admit`, `ban`: who takes part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.cli_output import AsJson, Home, day, emit, say, table


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (invite, nodes, admit, ban):
        app.command()(command)


def invite(
    name: Annotated[str, typer.Argument(help="What to call the node.")],
    home: Home = None,
    expires: Annotated[str, typer.Option(help="How long it is good for: 7d, 12h, 30m.")] = "7d",
    out: Annotated[Path | None, typer.Option(help="Write it to this file (0600).")] = None,
    as_json: AsJson = False,
) -> None:
    """Make an invitation: one text to hand to one volunteer, good for one node."""
    from federation import durable
    from federation.invitation import encode
    from server.config import find_home, load_config
    from server.invitations import invite as make
    from server.invitations import parse_life

    place = find_home(home)
    made = make(place, load_config(place), name, life=parse_life(expires))
    text = encode(made)
    if out is not None:
        durable.write_text(out, text + "\n")
    content = {"name": name, "expires_at": made.expires_at}
    content |= {"file": str(out)} if out is not None else {"invitation": text}
    emit(content, as_json, str(out) if out is not None else text)
    if not as_json:
        say(f"For {name}, until {made.expires_at}. It holds a secret: hand it over privately.")


def nodes(home: Home = None, as_json: AsJson = False) -> None:
    """List nodes and invitations."""
    from server.config import find_home
    from server.overview import node_rows

    rows = node_rows(find_home(home))
    if as_json:
        emit(rows, as_json=True, text="")
        return
    columns = ("name", "status", "node", "merged", "refused", "waiting", "up", "down", "last seen")
    shown = [
        (
            row["name"],
            row["status"],
            row["pseudonym"],
            row["merged"],
            row["refused"],
            row["spooled"],
            row["bytes_up"],
            row["bytes_down"],
            day(row["last_seen"]),
        )
        for row in rows
    ]
    table("Nodes", columns, shown)


def admit(
    name: Annotated[str, typer.Argument(help="What to call the node.")],
    supernode_key: Annotated[
        Path, typer.Option(help="File with its OpenSSH public key (ECDSA P-384).")
    ],
    signing_key: Annotated[str, typer.Option(help="Its Ed25519 public key, hex.")],
    onion_key: Annotated[
        Path | None,
        typer.Option(help="Write its key to the onion service to this file (0600)."),
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Admit a node whose keys you were given, without an invitation."""
    from server.admission import admit as do
    from server.config import find_home

    node = do(
        find_home(home),
        name,
        supernode_key=supernode_key,
        signing_key=signing_key,
        onion_key=onion_key,
    )
    content = {"name": name, "pseudonym": node.pseudonym, "flower_node_id": node.flower_node_id}
    emit(content, as_json, f"{name} is admitted as {node.pseudonym}.")


def ban(
    name: Annotated[str, typer.Argument(help="The node's name.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Put a node out at once, and for good: its keys can never be admitted again."""
    from server.admission import ban as do
    from server.config import find_home

    warning = do(find_home(home), name)
    emit({"name": name, "status": "banned", "warning": warning}, as_json, f"{name} is banned.")
    if warning and not as_json:
        say(warning)
