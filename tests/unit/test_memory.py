"""Memory: what is kept, found again, and really gone once forgotten."""

from __future__ import annotations

import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from federation.errors import FormatError, UsageError
from rag.chat.export import to_markdown
from rag.chat.memory import Memory, Turn

DAY = 86_400.0
SOURCE = {
    "n": 1,
    "title": "A [title](http://x) <b>",
    "url": "https://example.org/a",
    "feed": "Diario",
    "published": "2026-03-01T08:00:00+00:00",
    "quote": "Word for word.",
    "is_cited": True,
}


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "memory" / "chat.sqlite")


def say(memory: Memory, session: str, text: str, at: float = 1000.0) -> None:
    memory.add(
        session,
        Turn("user", text, at),
        Turn("assistant", f"re: {text}", at + 1, sources=(SOURCE,), adapter="global@v3"),
    )


def everything(memory: Memory) -> bytes:
    files = memory.path.parent.glob(f"{memory.path.name}*")
    return b"".join(path.read_bytes() for path in files)


def test_turns_come_back_in_order_with_all_that_was_kept(memory: Memory) -> None:
    session = memory.begin()
    say(memory, session, "Mi perro se llama Luna.")
    say(memory, session, "¿Y el gato?", at=2000)
    asked, answered, *_rest = memory.turns(session)
    assert (asked.role, asked.content, asked.session) == (
        "user",
        "Mi perro se llama Luna.",
        session,
    )
    assert (answered.adapter, dict(answered.sources[0])) == ("global@v3", SOURCE)
    assert [turn.content for turn in memory.turns(session, last=1)] == ["re: ¿Y el gato?"]
    (listed,) = memory.sessions()
    assert (listed.title, listed.turns, listed.train) == ("Mi perro se llama Luna.", 4, False)


@pytest.mark.security
def test_h04_session_ids_are_128_random_bits(memory: Memory) -> None:
    ids = {memory.begin() for _ in range(20)}
    assert len(ids) == 20
    assert all(len(id) == 32 and int(id, 16) >= 0 for id in ids)


def test_the_file_is_for_its_owner_alone(memory: Memory) -> None:
    say(memory, memory.begin(), "secreto")
    for path in memory.path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_the_users_own_messages_are_found_by_other_forms_of_their_words(memory: Memory) -> None:
    first, second = memory.begin(), memory.begin()
    say(memory, first, "Estuve leyendo sobre volcanes de Islandia.")
    say(memory, second, "Hoy hace sol.")
    (found,) = memory.search("¿qué volcán me interesaba?")
    assert found.content.startswith("Estuve leyendo")
    assert memory.search("volcán", without=[found.id]) == []
    assert memory.search('") OR "x" NEAR(') == []


def test_answers_are_not_searched(memory: Memory) -> None:
    session = memory.begin()
    memory.add(session, Turn("user", "hola", 1), Turn("assistant", "ornitorrinco", 2))
    assert memory.search("ornitorrinco") == []


@pytest.mark.security
def test_h21_a_session_keeps_its_last_turns_only(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "m.sqlite", keep_turns=6)
    session = memory.begin()
    for n in range(10):
        say(memory, session, f"mensaje número {n}", at=float(n))
    assert memory.turns(session)[0].content == "mensaje número 7"
    assert len(memory.turns(session)) == 6
    assert all(turn.content != "mensaje número 2" for turn in memory.search("mensaje", limit=50))


def test_old_turns_go_when_a_session_begins(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "m.sqlite", keep_days=30)
    old = memory.begin(now=0.0)
    say(memory, old, "viejo", at=0.0)
    memory.begin(now=29 * DAY)
    assert memory.turns(old)
    new = memory.begin(now=31 * DAY)
    say(memory, new, "nuevo", at=31 * DAY)
    assert [session.id for session in memory.sessions()] == [new]


@pytest.mark.security
def test_h21_what_is_forgotten_is_in_no_byte_of_the_file(memory: Memory) -> None:
    kept, gone = memory.begin(), memory.begin()
    say(memory, kept, "Me gustan los tomates.")
    for n in range(30):
        say(memory, gone, f"Mi clave del banco es xilofono{n}.")
    assert b"xilofono7" in everything(memory)
    assert memory.forget(gone) == 60
    assert b"xilofon" not in everything(memory)
    assert b"tomates" in everything(memory)
    assert memory.search("xilofono7 banco") == []
    assert [session.id for session in memory.sessions()] == [kept]
    assert memory.forget("0" * 32) == 0


@pytest.mark.security
def test_forgetting_all_takes_the_file_away(memory: Memory) -> None:
    session = memory.begin()
    say(memory, session, "hola")
    assert memory.forget_all() == 2
    assert not list(memory.path.parent.glob(f"{memory.path.name}*"))
    assert (memory.sessions(), memory.turns(session), memory.search("hola")) == ([], [], [])
    say(memory, session, "una charla que seguía")  # the chat that was running goes on
    assert memory.turns(session)[0].content == "una charla que seguía"


@pytest.mark.privacy
def test_nothing_is_training_data_unless_its_session_says_so(memory: Memory) -> None:
    private, shared = memory.begin(), memory.begin(train=True)
    say(memory, private, "no")
    say(memory, shared, "sí")
    assert [turn.content for turn in memory.for_training()] == ["sí", "re: sí"]
    memory.mark_for_training(shared, train=False)
    assert memory.for_training() == []
    with pytest.raises(UsageError):
        memory.mark_for_training("0" * 32, train=True)


def test_two_writers_lose_nothing(memory: Memory) -> None:
    sessions = [memory.begin() for _ in range(2)]

    def talk(session: str) -> None:
        for n in range(15):
            say(memory, session, f"m{n}")

    threads = [threading.Thread(target=talk, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(memory.turns(session)) for session in sessions] == [30, 30]


def test_a_foreign_or_newer_file_is_named(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.sqlite"
    foreign.write_bytes(b"not a database, but long enough to look at" * 40)
    with pytest.raises(FormatError, match="not a memory of ours"):
        Memory(foreign).sessions()
    newer = tmp_path / "newer.sqlite"
    base = sqlite3.connect(newer)
    base.execute("PRAGMA user_version = 9")
    base.close()
    with pytest.raises(FormatError, match="newer version"):
        Memory(newer).sessions()


def test_an_export_holds_sources_and_dates_and_no_live_mark_of_others(memory: Memory) -> None:
    session = memory.begin()
    say(memory, session, "¿Qué pasó? <script>alert(1)</script> ![x](http://evil.example/p.png)")
    text = to_markdown(memory.sessions()[0], memory.turns(session), "es")
    assert "<script>" not in text
    assert "![x](" not in text
    assert "(<https://example.org/a>)" in text
    assert "2026-03-01" in text
    assert "global@v3" in text
    assert "A \\[title\\]\\(http://x\\) &lt;b&gt;" in text
    exported = memory.to_json(session)
    assert exported["sessions"][0]["turns"][1]["sources"] == (SOURCE,)
    assert memory.to_json("0" * 32)["sessions"] == []
