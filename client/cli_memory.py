"""Commands about what was said in chats: show, search, forget, export."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli_output import Cli, emit, table
from federation.errors import UsageError
from federation.language import _, language

if TYPE_CHECKING:
    from rag.chat.memory import Memory, Session

DAY_S = 86_400


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands to the tree."""
    memory = typer.Typer(help=_("What was said in chats, kept at home."), no_args_is_help=True)
    memory.command(help=_("List the sessions, or show one."))(show)
    memory.command(help=_("Find messages of your own."))(search)
    memory.command(help=_("Delete a session, what is old, or everything, for good."))(forget)
    memory.command(help=_("Write sessions as Markdown or JSON."))(export)
    memory.command(help=_("Say whether a session may be trained on: on or off."))(train)
    app.add_typer(memory, name="memory")


def show(
    context: typer.Context,
    session: Annotated[str, typer.Argument(help=_("The first characters of its id."))] = "",
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """List or show."""
    memory = _open(context)
    if session:
        found = find(memory, session)
        turns = memory.turns(found.id)
        content = {**asdict(found), "turns": [asdict(turn) for turn in turns]}
        lines = [f"{_when(turn.ts)}  {_who(turn.role)}: {turn.content}" for turn in turns]
        emit(content, "\n".join(lines), as_json=as_json)
        return
    sessions = memory.sessions()
    rows = [
        [s.id[:12], _when(s.updated), s.turns, _("yes") if s.train else _("no"), s.title]
        for s in sessions
    ]
    headers = [_("session"), _("last"), _("turns"), _("train"), _("title")]
    text = table(headers, rows) if rows else _("Nothing is remembered.")
    content = {"path": str(memory.path), "sessions": [asdict(entry) for entry in sessions]}
    emit(content, text, as_json=as_json)


def search(
    context: typer.Context,
    text: Annotated[str, typer.Argument(help=_("Words to look for."))],
    limit: Annotated[int, typer.Option(min=1, max=1000, help=_("At most so many."))] = 10,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Search the user's own messages."""
    found = _open(context).search(text, limit=limit)
    rows = [[turn.session[:12], _when(turn.ts), turn.content] for turn in found]
    shown = table([_("session"), _("when"), _("message")], rows) if rows else _("Nothing found.")
    emit({"turns": [asdict(turn) for turn in found]}, shown, as_json=as_json)


def forget(
    context: typer.Context,
    session: Annotated[str, typer.Argument(help=_("The first characters of its id."))] = "",
    everything: Annotated[bool, typer.Option("--all", help=_("Everything."))] = False,
    older_than: Annotated[
        int, typer.Option(min=0, help=_("What was said more than so many days ago."))
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Forget."""
    from rag.chat.web.feedback import Feedback

    if sum((bool(session), everything, bool(older_than))) != 1:
        raise UsageError(
            _("Say what to forget."), hint=_("A session's id, --older-than DAYS, or --all.")
        )
    memory = _open(context)
    feedback = Feedback(context.obj.home.feedback)  # opinions go with what they are about
    if everything:
        gone = memory.forget_all()
        feedback.forget()
    elif session:
        found = find(memory, session).id
        answers = {turn.message_id for turn in memory.turns(found)}
        gone = memory.forget(found)
        feedback.forget(answers)
    else:
        gone = memory.forget(before=time.time() - older_than * DAY_S)
    text = _("{count} messages were deleted; no copy of them is left in the file.")
    emit({"forgotten": gone}, text.format(count=gone), as_json=as_json)


def export(
    context: typer.Context,
    session: Annotated[str, typer.Argument(help=_("The first characters of its id."))] = "",
    out: Annotated[Path | None, typer.Option(help=_("File; the screen without one."))] = None,
    as_json: Annotated[bool, typer.Option("--json", help=_("JSON rather than Markdown."))] = False,
) -> None:
    """Export."""
    import json

    memory = _open(context)
    chosen = find(memory, session).id if session else ""
    if as_json:
        text = json.dumps(memory.to_json(chosen), ensure_ascii=False, indent=1)
    else:
        text = as_markdown(memory, chosen)
    if out is None:
        print(text)
        return
    from federation import durable

    durable.write_text(out.expanduser().absolute(), text + "\n")
    print(_("Written to {path}").format(path=out))


def train(
    context: typer.Context,
    session: Annotated[str, typer.Argument(help=_("The first characters of its id."))],
    state: Annotated[str, typer.Argument(help=_("on or off"))],
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Mark a session."""
    if state not in ("on", "off"):
        raise UsageError(_("'{word}' is neither on nor off.").format(word=state))
    memory = _open(context)
    chosen = find(memory, session)
    memory.mark_for_training(chosen.id, train=state == "on")
    if state == "on":
        text = _("Session {id} may be trained on.")
    else:
        text = _("Session {id} is never trained on.")
    emit({"session": chosen.id, "train": state == "on"}, text.format(id=chosen.id[:12]),
         as_json=as_json)  # fmt: skip


def find(memory: Memory, beginning: str) -> Session:
    """The session whose id begins so.

    Raises:
        UsageError: none, or several.
    """
    found = [entry for entry in memory.sessions() if entry.id.startswith(beginning)]
    if len(found) != 1:
        text = _("No session begins with {id}.") if not found else _("Several begin with {id}.")
        raise UsageError(text.format(id=beginning), hint=_("See: flower-client memory show"))
    return found[0]


def as_markdown(memory: Memory, session: str = "") -> str:
    """One session, or all, as Markdown."""
    from rag.chat.export import to_markdown

    chosen = [entry for entry in memory.sessions() if session in ("", entry.id)]
    return "\n".join(to_markdown(entry, memory.turns(entry.id), language()) for entry in chosen)


def _open(context: typer.Context) -> Memory:
    from client.knowledge import open_memory

    cli: Cli = context.obj
    return open_memory(cli.home, cli.config())


def _who(role: Any) -> str:  # noqa: ANN401 - "user" or "assistant"
    return _("you") if role == "user" else _("answer")


def _when(seconds: float) -> str:
    from rag.chat.export import moment

    return moment(seconds)
