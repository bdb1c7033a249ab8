"""A question, its sources and what was said before, as the chat model's own tokens.

Order: system, earlier messages of the user, sources (best first), last turns, question. All of it
fits into the window less the answer and `MARGIN`. What does not fit goes whole: first the oldest
turns, then earlier messages, then sources from the last one; one source that fits stays. A source
stands in the user's turn, never in the system's, between marks with a random code that its text
cannot know: a keyed hash of the request, so that a seed gives the same answer again.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError

from rag.answer.clean import clean, one_line
from rag.answer.phrases import phrase
from rag.passages import Passage

MARGIN = 64
CODE_BYTES = 6

Message = dict[str, str]


@dataclass(frozen=True)
class Said:
    """One earlier message: `role` is "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True)
class Request:
    """What is to be asked.

    Attributes:
        question: as the user wrote it.
        language: the answer's.
        passages: best first.
        turns: of this conversation, oldest first.
        notes: earlier messages of the user that may help, best first.
    """

    question: str
    language: str
    passages: Sequence[Passage] = ()
    turns: Sequence[Said] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Prompt:
    """What the model reads.

    Attributes:
        ids: at most `budget` of them.
        text: the same as text.
        sources: indices of the passages that are in it; the first is source 1.
        turns: how many earlier messages are in it, the last ones.
        notes: how many earlier messages of the user are in it.
        code: of the marks.
    """

    ids: tuple[int, ...]
    text: str
    sources: tuple[int, ...]
    turns: int
    notes: int
    code: str
    budget: int


@dataclass(frozen=True)
class _Plan:
    sources: tuple[int, ...] = ()
    turns: int = 0
    notes: int = 0
    question: str = ""
    system: bool = True


