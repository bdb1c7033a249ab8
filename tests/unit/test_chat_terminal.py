"""The chat in the terminal: what is shown, what the commands do, Ctrl-C."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from client import cli_chat, library
from client.chat_model import NodeModel
from client.chat_terminal import Terminal
from client.cli import run
from client.config import NodeConfig, NodeHome
from client.knowledge import open_responder
from federation.errors import UsageError
from federation.model.speak import Piece, Sampling
from rag.answer.abstain import START
from rag.answer.events import Question
from rag.answer.respond import Responder
from rag.answer.result import ModelName
from rag.chat.memory import Memory
from rag.chat.session import Conversation
from tests.scripted_writer import ScriptedWriter
from tests.small_search import SmallSearch, passage

NEWS = [
    passage(
        "El tren de Toledo llegó tarde por la nieve.\x1b[31m Iba lleno.",
        title="Nieve\u202e en [bold]Toledo[/bold]",
    ),
    *(passage(f"La granja {n} vende queso de oveja, miel y pan de centeno.") for n in range(40)),
]
ASK = "¿Por qué llegó tarde el tren de Toledo?"


class Session:
    """A terminal with a screen that can be read."""

    def __init__(self, folder: Path, writer: ScriptedWriter | None = None) -> None:
        self.screen = io.StringIO()
        self.memory = Memory(folder / "chat.sqlite")
        writer = writer or ScriptedWriter("nunca", parameters=7_000_000)
        writer.model = ModelName("scripted", "global@v7", "ab" * 32)
        responder = Responder(SmallSearch(NEWS), writer, START)
        plain = ScriptedWriter("solo la base", parameters=7_000_000)
        plain.model = ModelName("scripted", "", "cd" * 32)
        alone = replace(responder, writer=plain)
        console = Console(file=self.screen, width=200, highlight=False, soft_wrap=True)
        self.terminal = Terminal(
            Conversation(responder, self.memory),
            Question(""),
            lambda adapter: responder if adapter else alone,
            console,
            folder,
        )

    def type(self, *lines: str) -> str:
        before = len(self.screen.getvalue())
        waiting: Iterator[str] = iter(lines)

        def read(_prompt: str) -> str:
            try:
                return next(waiting)
            except StopIteration:
                raise EOFError from None

        self.terminal.run(read)
        return self.screen.getvalue()[before:]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path)


def test_an_answer_is_shown_with_its_sources(session: Session) -> None:
    shown = session.type(ASK)
    assert "«El tren de Toledo llegó tarde por la nieve. Iba lleno.» [1]" in shown
    assert "[1] Nieve en [bold]Toledo[/bold] · Diario · 2026-03-01 · https://example.org/a" in shown


@pytest.mark.security
def test_h23_nothing_of_others_controls_the_terminal(session: Session) -> None:
    shown = session.type(ASK, "/sources", "/memory", "/export all.md")
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_why_tells_style_model_and_numbers(session: Session) -> None:
    shown = session.type("/why", ASK, "/why")
    for part in ("p_answerable", "bm25", "extractive", "global@v7", "scripted"):
        assert part in shown


def test_commands_act(session: Session, tmp_path: Path) -> None:
    shown = session.type(
        ASK, "/rag off", "/rag", "/lang es", "/lang xx", "/train on", "/export talk.md",
        "/memory tren", "/model", "/help", "/what", "/sources", "/quit", "never read",
    )  # fmt: skip
    assert session.terminal.base == replace(Question(""), rag=False, language="es")
    assert session.memory.for_training()
    assert "El tren de Toledo" in (tmp_path / "talk.md").read_text(encoding="utf-8")
    assert "/what" in shown
    assert "never read" not in json.dumps(session.memory.to_json())


def test_base_alone_and_back(session: Session) -> None:
    shown = session.type("/base on", "/help", "/base", "/base off")
    alone, of_help = "model: scripted + no adapter", "/base     on or off"
    assert shown.index(alone) < shown.index(of_help) < shown.rindex(alone)
    assert shown.rindex(alone) < shown.index("model: scripted + global@v7")
    session.terminal.base = replace(session.terminal.base, rag=False)
    session.type("/base on", "hola", "/base off", "hola")
    turns = session.memory.turns(session.memory.sessions()[0].id)
    assert [(turn.content, turn.adapter) for turn in turns if turn.role == "assistant"] == [
        ("solo la base", ""), ("nunca", "global@v7")]  # fmt: skip


def test_a_new_talk_and_an_answer_anyway(tmp_path: Path) -> None:
    session = Session(tmp_path, ScriptedWriter("Ni idea."))
    session.type("¿Quién pintó la granja?", "/anyway", "/new", ASK)
    first, second = (session.memory.turns(s.id) for s in reversed(session.memory.sessions()))
    assert first[1].content.startswith("No encuentro nada")
    assert first[3].content == "Ni idea."
    assert len(second) == 2


def test_what_the_sources_do_not_hold_is_marked(tmp_path: Path) -> None:
    session = Session(tmp_path, ScriptedWriter("Comió plátanos [1]. El tren llegó tarde."))
    shown = session.type(ASK)
    assert "not in the sources: Comió plátanos [1]." in shown
    assert "[1] matched automatically: El tren llegó tarde." in shown


def test_ctrl_c_stops_the_answer_and_not_the_program(tmp_path: Path) -> None:
    class Slow(ScriptedWriter):
        def write(
            self, ids: Sequence[int], sampling: Sampling, is_stopped: Callable[[], bool]
        ) -> Iterator[Piece]:
            for n, piece in enumerate(super().write(ids, sampling, is_stopped)):
                if n == 10:
                    os.kill(os.getpid(), signal.SIGINT)
                yield piece

    session = Session(tmp_path, Slow("palabra " * 200))
    before = signal.getsignal(signal.SIGINT)
    shown = session.type(ASK, "/rag")
    assert "(stopped)" in shown
    assert "Sources are looked into." in shown
    (asked, answered) = session.memory.turns(session.memory.sessions()[0].id)
    assert asked.content == ASK
    assert 0 < len(answered.content) < 100
    assert signal.getsignal(signal.SIGINT) is before


def test_stopping_before_the_first_word_leaves_the_question_alone(tmp_path: Path) -> None:
    class Loading(ScriptedWriter):
        def write(
            self, ids: Sequence[int], sampling: Sampling, is_stopped: Callable[[], bool]
        ) -> Iterator[Piece]:
            os.kill(os.getpid(), signal.SIGINT)
            yield from super().write(ids, sampling, is_stopped)

    session = Session(tmp_path, Loading("palabra"))
    assert "(stopped)" in session.type(ASK)
    (asked,) = session.memory.turns(session.memory.sessions()[0].id)
    assert asked.content == ASK


def test_ctrl_c_at_the_prompt_ends_nothing(session: Session) -> None:
    steps = iter([KeyboardInterrupt(), ASK, EOFError()])

    def read(_prompt: str) -> str:
        step = next(steps)
        if isinstance(step, BaseException):
            raise step
        return step

    session.terminal.run(read)
    assert len(session.memory.sessions()) == 1


def test_settings_of_a_question_reach_it_and_wrong_ones_are_named() -> None:
    asked, drawn, kept = cli_chat.parse(
        ["rag=off", "temperature=0.5", "top_k_sources=3", "memory=no", "style=extractive"]
    )
    assert asked == {"rag": False, "top_k_sources": 3}
    assert drawn == {"temperature": 0.5}
    assert kept == {"memory": False, "style": "extractive"}
    for wrong in ("rag=maybe", "temperature=hot", "colour=red", "rag"):
        with pytest.raises(UsageError):
            cli_chat.parse([wrong])


@pytest.mark.parametrize("wrong", ["temperature=-1", "top_p=0", "top_k_sources=0", "style=poetic"])
def test_values_out_of_range_end_with_code_2(tmp_path: Path, wrong: str) -> None:
    assert run(["--home", str(tmp_path), "chat", "--once", "hola", "--set", wrong]) == 2


def test_once_with_json_gives_one_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "searching", lambda *_: contextlib.nullcontext(SmallSearch(NEWS)))
    assert run(["--home", str(tmp_path / "n"), "chat", "--once", ASK, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["style"] == "extractive"
    assert answer["sources"][0]["title"] == "Nieve en [bold]Toledo[/bold]"
    assert answer["model"]["base"] == "semilla"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ASK}\nhola\n\n"))
    assert run(["--home", str(tmp_path / "n"), "chat", "--session", "last", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["session_id"] for line in lines} == {answer["session_id"]}
    assert len(lines) == 2


def test_no_question_is_an_error_and_no_memory_keeps_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert run(["--home", str(tmp_path / "n"), "chat", "--once"]) == 2
    assert run(["--home", str(tmp_path / "n"), "chat", "hola", "--set", "memory=off"]) == 0
    assert not (tmp_path / "n" / "memory").exists()


def test_the_setting_chooses_the_style(tmp_path: Path) -> None:
    home = NodeHome(tmp_path / "n")
    for wish in ("auto", "extractive", "generative"):
        config = NodeConfig.model_validate({"answer_style": wish, "model": "semilla"})
        responder = open_responder(home, config, search=SmallSearch(NEWS))
        style = responder.answer(Question(ASK)).style
        assert style == ("generative" if wish == "generative" else "extractive")


def test_the_model_is_named_and_measured_before_it_is_loaded(tmp_path: Path) -> None:
    model = NodeModel(NodeHome(tmp_path / "n"), NodeConfig(model="semilla"))
    writer = model.writer()
    assert (writer.name, writer.parameters) == ("semilla", 6_843_648)
    assert writer.model.base == "semilla"
    assert not model.is_loaded
    assert writer.prompts.window == 1024
