"""OpenAI's chat format: what it asks of us, what of it we do not do, how answers look in it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from rag.answer.prompt import Said
from rag.answer.result import Answer

REFUSED_IF_SET = ("logprobs", "top_logprobs", "logit_bias", "audio")
# Clients offer tools with every question (Open WebUI does); to call none is an answer too.
CALLS = ("tool_choice", "function_call")
NO_CALL = (None, "auto", "none")
MOST_MESSAGES = 400


class _Open(BaseModel):
    """Other clients send fields that change nothing here (user, metadata, store …)."""

    model_config = ConfigDict(extra="ignore")


class Part(_Open):
    """A piece of a message."""

    type: str
    text: str = ""


class Message(_Open):
    """One message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None

    def text(self) -> str:
        """Its words.

        Raises:
            HTTPException: 400, it holds something else than text.
        """
        if isinstance(self.content, str) or self.content is None:
            return self.content or ""
        if any(part.type != "text" for part in self.content):
            raise HTTPException(400, "only text is understood")
        return "\n".join(part.text for part in self.content)


class StreamOptions(_Open):
    """How a stream ends."""

    include_usage: bool = False


class Completion(_Open):
    """`POST /v1/chat/completions`."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(max_length=400)
    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int | None = 1
    frequency_penalty: float | None = 0
    presence_penalty: float | None = 0

    def require_possible(self) -> None:
        """Refuse what would silently not be done.

        Raises:
            HTTPException: 400, with the field's name.
        """
        extra = self.model_extra or {}
        asked = [name for name in REFUSED_IF_SET if extra.get(name)]
        asked += [name for name in CALLS if extra.get(name) not in NO_CALL]
        kind = extra.get("response_format")
        if isinstance(kind, dict) and kind.get("type", "text") != "text":
            asked.append("response_format")
        asked += [name for name in ("frequency_penalty", "presence_penalty") if getattr(self, name)]
        if self.n not in (None, 1):
            asked.append("n")
        if asked:
            raise HTTPException(400, f"'{asked[0]}' is not supported")

    def params(self, most: int) -> dict[str, Any]:
        """What it sets of ours; `most` bounds the tokens of an answer."""
        tokens = self.max_completion_tokens or self.max_tokens
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_new_tokens": min(tokens, most) if tokens else None,
        }
        return {name: value for name, value in given.items() if value is not None}

    def stops(self) -> tuple[str, ...]:
        """Texts at which the answer ends."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given[:4] if text)

    def question(self) -> tuple[str, tuple[Said, ...]]:
        """The last message, the user's, and what was said before it.

        Raises:
            HTTPException: 400, the last message is not the user's, or empty.
        """
        last = self.messages[-1]
        if last.role != "user" or not last.text().strip():
            raise HTTPException(400, "the last message must be the user's")
        before = [
            Said(message.role, message.text())
            for message in self.messages[:-1]
            if message.role in ("user", "assistant")
        ]
        return last.text(), tuple(before)


@dataclass
class Cut:
    """Ends a text before any of `stops`, also where one comes in pieces."""

    stops: Sequence[str]
    is_over: bool = False
    _held: str = ""

    def add(self, text: str) -> str:
        """Take more text; returns what can be given out now."""
        if self.is_over:
            return ""
        self._held += text
        places = [self._held.find(stop) for stop in self.stops]
        found = [place for place in places if place >= 0]
        if found:
            self.is_over = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max((len(stop) - 1 for stop in self.stops), default=0)
        place = max(0, len(self._held) - keep)
        shown, self._held = self._held[:place], self._held[place:]
        return shown

    def rest(self) -> str:
        """What is left at the end."""
        shown, self._held = self._held, ""
        return shown


@dataclass(frozen=True)
class Shape:
    """One completion's outer form."""

    id: str
    model: str
    created: int

    @classmethod
    def new(cls, message_id: str, model: str) -> Shape:
        """Of an answer that begins now."""
        return cls(f"chatcmpl-{message_id}", model, int(time.time()))

    def whole(self, text: str, reason: str, answer: Answer) -> dict[str, Any]:
        """A finished completion."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        return {
            **self._named("chat.completion"),
            "choices": [choice],
            "usage": usage_of(answer),
            **extra_of(answer),
        }

    def chunk(self, delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
        """A piece of a stream."""
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
        return {**self._named("chat.completion.chunk"), "choices": [choice]}

    def usage(self, answer: Answer) -> dict[str, Any]:
        """The piece of a stream that holds no text."""
        return {**self._named("chat.completion.chunk"), "choices": [], "usage": usage_of(answer)}

    def _named(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def usage_of(answer: Answer) -> dict[str, int]:
    """Tokens; 0 of an answer that no model wrote."""
    asked, written = answer.usage.prompt_tokens, answer.usage.answer_tokens
    return {
        "prompt_tokens": asked,
        "completion_tokens": written,
        "total_tokens": asked + written,
    }


def extra_of(answer: Answer) -> dict[str, Any]:
    """What OpenAI's format has no place for."""
    return {
        "citations": [asdict(source) for source in answer.sources],
        "abstained": answer.abstained,
        "style": answer.style,
    }
