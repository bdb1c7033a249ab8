"""`flower-client chat`: in the terminal, one question, or questions from a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli_output import Cli
from federation.errors import UsageError
from federation.language import _

if TYPE_CHECKING:
    from client.config import NodeConfig
    from rag.answer.events import Question
    from rag.answer.respond import Responder
    from rag.answer.result import Answer
    from rag.chat.session import Conversation

# --set KEY=VALUE: how a question is asked, how the next token is drawn, how the talk is kept.
ASKED = {"rag": bool, "top_k_sources": int, "max_chars": int, "language": str, "anyway": bool}
DRAWN = {"temperature": float, "top_p": float, "top_k": int, "repetition_penalty": float,
         "max_new_tokens": int, "seed": int}  # fmt: skip
KEPT = {"memory": bool, "train": bool, "style": str, "model": str}
SWITCHES = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}


def add_commands(app: typer.Typer) -> None:
    """Add this file's command to the tree."""
    app.command(help=_("Talk with your sources and your model."))(chat)


def chat(  # noqa: PLR0913 (the options of one command)
    context: typer.Context,
    text: Annotated[
        str, typer.Argument(help=_("The question; without one it is read from stdin."))
    ] = "",
    once: Annotated[bool, typer.Option("--once", help=_("Answer one question and end."))] = False,
    session: Annotated[
        str, typer.Option(help=_("Go on with the session whose id begins so; 'last' for the last."))
    ] = "",
    values: Annotated[
        list[str] | None,
        typer.Option("--set", help=_("KEY=VALUE, such as temperature=0.5 or rag=off; repeatable.")),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help=_("Print JSON, a line an answer."))
    ] = False,
    web: Annotated[
        bool, typer.Option("--web", help=_("Serve the page and the API on this machine."))
    ] = False,
    onion: Annotated[
        bool, typer.Option("--onion", help=_("With --web: also for your devices, through Tor."))
    ] = False,
    new_token: Annotated[
        bool, typer.Option("--new-token", help=_("With --web: a new login; the old one ends."))
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help=_("Of the page."))] = 5180,
) -> None:
    """Chat."""
    from client import cli_output as output
    from client import library
    from client.knowledge import open_responders

    library.bound_blas()
    cli: Cli = context.obj
    asked, drawn, kept = parse(values or [])
    config = cli.config(answer_style=kept.pop("style", None), model=kept.pop("model", None))
    for flag, is_given in (("--onion", onion), ("--new-token", new_token)):
        if is_given and not web:
            raise UsageError(_("{flag} is for the page: add --web.").format(flag=flag))
    if web:
        from client.chat_web import serve

        serve(cli.home, config, port, output.say, onion=onion, new_token=new_token)
        return
    question = _question(asked, drawn)
    with library.searching(cli.home, config, output.talk) as search:
        responders = open_responders(cli.home, config, search)
        talk = _conversation(cli, config, session, kept, responders(True))
        if once or text or not sys.stdin.isatty():
            for line in _lines(text, once=once):
                _print(talk.answer(replace(question, text=line)), as_json=as_json)
            return
        from client.chat_terminal import Terminal

        Terminal(talk, question, responders).run()


def parse(values: list[str]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What `--set` said: of the question, of the sampling, of the talk.

    Raises:
        UsageError: an unknown key or a value that is none.
    """
    found: tuple[dict[str, Any], ...] = ({}, {}, {})
    for entry in values:
        key, equals, value = entry.partition("=")
        for kinds, into in zip((ASKED, DRAWN, KEPT), found, strict=True):
            if equals and key in kinds:
                into[key] = _value(key, value, kinds[key])
                break
        else:
            known = ", ".join(sorted([*ASKED, *DRAWN, *KEPT]))
            raise UsageError(
                _("'{entry}' is not KEY=VALUE with a known key.").format(entry=entry),
                hint=_("Known keys: {known}").format(known=known),
            )
    return found[0], found[1], found[2]


def _value(key: str, value: str, kind: type) -> Any:  # noqa: ANN401 - of that kind
    try:
        return SWITCHES[value.lower()] if kind is bool else kind(value)
    except (KeyError, ValueError) as err:
        raise UsageError(_("{key} cannot be '{value}'.").format(key=key, value=value)) from err


def _question(asked: dict[str, Any], drawn: dict[str, Any]) -> Question:
    from rag.answer.events import Question

    sampling = None
    if drawn:
        from federation.model.speak import Sampling

        try:
            sampling = Sampling(**drawn)
        except ValueError as err:
            raise UsageError(str(err)) from err
    passages = asked.pop("top_k_sources", Question("").top_k)
    if passages < 1:
        raise UsageError(
            _("{key} cannot be '{value}'.").format(key="top_k_sources", value=passages)
        )
    return Question("", top_k=passages, sampling=sampling, **asked)


def _conversation(
    cli: Cli, config: NodeConfig, session: str, kept: dict[str, Any], responder: Responder
) -> Conversation:
    from client.cli_memory import find
    from client.knowledge import open_memory
    from rag.chat.session import Conversation

    memory = open_memory(cli.home, config) if kept.get("memory", True) else None
    talk = Conversation(responder, memory, train=kept.get("train", False))
    if session and memory is not None:
        known = memory.sessions()
        if session == "last":
            talk.session = known[0].id if known else ""
        else:
            talk.session = find(memory, session).id
    return talk


def _lines(text: str, *, once: bool) -> Iterator[str]:
    """Questions: the argument, or stdin, whole with --once and a line each without."""
    if text:
        yield text
        return
    lines = iter([sys.stdin.read()]) if once else iter(sys.stdin)
    asked = 0
    for line in lines:
        if line.strip():
            asked += 1
            yield line.strip()
    if not asked:
        raise UsageError(_("There is no question."), hint=_("Give it as an argument or on stdin."))


def _print(answer: Answer, *, as_json: bool) -> None:
    from client.chat_terminal import source_line

    if as_json:
        print(json.dumps(answer.to_json(), ensure_ascii=False), flush=True)
        return
    lines = [answer.answer, *(source_line(s) for s in answer.sources if s.is_cited)]
    print("\n".join(lines), flush=True)
