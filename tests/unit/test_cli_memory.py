"""`flower-client memory`: show, search, forget, export, train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.cli import run
from client.config import NodeConfig, NodeHome
from client.knowledge import open_memory
from rag.chat.memory import Memory, Turn

DAY = 86_400.0


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return NodeHome(tmp_path / "node")


@pytest.fixture
def memory(home: NodeHome) -> Memory:
    return open_memory(home, NodeConfig())


def say(memory: Memory, text: str, at: float = 1_700_000_000.0) -> str:
    session = memory.begin(now=at)
    memory.add(session, Turn("user", text, at), Turn("assistant", "Vale.", at + 1))
    return session


def call(home: NodeHome, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert run(["--home", str(home.root), "memory", *words, "--json"]) == 0
    shown: dict[str, object] = json.loads(capsys.readouterr().out)
    return shown


def test_sessions_are_listed_and_shown(
    home: NodeHome, memory: Memory, capsys: pytest.CaptureFixture[str]
) -> None:
    session = say(memory, "Mi gata se llama Mora.")
    listed = call(home, capsys, "show")["sessions"]
    assert isinstance(listed, list)
    assert [entry["id"] for entry in listed] == [session]
    turns = call(home, capsys, "show", session[:6])["turns"]
    assert isinstance(turns, list)
    assert [turn["content"] for turn in turns] == ["Mi gata se llama Mora.", "Vale."]
    assert run(["--home", str(home.root), "memory", "show"]) == 0
    assert "Mi gata" in capsys.readouterr().out


def test_own_messages_are_found_by_other_forms(
    home: NodeHome, memory: Memory, capsys: pytest.CaptureFixture[str]
) -> None:
    say(memory, "Mi gata se llama Mora.")
    found = call(home, capsys, "search", "gatas")["turns"]
    assert isinstance(found, list)
    assert [turn["content"] for turn in found] == ["Mi gata se llama Mora."]


@pytest.mark.security
def test_forgetting_deletes_one_old_ones_or_all(
    home: NodeHome, memory: Memory, capsys: pytest.CaptureFixture[str]
) -> None:
    import time

    first = say(memory, "uno")
    say(memory, "dos")
    say(memory, "tres", at=time.time())
    assert call(home, capsys, "forget", first[:8]) == {"forgotten": 2}
    assert call(home, capsys, "forget", "--older-than", "30") == {"forgotten": 2}
    assert [entry.title for entry in memory.sessions()] == ["tres"]
    assert call(home, capsys, "forget", "--all") == {"forgotten": 2}
    assert not memory.path.exists()


def test_what_to_forget_must_be_said_and_known(home: NodeHome, memory: Memory) -> None:
    say(memory, "uno")
    for words in ([], ["--all", "abc"], ["zzz"]):
        assert run(["--home", str(home.root), "memory", "forget", *words]) == 2
    assert len(memory.sessions()) == 1


def test_export_writes_markdown_and_json(
    home: NodeHome, memory: Memory, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    say(memory, "Mi gata se llama Mora.")
    out = tmp_path / "said.md"
    assert run(["--home", str(home.root), "memory", "export", "--out", str(out)]) == 0
    assert "Mi gata se llama Mora." in out.read_text(encoding="utf-8")
    assert out.stat().st_mode & 0o077 == 0
    capsys.readouterr()
    sessions = call(home, capsys, "export")["sessions"]
    assert isinstance(sessions, list)
    assert sessions[0]["turns"][0]["content"] == "Mi gata se llama Mora."


@pytest.mark.privacy
def test_a_session_is_marked_for_training_by_its_owner_alone(
    home: NodeHome, memory: Memory, capsys: pytest.CaptureFixture[str]
) -> None:
    session = say(memory, "uno")
    assert memory.for_training() == []
    assert call(home, capsys, "train", session[:8], "on")["train"] is True
    assert len(memory.for_training()) == 2
    call(home, capsys, "train", session[:8], "off")
    assert memory.for_training() == []
    assert run(["--home", str(home.root), "memory", "train", session[:8], "maybe"]) == 2


def test_settings_move_the_memory_and_bound_its_age(home: NodeHome) -> None:
    moved = open_memory(home, NodeConfig(memory_path="elsewhere/said.sqlite", memory_days=2))
    assert moved.path == home.root / "elsewhere" / "said.sqlite"
    say(moved, "viejo", at=0.0)
    moved.begin(now=3 * DAY)
    assert moved.sessions() == []
    assert open_memory(home, NodeConfig()).path == home.memory
