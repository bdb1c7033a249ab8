"""An answer in the model's words: streamed, stoppable, its links and false numbers taken out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rag.answer.cite import drop_unknown
from rag.answer.clean import clean, without_links
from rag.answer.prompt import PromptBuilder

if TYPE_CHECKING:
    from federation.model.load import Loaded
    from federation.model.speak import Piece, Sampling

LONGEST_HELD = 400  # characters that may wait for a space


class Writer(Protocol):
    """A model that writes."""

    @property
    def name(self) -> str:
        """What a person calls it."""

    @property
    def parameters(self) -> int:
        """How many it has."""

    @property
    def prompts(self) -> PromptBuilder:
        """Makes its prompts."""

    def write(
        self, ids: Sequence[int], sampling: Sampling, is_stopped: Callable[[], bool]
    ) -> Iterator[Piece]:
        """Go on after a prompt."""


class ModelWriter:
    """A loaded model as `Writer`; loads no torch before it writes."""

    def __init__(self, loaded: Loaded, *, window: int = 0) -> None:
        from federation.model.speak import size_of, window_of

        self._loaded = loaded
        self.name = loaded.choice.ref
        self.parameters = size_of(loaded)
        self.prompts = PromptBuilder(loaded.tokenizer, window or window_of(loaded))

    def write(
        self, ids: Sequence[int], sampling: Sampling, is_stopped: Callable[[], bool]
    ) -> Iterator[Piece]:
        """See `federation.model.speak`."""
        from federation.model.speak import speak

        return speak(self._loaded, ids, sampling, is_stopped=is_stopped)


@dataclass
class Tidy:
    """Text on its way to a reader: what is given out is never taken back.

    Words are held until they are whole; then addresses, unseen characters and citations of
    sources that do not exist go.

    Attributes:
        sources: how many there are.
    """

    sources: int
    _held: str = ""

    def add(self, text: str) -> str:
        """Take more text; returns what can be shown now."""
        self._held += text
        place = self._word_before(len(self._held))
        while place and (opened := self._opened(place)) is not None:
            place = self._word_before(opened)
        return self._release(place)

    def rest(self) -> str:
        """What is left at the end."""
        return self._release(len(self._held))

    def _opened(self, place: int) -> int | None:
        """Where a number or a link begins that does not end before `place`; None without any."""
        number = self._held.rfind("[", 0, place)
        if number >= 0 and "]" not in self._held[number:place] and place - number < LONGEST_HELD:
            return number
        link = self._held.rfind("](", 0, place)  # its name and its address stay together
        if link >= 0 and ")" not in self._held[link:place] and place - link < LONGEST_HELD:
            return max(0, self._held.rfind("[", 0, link))
        return None

    def _word_before(self, place: int) -> int:
        """Where the word begins that `place` lies in: within one, what is cut out may join two."""
        return max(self._held.rfind(" ", 0, place), self._held.rfind("\n", 0, place)) + 1

    def _release(self, place: int) -> str:
        ready, self._held = self._held[:place], self._held[place:]
        return drop_unknown(without_links(clean(ready)), self.sources)


@dataclass
class Written:
    """What became of one answer, filled while it is written."""

    text: str = ""
    tokens: int = 0
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)

    def perplexity(self) -> float | None:
        """Of the answer under the model; None for an empty one."""
        if not self.logprobs:
            return None
        return math.exp(min(50.0, -math.fsum(self.logprobs) / len(self.logprobs)))

    def entropy(self) -> float | None:
        """Mean of its tokens, nats; None for an empty one."""
        return math.fsum(self.entropies) / len(self.entropies) if self.entropies else None


def stream(pieces: Iterator[Piece], sources: int, written: Written) -> Iterator[str]:
    """Pass on what a model writes, tidied, and note it in `written`."""
    tidy = Tidy(sources)
    for piece in pieces:
        written.tokens += 1
        written.logprobs.append(piece.logprob)
        written.entropies.append(piece.entropy)
        yield from _noted(tidy.add(piece.text), written)
    yield from _noted(tidy.rest(), written)


def _noted(text: str, written: Written) -> Iterator[str]:
    shown = text if written.text else text.lstrip()
    if shown:
        written.text += shown
        yield shown
