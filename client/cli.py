"""`flower-client`: the volunteer's commands.

Whatever takes time to import (pydantic too) is imported inside the functions that need it, so
that `--help` answers at once.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import click
import typer

from client import (
    cli_chat,
    cli_feeds,
    cli_files,
    cli_ingest,
    cli_memory,
    cli_node,
    cli_privacy,
    cli_rag,
    cli_review,
    cli_tor,
    cli_training,
    cli_verify,
)
from client.cli_output import Cli, fail
from federation import redaction
from federation.errors import ConscienceError
from federation.language import _, set_language
from federation.ownership import require_own_rooms

PROGRAM = "flower-client"
WITH_VALUE = ("--home", "--lang")
ALONE = ("--debug", "--version")


def main() -> None:
    """Run the command line and exit with its code."""
    redaction.install()
    raise SystemExit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code documented in `federation.errors`."""
    ordered = hoist(arguments)
    try:
        require_own_rooms()
        _choose_language(ordered)
        command = typer.main.get_command(build())
        result = command.main(ordered, prog_name=PROGRAM, standalone_mode=False)
    except ConscienceError as err:
        logging.getLogger(__name__).debug("failed", exc_info=err)
        fail(err, as_json="--json" in arguments)
        return err.exit_code
    except click.ClickException as err:
        err.show()
        return err.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    return result if isinstance(result, int) else 0


def build() -> typer.Typer:
    """The command tree, with its texts in the language in force."""
    app = typer.Typer(
        help=_("Train a language model at home and share only what it learnt."),
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_common)
    cli_node.add_commands(app)
    cli_ingest.add_commands(app)
    cli_feeds.add_commands(app)
    cli_training.add_commands(app)
    cli_tor.add_commands(app)
    cli_rag.add_commands(app)
    cli_files.add_commands(app)
    cli_privacy.add_commands(app)
    cli_chat.add_commands(app)
    cli_memory.add_commands(app)
    cli_review.add_commands(app)
    cli_verify.add_commands(app)
    return app


def hoist(arguments: Sequence[str]) -> list[str]:
    """Put the common options first, wherever they were given."""
    common: list[str] = []
    rest: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        if word == "--":
            return [*common, *rest, word, *waiting]
        if word in WITH_VALUE and waiting:
            common += [word, waiting.pop(0)]
        elif word in ALONE or word.startswith(tuple(f"{name}=" for name in WITH_VALUE)):
            common.append(word)
        else:
            rest.append(word)
    return [*common, *rest]


def _common(
    context: typer.Context,
    home: Annotated[Path | None, typer.Option(help=_("Folder of this node's files."))] = None,
    lang: Annotated[str | None, typer.Option(help=_("Language: en or es."))] = None,  # noqa: ARG001 - read by _choose_language
    debug: Annotated[bool, typer.Option(help=_("Log everything, with tracebacks."))] = False,
    version: Annotated[bool, typer.Option("--version", help=_("Show the version."))] = False,
) -> None:
    if version:
        from federation.bundle import installed_version

        print(f"conscienceai {installed_version()}")
        raise typer.Exit
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    from client.config import find_home

    context.obj = Cli(find_home(home))


def _choose_language(arguments: Sequence[str]) -> None:
    for index, word in enumerate(arguments[:-1]):
        if word == "--lang":
            set_language(arguments[index + 1])
    for word in arguments:
        if word.startswith("--lang="):
            set_language(word.removeprefix("--lang="))
