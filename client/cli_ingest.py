"""The command `ingest`: feeds and files become the corpus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli_output import Cli, emit, feeds_bar, steps_bar, talk
from federation.errors import ConscienceError
from federation.language import _

if TYPE_CHECKING:
    from client.ingesting import Summary


def add_commands(app: typer.Typer) -> None:
    """Add this file's command to the tree."""
    app.command(help=_("Fetch the feeds, or take in files, into the corpus."))(ingest)


def ingest(  # noqa: PLR0913 (the options of one command)
    context: typer.Context,
    feeds: Annotated[
        Path | None, typer.Option(help=_("Feeds file, or starter-es or starter-en."))
    ] = None,
    out: Annotated[Path | None, typer.Option(help=_("Corpus file."))] = None,
    stats: Annotated[Path | None, typer.Option(help=_("Statistics file."))] = None,
    languages: Annotated[
        str | None, typer.Option(help=_("Keep these alone, such as es,en."))
    ] = None,
    topics: Annotated[
        str | None, typer.Option(help=_("Whole words, such as 'ia;machine learning'."))
    ] = None,
    max_items_per_feed: Annotated[int | None, typer.Option(help=_("At most so many."))] = None,
    auto_manage: Annotated[
        bool, typer.Option("--auto-manage", help=_("Switch off feeds beside the topics."))
    ] = False,
    deactivate_threshold: Annotated[
        float, typer.Option(min=0, max=1, help=_("… below this share of their new entries,"))
    ] = 0.15,
    min_processed_to_evaluate: Annotated[
        int, typer.Option(min=1, help=_("… once so many were seen."))
    ] = 20,
    path: Annotated[
        list[Path] | None,
        typer.Option(help=_("A file or folder instead of the feeds; may be repeated.")),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help=_("With --path: the model may learn from it."))
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help=_("Also feeds that were fetched a moment ago."))
    ] = False,
    allow_loopback: Annotated[bool, typer.Option("--allow-loopback", hidden=True)] = False,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Fetch, read, write; the store follows."""
    from client import ingesting
    from rag.ingest.upkeep import Judgement

    cli: Cli = context.obj
    config = cli.config(feeds=_wanted(languages, topics, max_items_per_feed, allow_loopback))
    places = ingesting.places_of(cli.home, _subscribed(cli, feeds), out, stats)
    judgement = Judgement(deactivate_threshold, min_processed_to_evaluate) if auto_manage else None
    with feeds_bar() as ears:
        if path:
            summary = ingesting.take_paths(config, places, path, is_for_training=train, ears=ears)
        else:
            summary = ingesting.take_feeds(
                cli.home, config, places, judgement, is_forced=force, ears=ears
            )
    _tell(summary)
    _follow(cli, places.corpus)
    emit(summary.to_json(), _line(summary), as_json=as_json)
    if summary.is_failure:
        raise typer.Exit(1)


def _subscribed(cli: Cli, feeds: Path | None) -> Path | None:
    """The feeds file that was named; a starter list is added to the home's own, and that is read.

    A list of ours is never read in place: what an ingest has to change in it is its owner's.
    """
    from client.feed_list import STARTERS, add_starter

    if feeds is None or str(feeds) not in STARTERS:
        return feeds
    new = add_starter(cli.home, STARTERS[str(feeds)])
    told = _("{count} feeds were added; see and change them with: flower-client feeds list")
    talk(told.format(count=len(new)))
    return None


def _follow(cli: Cli, corpus: Path) -> None:
    """Make what is new in `corpus` searchable; if another process is at it, that one does.

    A corpus of `--out` that is not searched has no store.
    """
    from client.library import bring_up_to_date, is_searched

    config = cli.config()
    if corpus != cli.home.corpus and not is_searched(cli.home, config, corpus):
        return
    try:
        with steps_bar() as report:
            bring_up_to_date(cli.home, config, talk, report, corpus=corpus)
    except ConscienceError as err:
        talk(err.message)


def _wanted(
    languages: str | None, topics: str | None, max_items: int | None, allow_loopback: bool
) -> dict[str, Any] | None:
    """The flags of the settings' part `feeds` that were given."""
    from rag.ingest.topics import parse_topics, unique

    flags: dict[str, Any] = {}
    if languages is not None:
        flags["languages"] = unique(languages.lower().split(","))
    if topics is not None:
        flags["topics"] = parse_topics(topics)
    if max_items is not None:
        flags["max_items"] = max_items
    if allow_loopback:
        flags["allow_loopback"] = True
    return flags or None


def _tell(summary: Summary) -> None:
    """Say on stderr what failed, what was changed, what was not due."""
    from client.ingesting import name_of

    for result in summary.failed:
        talk(_("failed: {name}: {why}").format(name=name_of(result), why=result.why))
    for note in summary.notes:
        talk(note)
    waiting = sum(result.outcome == "not due" for result in summary.results)
    if waiting:
        sentence = _("{count} feeds are not due yet (--force fetches them all the same)")
        talk(sentence.format(count=waiting))


def _line(summary: Summary) -> str:
    counts = [f"{what}={summary.count(what)}" for what in ("new", "changed", "same")]
    counts.append(f"failed={len(summary.failed)}")
    if summary.removed:
        counts.append(f"removed={summary.removed}")
    return " ".join(counts)
