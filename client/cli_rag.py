"""Commands about retrieval: rag query, stats, reindex."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli_output import Cli, emit, steps_bar, table, talk
from federation.errors import ConscienceError, UsageError
from federation.language import _

if TYPE_CHECKING:
    from rag.passages import Found
    from rag.retrieval.filters import Filters
    from rag.retrieval.library import Library, Stats

SHOWN_CHARACTERS = 300


def add_commands(app: typer.Typer) -> None:
    """Add this file's commands to the tree."""
    rag = typer.Typer(help=_("Search what this node has read."), no_args_is_help=True)
    rag.command(help=_("Find the passages that answer a question."))(query)
    rag.command(help=_("Say what this node knows, and whether all of it is found."))(stats)
    rag.command(help=_("Make passages, vectors and index anew; searches go on."))(reindex)
    app.add_typer(rag, name="rag")


def query(
    context: typer.Context,
    question: Annotated[str, typer.Argument(help=_("In Spanish or English."))],
    k: Annotated[int, typer.Option("--k", "-k", min=1, max=100, help=_("How many."))] = 3,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help=_("language=es, source=a part of its name, since=2026-01-31; repeat it.")
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Search the corpus."""
    filters = parse_filters(only or [])
    with _library(context.obj) as library:
        library.warm()
        _follow(library)
        found = library.search(question, k, filters)
        notes = library.notes()
    for note in notes:
        talk(note)
    emit(found_json(found, notes), _found_text(found), as_json=as_json)


def stats(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Say what this node knows."""
    with _library(context.obj) as library:
        found, notes = library.stats(), library.notes()
    index = found.index
    rows: list[list[object]] = [
        [_("documents"), found.documents],
        [_("passages"), found.chunks],
        [_("newest document"), found.newest[:10] or "–"],
        [_("embedder"), found.embedder or _("none: words alone")],
        [_("vectors"), _vectors_text(found)],
        [_("index"), "–" if index is None else f"{index.kind}, {index.sha256[:12]}"],
        [_("vectors in the index"), 0 if index is None else index.ntotal],
        [_("generation"), found.generation],
        [_("generation of the index"), "–" if index is None else index.generation],
        [_("all found"), _("yes") if found.is_complete else _("no")],
    ]
    text = "\n".join([table([_("what"), _("state")], rows), *notes])
    emit(asdict(found) | {"notes": notes}, text, as_json=as_json)


def reindex(
    context: typer.Context,
    anew: Annotated[
        bool, typer.Option("--anew", help=_("Read the corpus from its start too."))
    ] = False,
    download: Annotated[
        bool, typer.Option("--download", help=_("Fetch the embedder from its hub if needed."))
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help=_("Print JSON."))] = False,
) -> None:
    """Make passages, vectors and index anew where needed; searches go on meanwhile."""
    from client.feeds_way import needs_tor

    cli: Cli = context.obj
    if download and needs_tor(cli.home, cli.config()):
        raise UsageError(
            _("an embedder cannot be fetched through Tor"),
            hint=_("Fetch it on another machine and set `embedder` to its folder."),
        )
    with _library(cli, allow_download=download) as library, steps_bar() as report:
        library.reindex(anew=anew, report=report)
        found, notes = library.stats(), library.notes()
    text = _("{documents} documents, {chunks} passages, {vectors} vectors.").format(
        documents=found.documents, chunks=found.chunks, vectors=found.vectors
    )
    emit(asdict(found) | {"notes": notes}, "\n".join([text, *notes]), as_json=as_json)


def _library(cli: Cli, *, allow_download: bool = False) -> Library:
    from client.library import open_library

    return open_library(cli.home, cli.config(), allow_download=allow_download)


def _follow(library: Library) -> None:
    """Take in new texts; if another process is at it, search what there is."""
    try:
        with steps_bar() as report:
            library.follow(report=report)
        library.mend_index()
    except ConscienceError as err:
        talk(err.message)


def _vectors_text(found: Stats) -> str:
    if not found.vectors_of:
        return "0"
    text = _("{vectors} of {embedder}, {missing} missing")
    return text.format(vectors=found.vectors, embedder=found.vectors_of, missing=found.missing)


def parse_filters(only: list[str]) -> Filters:
    """Read `--only` options.

    Raises:
        UsageError: an unknown name, or no date.
    """
    from rag.retrieval.filters import Filters
    from rag.retrieval.store import timestamp

    values = {"language": "", "source": "", "since": ""}
    for text in only:
        name, equals, value = text.partition("=")
        if name not in values or not equals:
            raise UsageError(
                _("'{text}' is not a filter").format(text=text), hint=f"{', '.join(values)}: name=…"
            )
        values[name] = value.strip()
    if values["since"] and not timestamp(values["since"]):
        raise UsageError(_("'{text}' is not a date").format(text=values["since"]))
    return Filters(**values)


def found_json(found: Found, notes: list[str]) -> dict[str, Any]:
    """What `rag query --json` prints."""
    return {
        "question": found.question,
        "passages": [
            {
                "id": p.document_id,
                "title": p.title,
                "url": p.link,
                "date": p.published,
                "source": p.source_name,
                "language": p.language,
                "text": p.text,
                "start": p.start,
                "end": p.end,
                "score": round(p.score, 6),
                "bm25": round(p.bm25, 6),
                "cosine": None if p.cosine is None else round(p.cosine, 6),
            }
            for p in found.passages
        ],
        "terms": list(found.terms),
        "evidence": asdict(found.evidence),
        "embedder": found.embedder,
        "seconds": {step: round(value, 6) for step, value in found.seconds.items()},
        "notes": notes,
    }


def _found_text(found: Found) -> str:
    if not found.passages:
        return _("Nothing in your sources is about this.")
    parts = []
    for number, passage in enumerate(found.passages, 1):
        text = " ".join(passage.text.split())
        shown = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS].rstrip() + "…"
        about = " · ".join(filter(None, (passage.source_name, passage.published[:10])))
        facts = _("score {score}, words {words}, cosine {cosine}").format(
            score=f"{passage.score:.2f}",
            words=f"{passage.bm25:.2f}",
            cosine="–" if passage.cosine is None else f"{passage.cosine:.2f}",
        )
        lines = (f"[{number}] {passage.title or passage.document_id}", about, passage.link, shown)
        parts.append("\n    ".join([*filter(None, lines), facts]))
    return "\n\n".join(parts)
