"""What the owner thought of answers: opinions given on the page, beside what was asked and said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from client.config import NodeConfig, NodeHome
from client.knowledge import open_memory
from rag.chat.memory import Memory, Turn
from rag.chat.web.feedback import Feedback, Opinion


@dataclass(frozen=True)
class Judged:
    """One answer that was judged.

    Attributes:
        ts: of the opinion, seconds since 1970.
        rating: up or down.
        reason: in the owner's words, or "".
        question, answer: "" if the conversation was forgotten.
        sources: title and link of each that was shown.
        adapter: that the answer was made with, or "".
    """

    message_id: str
    ts: float
    rating: str
    reason: str
    question: str
    answer: str
    sources: tuple[Mapping[str, str], ...]
    adapter: str


@dataclass(frozen=True)
class Review:
    """Opinions since a moment: bad ones first, of each kind the newest first."""

    since: float
    judged: tuple[Judged, ...]

    def count(self, rating: str) -> int:
        """How many were "up" or "down"."""
        return sum(each.rating == rating for each in self.judged)

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        answers = [asdict(each) for each in self.judged]
        return {
            "since": self.since,
            "up": self.count("up"),
            "down": self.count("down"),
            "answers": answers,
        }


def review(home: NodeHome, config: NodeConfig, since: float = 0.0) -> Review:
    """Gather the opinions given since a moment.

    Args:
        home: the node's.
        config: its settings.
        since: seconds since 1970.
    """
    opinions = [each for each in Feedback(home.feedback).all() if each.ts >= since]
    turns = _turns(open_memory(home, config), {each.message_id for each in opinions})
    judged = [_judged(each, turns.get(each.message_id, ())) for each in opinions]
    return Review(since, tuple(sorted(judged, key=lambda each: (each.rating != "down", -each.ts))))


def _turns(memory: Memory, wanted: set[str]) -> dict[str, list[Turn]]:
    found: dict[str, list[Turn]] = {}
    for session in memory.sessions() if wanted else ():
        for turn in memory.turns(session.id):
            if turn.message_id in wanted:
                found.setdefault(turn.message_id, []).append(turn)
    return found


def _judged(opinion: Opinion, turns: Sequence[Turn]) -> Judged:
    said = {turn.role: turn for turn in turns}
    asked, reply = said.get("user"), said.get("assistant")
    sources = reply.sources if reply else ()
    return Judged(
        message_id=opinion.message_id,
        ts=opinion.ts,
        rating=opinion.rating,
        reason=opinion.reason,
        question=asked.content if asked else "",
        answer=reply.content if reply else "",
        sources=tuple(
            {"title": str(each.get("title", "")), "url": str(each.get("url", ""))}
            for each in sources
        ),
        adapter=reply.adapter if reply else "",
    )
