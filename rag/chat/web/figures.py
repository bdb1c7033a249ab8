"""What the last answers cost, for `/metrics` in Prometheus' text format."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rag.answer.result import Answer

KEPT = 500


@dataclass
class Figures:
    """Counts since the start, and the last answers' times."""

    answers: int = 0
    abstained: int = 0
    stopped: int = 0
    refused: int = 0
    latency_ms: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    ttft_ms: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    tokens_per_s: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def note(self, answer: Answer) -> None:
        """Count an answer."""
        self.answers += 1
        self.abstained += answer.abstained
        self.stopped += answer.was_stopped
        self.latency_ms.append(answer.usage.latency_ms)
        self.ttft_ms.append(answer.usage.ttft_ms)
        rate = answer.metrics.get("tokens_per_s")
        if isinstance(rate, float):
            self.tokens_per_s.append(rate)

    def as_text(self, queue: Mapping[str, int]) -> str:
        """For Prometheus."""
        return "\n".join([*self._lines(queue), ""])

    def _lines(self, queue: Mapping[str, int]) -> Iterator[str]:
        for name in ("answers", "abstained", "stopped", "refused"):
            yield f"# TYPE conscienceai_chat_{name}_total counter"
            yield f"conscienceai_chat_{name}_total {getattr(self, name)}"
        for name in ("latency_ms", "ttft_ms", "tokens_per_s"):
            values = sorted(getattr(self, name))
            yield f"# TYPE conscienceai_chat_{name} summary"
            for share in (0.5, 0.95):
                if values:
                    value = values[min(len(values) - 1, int(share * len(values)))]
                    yield f'conscienceai_chat_{name}{{quantile="{share}"}} {value:.3f}'
            yield f"conscienceai_chat_{name}_count {len(values)}"
        for state, count in queue.items():
            yield f'conscienceai_chat_queue{{state="{state}"}} {count}'
