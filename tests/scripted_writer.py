"""A model that writes what a test tells it to, with semilla's real tokenizer and template."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

from transformers import AutoTokenizer

from federation.model.choose import SEMILLA
from federation.model.speak import Piece, Sampling
from rag.answer.prompt import PromptBuilder
from rag.answer.result import ModelName

SCRIPTED = ModelName("scripted", "", "0" * 64)
CODE = "[0-9a-f]{12}"  # of the marks around a source


@cache
def tokenizer() -> Any:
    """Semilla's."""
    return AutoTokenizer.from_pretrained(SEMILLA, local_files_only=True)


class ScriptedWriter:
    """Answers each prompt with `reply(prompt text)`, a few characters at a time."""

    name = "scripted"

    def __init__(
        self,
        reply: Callable[[str], str] | str,
        *,
        window: int = 1024,
        parameters: int = 1_000_000_000,
        model: ModelName = SCRIPTED,
    ) -> None:
        self.parameters, self.model = parameters, model
        self.prompts = PromptBuilder(tokenizer(), window)
        self.read: list[str] = []
        self._reply = reply

    def write(
        self, ids: Sequence[int], sampling: Sampling, is_stopped: Callable[[], bool]
    ) -> Iterator[Piece]:
        """See `rag.answer.generate.Writer`."""
        self.read.append(tokenizer().decode(ids))
        text = self._reply if isinstance(self._reply, str) else self._reply(self.read[-1])
        for n, start in enumerate(range(0, len(text), 3)):
            if is_stopped() or n >= sampling.max_new_tokens:
                return
            yield Piece(text[start : start + 3], 0, -1.0, 1.0)
