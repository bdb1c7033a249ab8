"""A conversation that goes on: question → what is remembered → answer → memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from rag.answer.events import Done, Event, Question
from rag.answer.notes import note
from rag.answer.prompt import Said
from rag.answer.respond import Responder
from rag.answer.result import Answer
from rag.answer.words import language_of
from rag.chat.memory import LOADED_TURNS, Memory, Turn

RECALLED = 3


@dataclass
class Conversation:
    """One session of one memory, answered by one responder.

    Attributes:
        responder: may be exchanged between two answers.
        memory: None keeps nothing.
        session: id; "" until something is said.
        train: whether a session begun here may be trained on.
    """

    responder: Responder
    memory: Memory | None = None
    session: str = ""
    train: bool = False
    clock: Callable[[], float] = time.time

    def ask(
        self, question: Question, is_stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        """Answer, and remember both sides before the last event is given out.

        Args:
            question: its `turns` and `notes` are filled in here.
            is_stopped: asked before each token.
        """
        asked_at = self.clock()
        if self.memory is not None and not self.session:
            self.session = self.memory.begin(train=self.train, now=asked_at)
        for event in self.responder.events(self._recalled(question), is_stopped):
            if isinstance(event, Done):
                answer = replace(event.answer, session_id=self.session)
                self._remember(question.text, answer, asked_at)
                yield Done(answer)
            else:
                yield event

    def answer(self, question: Question) -> Answer:
        """The whole answer at once."""
        events = list(self.ask(question))
        assert isinstance(events[-1], Done)  # noqa: S101 - `ask` ends so
        return events[-1].answer

    def _recalled(self, question: Question) -> Question:
        if self.memory is None:
            return question
        recent = self.memory.turns(self.session, last=LOADED_TURNS)
        language = question.language or language_of(question.text, self.responder.language)
        found = self.memory.search(
            question.text, limit=RECALLED, without=[turn.id for turn in recent]
        )
        told = [turn for turn in recent if turn.role == "user"]
        notes = [
            note(turn.content, turn=turn.id, published=_iso(turn.ts), language=language)
            for turn in [*found, *told]
            if turn.content.strip() != question.text.strip() and "?" not in turn.content
        ]
        turns = [Said(turn.role, turn.content) for turn in recent]
        return replace(question, turns=turns, notes=notes)

    def _remember(self, text: str, answer: Answer, asked_at: float) -> None:
        if self.memory is None:
            return
        asked = Turn("user", text, asked_at, message_id=answer.message_id)
        if not answer.answer:  # stopped before its first word
            self.memory.add(self.session, asked)
            return
        reply = Turn(
            role="assistant",
            content=answer.answer,
            ts=self.clock(),
            message_id=answer.message_id,
            sources=tuple(asdict(source) for source in answer.sources),
            adapter=answer.model.adapter,
            metrics=answer.metrics,
        )
        self.memory.add(self.session, asked, reply)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
