"""Answers with the real embedded model: quoted by default, written if the settings say so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from federation.model.choose import SEMILLA, BaseChoice
from federation.model.load import load_base
from federation.model.speak import Sampling
from rag.answer.events import Done, Question, Token
from rag.answer.generate import ModelWriter
from rag.answer.respond import Responder
from rag.chat.memory import Memory
from rag.chat.session import Conversation
from tests.small_search import SmallSearch, passage

NEWS = [
    passage("El cohete Ariane 6 despegará el 9 de julio desde Kurú. Costó mucho.", title="Espacio"),
    *(passage(f"La granja {n} vende queso de oveja y miel.") for n in range(30)),
]
ASK = "¿Cuándo despegará el cohete Ariane 6?"
SHORT = Sampling(max_new_tokens=40, temperature=0.7, seed=5)


@pytest.fixture(scope="module")
def writer() -> ModelWriter:
    made = ModelWriter(load_base(BaseChoice("semilla", SEMILLA, None, "0" * 64), device="cpu"))
    made.prompts = replace(made.prompts, key=b"the same every time")
    return made


def test_semilla_quotes_by_default(writer: ModelWriter) -> None:
    answer = Responder(SmallSearch(NEWS), writer).answer(Question(ASK))
    assert answer.style == "extractive"
    assert "semilla es demasiado pequeño" in answer.style_reason
    assert "«El cohete Ariane 6 despegará el 9 de julio desde Kurú.» [1]" in answer.answer


def test_semilla_writes_when_asked_to_streamed_and_the_same_for_a_seed(writer: ModelWriter) -> None:
    responder = Responder(SmallSearch(NEWS), writer, wish="generative")
    events = list(responder.events(Question(ASK, sampling=SHORT)))
    tokens = [event.text for event in events if isinstance(event, Token)]
    assert isinstance(events[-1], Done)
    answer = events[-1].answer
    assert (answer.style, answer.answer) == ("generative", "".join(tokens))
    assert len(tokens) > 1
    assert 0 < answer.usage.answer_tokens <= 40
    assert answer.usage.ttft_ms < answer.usage.latency_ms
    assert answer.metrics["perplexity"]
    assert responder.answer(Question(ASK, sampling=SHORT)).answer == answer.answer
    other = Sampling(max_new_tokens=40, temperature=0.7, seed=6)
    assert responder.answer(Question(ASK, sampling=other)).answer != answer.answer


def test_an_answer_stops_within_a_token(writer: ModelWriter) -> None:
    responder = Responder(SmallSearch(NEWS), writer, wish="generative")
    seeds = (Sampling(max_new_tokens=80, temperature=1.0, seed=seed) for seed in range(30))
    long = next(
        sampling
        for sampling in seeds
        if responder.answer(Question(ASK, sampling=sampling)).usage.answer_tokens > 40
    )
    seen: list[str] = []
    for event in responder.events(Question(ASK, sampling=long), lambda: len(seen) >= 2):
        if isinstance(event, Token):
            seen.append(event.text)
        if isinstance(event, Done):
            assert event.answer.was_stopped
            assert event.answer.usage.answer_tokens < 20


def test_a_conversation_longer_than_the_window_goes_on(writer: ModelWriter, tmp_path: Path) -> None:
    responder = Responder(SmallSearch(NEWS), writer, wish="generative")
    talk = Conversation(responder, Memory(tmp_path / "m.sqlite"))
    for n in range(12):
        text = f"¿Cuándo despegará el cohete Ariane 6 número {n}? " + "Dímelo ya. " * 30
        answer = talk.answer(Question(text, sampling=SHORT))
        assert answer.usage.prompt_tokens + answer.usage.answer_tokens <= 1024
    assert len(talk.memory.turns(talk.session)) == 24  # type: ignore[union-attr]
