"""The command `review`: what was thought of answers, bad ones first."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli_output import Cli, emit
from federation.language import _

if TYPE_CHECKING:
    from client.review import Judged

WEEK_S = 7 * 86_400
SHOWN = 300  # characters of an answer


def add_commands(app: typer.Typer) -> None:
    """Add this file's command to the tree."""
    app.command(help=_("Show what you thought of answers on the page; it stays at home."))(review)


def review(
    context: typer.Context,
    week: Annotated[bool, typer.Option("--week", help=_("The last seven days alone."))] = False,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Show the opinions."""
    from client.review import review as gather

    cli: Cli = context.obj
    found = gather(cli.home, cli.config(), time.time() - WEEK_S if week else 0.0)
    good, bad = found.count("up"), found.count("down")
    told = _("{good} good and {bad} bad answers.").format(good=good, bad=bad)
    if not found.judged:
        told = _("No answer was judged yet: on the page, the thumbs below an answer.")
    blocks = [told, *(_shown(each) for each in found.judged)]
    emit(found.to_json(), "\n\n".join(blocks), as_json=as_json)


def _shown(judged: Judged) -> str:
    when = datetime.fromtimestamp(judged.ts).astimezone().strftime("%Y-%m-%d %H:%M")
    rating = _("good") if judged.rating == "up" else _("bad")
    asked = judged.question or _("(this conversation was forgotten)")
    lines = [f"{rating}  {when}  {asked}"]
    if judged.answer:
        text = " ".join(judged.answer.split())
        lines.append(f"  {text[:SHOWN]}{'…' if len(text) > SHOWN else ''}")
    if judged.reason:
        lines.append("  " + _("why: {reason}").format(reason=" ".join(judged.reason.split())))
    lines += [f"  [{n}] {each['title']}  {each['url']}" for n, each in enumerate(judged.sources, 1)]
    return "\n".join(line.rstrip() for line in lines)
