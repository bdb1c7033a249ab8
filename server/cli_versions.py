"""`flower-server history`, `validate`, `deploy`, `rollback`: versions of the global adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from server.cli_output import AsJson, Home, emit, table

if TYPE_CHECKING:
    from server.config import ServerHome


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (history, validate, deploy, rollback):
        app.command()(command)


def history(home: Home = None, as_json: AsJson = False) -> None:
    """List the versions of the global adapter."""
    from server.config import find_home
    from server.overview import history as read

    rows = read(find_home(home))
    if as_json:
        emit(rows, as_json=True, text="")
        return
    shown = [
        (
            f"v{row['version']}{' ←' if row['current'] else ''}",
            row["created_at"],
            row["strategy"],
            len(row["inputs"]),
            row["gate"].get("reason", ""),
        )
        for row in rows
    ]
    table("Versions", ("version", "made", "by", "inputs", "gate"), shown)


def validate(
    which: Annotated[
        str, typer.Argument(help="A version (v3), or the name of a refused candidate.")
    ] = "",
    against: Annotated[
        str, typer.Option(help="Version to compare with (default: the one before)")
    ] = "",
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Check the chain of signatures and run the gate again on a version or candidate."""
    from server.config import find_home
    from server.validation import validate as run

    found = run(find_home(home), which, against)
    emit(found, as_json, "\n".join(f"{key:<12} {value}" for key, value in found.items()))


def deploy(
    version: Annotated[str, typer.Argument(help="Version whose weights are wanted, e.g. v3.")],
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Publish the weights of a version again, as a new version."""
    from server.config import find_home
    from server.validation import parse_version

    _republish(find_home(home), parse_version(version), "deploy", as_json)


def rollback(home: Home = None, as_json: AsJson = False) -> None:
    """Go back: publish the weights from before the current version as a new version."""
    from server.config import find_home
    from server.validation import version_before

    place = find_home(home)
    _republish(place, version_before(place), "rollback", as_json)


def _republish(home: ServerHome, version: int, strategy: str, as_json: bool) -> None:
    from server.overview import open_registry

    manifest = open_registry(home, to_write=True).republish(version, strategy=strategy)
    content = {"version": manifest.version, "weights_of": version, "strategy": strategy}
    text = f"v{manifest.version} is current, with the weights of v{version}."
    emit(content, as_json, f"{text} Nodes get it in the next round.")
