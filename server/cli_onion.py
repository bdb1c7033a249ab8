"""`flower-server onion status|check|rotate`, `backup`, `restore`: the address, and keeping it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.cli_output import AsJson, Home, day, emit, say

onion = typer.Typer(help="The Tor onion service that nodes reach.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(onion, name="onion")
    for command in (backup, restore):
        app.command()(command)


@onion.command()
def status(
    home: Home = None,
    show_address: Annotated[
        bool, typer.Option("--show-address", help="Print the addresses, which are secret.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say how the onion service is doing, and how many volunteers each address has."""
    from server.config import find_home
    from server.overview import onion_overview

    found = onion_overview(find_home(home), show_address=show_address)
    lines = [found["text"]]
    for row in found["addresses"]:
        until = f", until {day(row['retires_at'])}" if row["retires_at"] else ""
        address = f", {row['address']}" if show_address else ""
        lines.append(f"{row['name']}: {row['volunteers']} volunteers{until}{address}")
    emit(found, as_json, "\n".join(lines))


@onion.command()
def check(home: Home = None, as_json: AsJson = False) -> None:
    """Try every address through Tor: shut without a key, the gateway behind it with one."""
    from dataclasses import asdict

    from federation.errors import TorError
    from server.config import find_home, load_onion_config
    from server.onion_check import check as run

    place = find_home(home)
    say("trying the onion service; this takes some seconds")
    visits = run(place, load_onion_config(place))
    lines = [
        f"{visit.shard}: shut to strangers; "
        + (f"the gateway answers in {visit.connect_s} s" if visit.is_healthy else visit.problem)
        + f" (a new key is published in {visit.publish_s} s)"
        for visit in visits
    ]
    emit([asdict(visit) for visit in visits], as_json, "\n".join(lines))
    if not all(visit.is_healthy for visit in visits):
        raise TorError("the gateway was not reached", hint="See: flower-server status")


@onion.command()
def rotate(
    home: Home = None,
    grace: Annotated[
        str, typer.Option(help="How long the old address still works: 7d, 12h, 0.")
    ] = "7d",
    as_json: AsJson = False,
) -> None:
    """Move to a new address. Nodes hear of it in the rounds before the old one ends."""
    from server.config import find_home, load_onion_config
    from server.invitations import parse_life
    from server.onion import Onion

    place = find_home(home)
    seconds = 0.0 if grace == "0" else parse_life(grace).total_seconds()
    Onion(place, load_onion_config(place)).rotate(grace_s=seconds)
    text = f"The server has a new address; the old one ends in {grace}."
    emit({"grace_s": seconds}, as_json, text if seconds else "The server has a new address.")
    if not as_json:
        say("A node that takes part in no round until then needs the new address from you.")


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write (0600).")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Write keys, address, nodes, settings and published versions into one file."""
    from datetime import UTC, datetime

    from server.backup import back_up
    from server.config import find_home

    size = back_up(find_home(home), file, now=datetime.now(UTC))
    emit({"file": str(file), "bytes": size}, as_json, f"{file} ({size / 1e6:.1f} MB)")
    if not as_json:
        say("Whoever has this file can be your server: keep it where nobody else looks.")


def restore(
    file: Annotated[Path, typer.Argument(help="A file that `backup` wrote.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Make the server of a backup in an empty home; it has the same address."""
    from server.backup import restore as run
    from server.config import find_home

    place = find_home(home)
    run(place, file)
    emit({"home": str(place.root)}, as_json, f"The server is back at {place.root}.")
