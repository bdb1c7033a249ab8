"""Commands about the way to the server: tor check, tor bench."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from client.cli_output import Cli, emit, table, talk
from federation.language import _

if TYPE_CHECKING:
    from client.tor_bench import Bench
    from federation.tor.diagnosis import Finding


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands to the tree."""
    tor = typer.Typer(help=_("The way to the server, through Tor."), no_args_is_help=True)
    tor.command(help=_("Look at every part of the way; exits with the number of the first fault."))(
        check
    )
    tor.command(help=_("Measure the way to the server; about 10 MB travel."))(bench)
    app.add_typer(tor, name="tor")


def check(
    context: typer.Context,
    retry: Annotated[
        int, typer.Option(min=0, max=1000, help=_("Further attempts after a failure."))
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Look at every leg; 0, or 81 to 89 for the first one that fails."""
    from client.tor_check import Ears
    from client.tor_check import check as look
    from federation.tor.diagnosis import exit_code

    cli: Cli = context.obj
    ears = Ears(say=talk) if as_json else Ears(lambda finding: print(_line(finding)), talk)
    findings = look(cli.home, cli.config(), ears, retries=retry)
    code = exit_code(findings)
    content = {"ok": not code, "exit_code": code, "legs": [vars(each) for each in findings]}
    emit(content, "", as_json=as_json)
    if code:
        raise typer.Exit(code)


def bench(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Measure, and keep the figures."""
    import time

    from client import tor_bench

    cli: Cli = context.obj
    measured = tor_bench.measure(cli.home, cli.config(), talk, now=time.time)
    folder = tor_bench.save(measured, cli.home)
    text = "\n".join(
        [
            _figures(measured),
            tor_bench.sentence(measured),
            _("Figures and picture are in {folder}").format(folder=folder),
        ]
    )
    emit(tor_bench.content(measured) | {"folder": str(folder)}, text, as_json=as_json)


def _line(finding: Finding) -> str:
    marks = {"ok": "ok", "failed": _("PROBLEM"), "unknown": "?", "unused": "-"}
    titles = {
        "tor": _("Tor found"),
        "socks": _("SOCKS answers"),
        "bootstrap": _("in the Tor network"),
        "descriptor": _("onion service reached"),
        "key": _("key accepted by the onion"),
        "tls": _("certificate pinned"),
        "gateway": _("gateway ready"),
        "node": _("node admitted"),
        "clock": _("clocks agree"),
    }
    said = " ".join(part for part in (finding.sentence, finding.hint) if part)
    line = f"{marks[finding.state]:<8} {titles[finding.leg]}"
    return f"{line}: {said}" if said else line


def _figures(bench: Bench) -> str:
    from client.tor_bench import content, size_words

    made = content(bench)
    rows: list[list[object]] = [
        [_("new connection"), f"{made['connect_median_s']:.2f} s"],
        [_("first byte, half of the requests"), f"{made['first_byte_p50_ms']:.0f} ms"],
        [_("first byte, 95 of 100"), f"{made['first_byte_p95_ms']:.0f} ms"],
    ]
    for each in bench.transfers:
        words = size_words(each.size_bytes)
        rows.append([_("{size} up").format(size=words), f"{each.up_kib_s:.0f} KiB/s"])
        rows.append([_("{size} down").format(size=words), f"{each.down_kib_s:.0f} KiB/s"])
    return table([_("what"), _("value")], rows)
