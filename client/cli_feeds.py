"""The commands `feeds …`: which feeds are read, and a look at one before it is added."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli_output import Cli, emit, table, talk
from federation.language import _

if TYPE_CHECKING:
    from rag.ingest.feeds import Feed
    from rag.ingest.trial import Trial


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands to the tree."""
    feeds = typer.Typer(help=_("Which feeds are read."), no_args_is_help=True)
    feeds.command("list", help=_("List the feeds and how they fare."))(list_feeds)
    feeds.command(help=_("Add a feed."))(add)
    feeds.command("test", help=_("Look at a feed once; nothing is stored."))(try_one)
    feeds.command(help=_("Remove a feed; what it brought stays."))(remove)
    feeds.command(help=_("Read a feed again."))(enable)
    feeds.command(help=_("Pass a feed over."))(disable)
    app.add_typer(feeds, name="feeds")


def list_feeds(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """List the feeds with what is remembered of them."""
    from client.feed_list import feed_overview

    cli: Cli = context.obj
    rows = feed_overview(cli.home)
    headers = [_("feed"), _("active"), _("entries"), _("last read"), _("failures"), _("address")]
    names = ("name", "active", "entries", "fetched_at", "failures", "url")
    cells = [[row[name] for name in names] for row in rows]
    text = table(headers, cells) if rows else _("There are no feeds yet.")
    emit({"feeds": rows}, text, as_json=as_json)


def add(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help=_("Address of an RSS or Atom feed."))],
    name: Annotated[str, typer.Option(help=_("What you call it."))] = "",
    topics: Annotated[str, typer.Option(help=_("Its topics, such as 'ia;salud'."))] = "",
    language: Annotated[str, typer.Option(help=_("Its language, such as es."))] = "",
    no_train: Annotated[
        bool, typer.Option("--no-train", help=_("Search it, but never learn from it."))
    ] = False,
) -> None:
    """Add one feed to the file."""
    from client.feed_list import add_feed

    cli: Cli = context.obj
    values: dict[str, Any] = {"name": name, "topics": topics, "language": language}
    feed = add_feed(cli.home, {"url": url, **values, "train": not no_train})
    print(_("{url} will be read by the next: flower-client ingest").format(url=feed.url))


def try_one(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help=_("Address of an RSS or Atom feed."))],
    allow_loopback: Annotated[bool, typer.Option("--allow-loopback", hidden=True)] = False,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Fetch and read one feed, and say what it holds or why it cannot be read."""
    from client.feed_trial import look_at

    cli: Cli = context.obj
    config = cli.config(feeds={"allow_loopback": True} if allow_loopback else None)
    trial = look_at(cli.home, config, url, talk)
    if trial.warning:
        talk(_("it can be read, but is not well-formed: {why}").format(why=trial.warning))
    emit(trial.to_json(), _shown_trial(trial), as_json=as_json)


def _shown_trial(trial: Trial) -> str:
    facts = [
        (_("title"), trial.title or "—"),
        (_("language"), trial.language or "—"),
        (_("entries"), trial.entries),
        (_("newest"), trial.newest[:10] or "—"),
        (_("moved to"), trial.moved_to),
        *((_("entry"), title) for title in trial.titles),
    ]
    return "\n".join(f"{name}: {value}" for name, value in facts if value)


def remove(
    context: typer.Context,
    feed: Annotated[str, typer.Argument(help=_("Its address or name."))],
) -> None:
    """Remove one feed from the file."""
    _change(context, feed, lambda _feed: None)
    print(_("Removed. What it brought stays in the corpus."))


def enable(
    context: typer.Context,
    feed: Annotated[str, typer.Argument(help=_("Its address or name."))],
) -> None:
    """Switch one feed on."""
    _change(context, feed, lambda found: found.model_copy(update={"active": True}))
    print(_("It will be read."))


def disable(
    context: typer.Context,
    feed: Annotated[str, typer.Argument(help=_("Its address or name."))],
) -> None:
    """Switch one feed off."""
    _change(context, feed, lambda found: found.model_copy(update={"active": False}))
    print(_("It will be passed over."))


def _change(context: typer.Context, named: str, change: Callable[[Feed], Feed | None]) -> None:
    from client.feed_list import change_feed

    cli: Cli = context.obj
    change_feed(cli.home, named, change)
