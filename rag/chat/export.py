"""A conversation as Markdown, with its sources and dates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rag.chat.memory import Session, Turn

WHO = {"es": {"user": "Tú", "assistant": "Respuesta"}, "en": {"user": "You", "assistant": "Answer"}}


def to_markdown(session: Session, turns: Sequence[Turn], language: str = "en") -> str:
    """One document; texts of others are escaped, so that nothing in them becomes a link."""
    lines = [f"# {escape(session.title) or session.id}", "", f"{moment(session.created)}", ""]
    who = WHO.get(language, WHO["en"])
    for turn in turns:
        adapter = f" · {escape(turn.adapter)}" if turn.adapter else ""
        lines += [f"## {who[turn.role]} · {moment(turn.ts)}{adapter}", ""]
        lines += [*map(escape, turn.content.splitlines()), ""]
        for source in turn.sources:
            if source["is_cited"]:
                lines.append(_source(source["n"], dict(source)))
        if any(source["is_cited"] for source in turn.sources):
            lines.append("")
    return "\n".join(lines)


def escape(text: str) -> str:
    """`text` with Markdown's and HTML's marks made plain."""
    plain = "".join(f"\\{letter}" if letter in "\\`*_{}[]()#!|~$" else letter for letter in text)
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def moment(seconds: float) -> str:
    """Local date and time."""
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def _source(n: int, source: dict[str, object]) -> str:
    title = escape(str(source["title"]))
    url = str(source["url"])
    safe = url.replace("(", "%28").replace(")", "%29").replace(" ", "%20")
    named = f"[{title}](<{safe}>)" if url and "<" not in url and ">" not in url else title
    feed, date = escape(str(source["feed"])), str(source["published"])[:10]
    quote = escape(" ".join(str(source["quote"]).split()))
    return f"- \\[{n}\\] {named}, {feed}, {date}: “{quote}”"
