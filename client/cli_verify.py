"""Commands that ask the chat what it should know: smoke, verify-chat."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli_output import Cli, talk
from federation.language import _

if TYPE_CHECKING:
    from client.smoke import Smoke
    from client.verification import Outcome

PIPE_WIDTH = 200


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands to the tree."""
    app.command(help=_("Ask three questions and see that sources are found and cited."))(smoke)
    app.command(
        "verify-chat",
        help=_("Ask the verification questions; a new adapter that breaks something is put back."),
    )(verify_chat)


def smoke(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Ask three questions; exit code 1 if one is not answered with its source."""
    from client import smoke as three

    cli: Cli = context.obj
    found = three.smoke(cli.home, cli.config(), talk)
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        _show_smoke(found)
    if not found.has_passed:
        raise typer.Exit(1)


def verify_chat(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Ask the verification questions; exit code 1 if one fails or an adapter was put back."""
    from client import verification

    cli: Cli = context.obj
    found = verification.verify(cli.home, cli.config())
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        _show_verification(found)
    if not found.has_passed:
        raise typer.Exit(1)


def _show_smoke(found: Smoke) -> None:
    rows = [
        [each.question, _mark(each.answered), _mark(each.cited), _mark(each.hit), each.source]
        for each in found.asked
    ]
    _table([_("question"), _("answered"), _("cited"), _("found"), _("source")], rows)
    asked = len(found.asked)
    text = _("{answered}/{asked} answered, {cited}/{asked} cite a source, {hit}/{asked} find it")
    print(
        text.format(
            asked=asked,
            answered=sum(each.answered for each in found.asked),
            cited=sum(each.cited for each in found.asked),
            hit=sum(each.hit for each in found.asked),
        )
    )
    if found.corpus == "shipped":
        print(_("This node holds too few texts: the shipped ones were asked about."))


def _show_verification(found: Outcome) -> None:
    rows = [
        [row.id, row.kind, _mark(row.has_passed), "; ".join(row.faults) or row.detail]
        for row in found.report.rows
    ]
    _table([_("prompt"), _("kind"), _("passed"), _("what came")], rows)
    model = found.report.model
    text = _("{passed} of {asked} passed with {model}, prompts {sha256}")
    print(
        text.format(
            passed=sum(row.has_passed for row in found.report.rows),
            asked=len(found.report.rows),
            model=" + ".join(filter(None, (model.base, model.adapter))) or _("no model"),
            sha256=found.prompts_sha256[:12],
        )
    )
    if found.note:
        print(found.note)


def _mark(is_so: bool) -> str:
    return _("yes") if is_so else _("no")


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from rag.answer.clean import one_line

    shown = Table(box=None, pad_edge=False)
    for header in headers:
        shown.add_column(header, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(one_line(cell)) for cell in row))  # feeds control no terminal
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(shown)