@dataclass(frozen=True)
class PromptBuilder:
    """Makes prompts for one model.

    Attributes:
        tokenizer: the model's own (transformers).
        window: tokens that it can read and write together.
        key: random, for the codes of the prompts' marks; it never leaves this process.
    """

    tokenizer: Any
    window: int
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def build(self, request: Request, *, max_new_tokens: int) -> Prompt:
        """Fit as much as possible into the window.

        Args:
            request: what is asked.
            max_new_tokens: room for the answer; at least a quarter of the window is left to the
                prompt, whatever is asked for.
        """
        room = max(self.window - max_new_tokens - MARGIN, self.window // 4)
        code = hmac.digest(self.key, repr(request).encode("utf-8", "replace"), "sha256")
        drawn = _Drawing(self.tokenizer, request, code.hex()[: 2 * CODE_BYTES], room)
        plan = drawn.with_question()
        plan = drawn.with_sources(plan)
        plan = drawn.with_notes(plan)
        plan = drawn.with_turns(plan)
        text = drawn.text(plan)
        ids = tuple(drawn.ids(text))
        return Prompt(ids, text, plan.sources, plan.turns, plan.notes, drawn.code, room)


class _Drawing:
    """One prompt while it is fitted."""

    def __init__(self, tokenizer: Any, request: Request, code: str, room: int) -> None:  # noqa: ANN401
        self._tokenizer = tokenizer
        self._request = request
        self._room = room
        self.code = code
        marks = (*getattr(tokenizer, "all_special_tokens", ()), *tokenizer.get_added_vocab(), code)
        self._marks = tuple(sorted({str(mark) for mark in marks}, key=len, reverse=True))
        self._question = clean(request.question, self._marks).strip()
        self._turns = _paired(request.turns)

    def with_question(self) -> _Plan:
        """The question alone; of one that is too long, what fits of its end."""
        for system in (True, False):
            plan = _Plan(question=self._question, system=system)
            if self._fits(plan):
                return plan
        low, high = 0, len(self._question)
        while low < high:  # the longest end that fits
            middle = (low + high + 1) // 2
            cut = _Plan(question=self._question[len(self._question) - middle :], system=False)
            low, high = (middle, high) if self._fits(cut) else (low, middle - 1)
        return _Plan(question=self._question[len(self._question) - low :], system=False)

    def with_sources(self, plan: _Plan) -> _Plan:
        """Sources in their order up to the first that does not fit; at least one if any fits."""
        for index in range(len(self._request.passages)):
            more = _with(plan, sources=(*plan.sources, index))
            if self._fits(more):
                plan = more
            elif plan.sources:
                break
        return plan

    def with_notes(self, plan: _Plan) -> _Plan:
        """Earlier messages of the user, best first."""
        for count in range(1, len(self._request.notes) + 1):
            more = _with(plan, notes=count)
            if not self._fits(more):
                break
            plan = more
        return plan

    def with_turns(self, plan: _Plan) -> _Plan:
        """Earlier turns from the last one back, a question always with its answer."""
        for count in range(2, len(self._turns) + 1, 2):
            more = _with(plan, turns=count)
            if not self._fits(more):
                break
            plan = more
        return plan

    def text(self, plan: _Plan) -> str:
        """As the model's template writes it; a plain form where it has none."""
        messages = self._messages(plan)
        if not self._tokenizer.chat_template:
            parts = [message["content"] for message in messages]
            answer = {"es": "Respuesta"}.get(self._request.language, "Answer")
            return "\n\n".join([*parts, f"{answer}:"])
        try:
            return self._rendered(messages)
        except TemplateError:  # there are templates without a system role
            if messages[0]["role"] != "system":
                raise
            return self._rendered(_folded(messages))

    def ids(self, text: str) -> list[int]:
        """Tokens of a drawn prompt."""
        special = not self._tokenizer.chat_template
        found: list[int] = self._tokenizer(text, add_special_tokens=special, verbose=False)[
            "input_ids"
        ]
        return found

    def _fits(self, plan: _Plan) -> bool:
        return len(self.ids(self.text(plan))) <= self._room

    def _rendered(self, messages: list[Message]) -> str:
        text: str = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return text

    def _messages(self, plan: _Plan) -> list[Message]:
        language = self._request.language
        name = "system" if self._request.passages else "system alone"
        messages = [{"role": "system", "content": phrase(name, language)}] if plan.system else []
        turns = self._turns[len(self._turns) - plan.turns :]
        talk = [{"role": turn.role, "content": self._clean(turn.content)} for turn in turns]
        question = plan.question
        if plan.sources or plan.notes:
            question = f"{phrase('question', language)}: {question}"
        talk.append({"role": "user", "content": question})
        block = self._block(plan)
        if block:
            talk[0] = {"role": "user", "content": f"{block}\n\n{talk[0]['content']}"}
        return [*messages, *talk]

    def _block(self, plan: _Plan) -> str:
        language = self._request.language
        parts = []
        if plan.notes:
            notes = [one_line(note, self._marks) for note in self._request.notes[: plan.notes]]
            parts.append("\n".join([phrase("notes", language), *(f"- {note}" for note in notes)]))
        for n, index in enumerate(plan.sources, start=1):
            parts.append(self._source(n, self._request.passages[index]))
        return "\n\n".join(parts)

    def _source(self, n: int, passage: Passage) -> str:
        language = self._request.language
        head = [passage.title, passage.source_name, passage.published[:10]]
        shown = " · ".join(filter(None, (one_line(part, self._marks) for part in head)))
        opening = f"<<{phrase('source', language)} {n} {self.code}>>"
        closing = f"<<{phrase('end', language)} {n} {self.code}>>"
        return "\n".join([opening, f"[{n}] {shown}", self._clean(passage.text), closing])

    def _clean(self, text: str) -> str:
        return clean(text, self._marks).strip()


def _with(plan: _Plan, **changes: Any) -> _Plan:  # noqa: ANN401 - any field
    return _Plan(**{**vars(plan), **changes})


def _folded(messages: list[Message]) -> list[Message]:
    """For templates without a system role: our own instruction opens the user's first turn."""
    system, first, *rest = messages
    return [{"role": "user", "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def _paired(turns: Sequence[Said]) -> list[Said]:
    """Questions with their answers, in turn; a message without its other half is left out."""
    kept: list[Said] = []
    for turn in turns:
        if turn.role == "user":
            kept = kept[: len(kept) // 2 * 2]
            kept.append(turn)
        elif len(kept) % 2:
            kept.append(turn)
    return kept[: len(kept) // 2 * 2]
