"""`flower-server`: the operator's commands. Parses, calls one function, prints.

Results go to stdout (JSON with `--json`), talk to stderr. Exit codes: `federation.errors`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from federation import redaction
from federation.errors import ConscienceError
from server import cli_compare, cli_nodes, cli_onion, cli_versions
from server.cli_output import HOME_VARIABLE, AsJson, Home, emit, say

app = typer.Typer(
    name="flower-server",
    help="Run a federation: invite nodes, merge what they learnt, publish it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cli_compare.add_to(app)
cli_nodes.add_to(app)
cli_onion.add_to(app)
cli_versions.add_to(app)


@app.callback()
def _options(
    home: Home = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    _ = debug  # read by main, which stands outside of this
    if home is not None:
        os.environ[HOME_VARIABLE] = str(home)


@app.command()
def init(  # noqa: PLR0913 (the options of one command)
    home: Home = None,
    base: Annotated[
        str, typer.Option("--base", help="Base model: semilla, a folder, or a hub id.")
    ] = "semilla",
    revision: Annotated[str | None, typer.Option(help="Revision of a hub model.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch it from the hub.")] = False,
    rank: Annotated[int | None, typer.Option(help="LoRA rank.")] = None,
    alpha: Annotated[float | None, typer.Option(help="LoRA alpha (default: 2 × rank).")] = None,
    address: Annotated[
        list[str] | None,
        typer.Option(help="Host name or IP that nodes dial; repeat, the first is in invitations."),
    ] = None,
    port: Annotated[int | None, typer.Option(help="The gateway's port (default: free).")] = None,
    onion: Annotated[
        bool, typer.Option("--onion/--no-onion", help="Reached through a Tor onion service.")
    ] = True,
    quorum: Annotated[int | None, typer.Option(help="Fewest updates for a merge.")] = None,
    gate_data: Annotated[
        list[Path] | None, typer.Option(help="JSONL of held-out documents; repeat.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting, as key=value; repeat.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set up a server: keys, certificates, settings, version 0 of the adapter."""
    from server.config import find_home, new_config, parse_settings
    from server.starting import describe
    from server.starting import init as set_up

    named: dict[str, object] = {"model": base, "revision": revision, "rank": rank, "alpha": alpha}
    named |= {"addresses": address, "gateway_port": port, "quorum": quorum, "onion": onion}
    given = {key: value for key, value in named.items() if value is not None}
    place, wanted = find_home(home), new_config(parse_settings(setting or ()) | given)
    start = set_up(
        place, wanted, gate_data=tuple(gate_data or ()), allow_download=download, say=say
    )
    for reason in start.reasons:
        say(reason)
    made = "is ready" if start.is_new else "exists already; nothing was changed"
    text = f"The server at {place.root} {made} (v{start.current} is current)."
    emit(describe(place, start), as_json, text)


@app.command()
def up(home: Home = None, as_json: AsJson = False) -> None:
    """Run the server until it is told to stop (SIGTERM, Ctrl-C)."""
    import logging
    from dataclasses import asdict

    from server.config import find_home
    from server.serve import Running
    from server.serve import up as run

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)

    def announce(server: Running) -> None:
        onion = f"; onion service {server.onion}" if server.onion else ""
        emit(asdict(server), as_json, f"The server is up: gateway {server.gateway}{onion}.")

    run(find_home(home), announce=announce, say=say)


@app.command(name="round")
def run_round(
    home: Home = None,
    now: Annotated[bool, typer.Option("--now", help="Run one at once (needed).")] = False,
    mode: Annotated[str, typer.Option(help="collect or live.")] = "collect",
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="How many, in one run.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Collect, screen, merge, gate, publish and deploy."""
    from federation.errors import UsageError
    from server.cli_rounds import show_reports
    from server.config import find_home, load_config
    from server.rounds import run_rounds

    if not now:
        raise UsageError("say --now to run a round at once")
    if mode not in ("collect", "live"):
        raise UsageError(f"'{mode}' is not a mode", hint="Choose collect or live.")
    place = find_home(home)
    reports = run_rounds(place, load_config(place), mode=mode, rounds=rounds, say=say)
    show_reports(reports, as_json)


@app.command()
def status(home: Home = None, as_json: AsJson = False) -> None:
    """Say what runs, which version is current and what has come in."""
    from server.config import find_home
    from server.overview import overview

    found = overview(find_home(home))
    lines = "\n".join(f"{key:<16} {value}" for key, value in found.items())
    emit(found, as_json, lines)


def main() -> None:
    """Run the command line; a known error is one line and its exit code."""
    is_debug = "--debug" in sys.argv[1:]
    redaction.install()
    try:
        from federation.ownership import require_own_rooms

        require_own_rooms()
        app()
    except ConscienceError as err:
        if is_debug:
            raise
        print(redaction.redact(f"error: {err.message}"), file=sys.stderr)
        if err.hint:
            print(redaction.redact(f"hint: {err.hint}"), file=sys.stderr)
        sys.exit(err.exit_code)


if __name__ == "__main__":
    main()
