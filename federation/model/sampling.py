"""How a model's next token is drawn; loads nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Attributes:
        max_new_tokens: at most so many.
        temperature: 0 always takes the likeliest; 1 is the model's own distribution.
        top_p: only the likeliest tokens that together have this chance, in (0, 1].
        top_k: only the so many likeliest; 0 for all.
        repetition_penalty: 1 or more: how much less likely a token is that stands there already
            (Keskar et al., arXiv:1909.05858).
        seed: of the draws.
    """

    max_new_tokens: int = 256
    temperature: float = 0.3
    top_p: float = 0.9
    top_k: int = 40
    repetition_penalty: float = 1.1
    seed: int = 0

    def __post_init__(self) -> None:
        within = (
            self.max_new_tokens >= 1
            and self.temperature >= 0
            and 0 < self.top_p <= 1
            and self.top_k >= 0
            and self.repetition_penalty >= 1
        )
        if not within:
            raise ValueError(f"sampling out of range: {self}")
