"""A conversation: both sides remembered as each answer ends, older messages found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag.answer.abstain import START
from rag.answer.events import Done, Question
from rag.answer.phrases import phrase
from rag.answer.respond import Responder
from rag.chat.memory import Memory
from rag.chat.session import Conversation
from tests.scripted_writer import ScriptedWriter
from tests.small_search import SmallSearch, passage

NEWS = [
    passage("El tren de Toledo llegó tarde a la estación por la nieve. Iba lleno."),
    *(passage(f"La granja {n} vende queso de oveja, miel y pan de centeno.") for n in range(40)),
]


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "chat.sqlite")


def conversation(memory: Memory | None, writer: ScriptedWriter | None = None) -> Conversation:
    return Conversation(Responder(SmallSearch(NEWS), writer, START), memory)


def test_both_sides_are_remembered_with_sources_and_model(memory: Memory) -> None:
    talk = conversation(memory)
    answer = talk.answer(Question("¿Qué tren llegó tarde a Toledo?"))
    asked, answered = memory.turns(answer.session_id)
    assert (asked.content, answered.content) == ("¿Qué tren llegó tarde a Toledo?", answer.answer)
    assert asked.message_id == answered.message_id == answer.message_id
    assert answered.sources[0]["quote"] == answer.sources[0].quote
    assert answered.metrics["p_answerable"] == answer.metrics["p_answerable"]


def test_earlier_turns_of_the_session_are_in_the_prompt(memory: Memory) -> None:
    writer = ScriptedWriter("Llegó a las tres.")
    talk = conversation(memory, writer)
    talk.answer(Question("¿Qué tren llegó tarde a Toledo?"))
    talk.answer(Question("¿Y por qué llegó tarde el tren?"))
    assert "Llegó a las tres." in writer.read[1]
    assert writer.read[1].index("Llegó a las tres.") < writer.read[1].index("¿Y por qué")


def test_a_fact_told_in_an_earlier_session_is_recalled(memory: Memory) -> None:
    conversation(memory).answer(Question("Mi perro se llama Luna."))
    answer = conversation(memory).answer(Question("¿Cómo se llama mi perro?"))
    assert answer.answer == f"{phrase('remembered', 'es')}\n«Mi perro se llama Luna.» [1]"
    assert not answer.abstained


def test_another_session_is_not_mixed_in_as_turns(memory: Memory) -> None:
    writer = ScriptedWriter("Sí.")
    conversation(memory, writer).answer(Question("¿Qué tren llegó tarde a Toledo?"))
    conversation(memory, writer).answer(Question("¿Qué tren de Toledo llegó a la estación?"))
    assert writer.read[1].count("Sí.") == 0


def test_it_is_written_before_the_last_event_is_given_out(memory: Memory) -> None:
    talk = conversation(memory)
    for event in talk.ask(Question("¿Qué tren llegó tarde a Toledo?")):
        if isinstance(event, Done):
            assert len(memory.turns(talk.session)) == 2


def test_without_memory_nothing_is_kept(tmp_path: Path) -> None:
    answer = conversation(None).answer(Question("¿Qué tren llegó tarde a Toledo?"))
    assert answer.session_id == ""
    assert not list(tmp_path.glob("*.sqlite"))


@pytest.mark.privacy
def test_a_session_is_not_for_training_unless_begun_so(memory: Memory) -> None:
    talk = conversation(memory)
    talk.answer(Question("hola"))
    assert memory.for_training() == []
    talk = Conversation(talk.responder, memory, train=True)
    talk.answer(Question("adiós"))
    assert {turn.session for turn in memory.for_training()} == {talk.session}
