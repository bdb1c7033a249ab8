"""The thin mains `chat_with_rag.py` and `simple_rag.py`."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import chat_with_rag
import pytest
import simple_rag

from client import library
from federation.errors import UsageError
from rag.corpus_rows import to_line
from tests.small_search import SmallSearch, passage
from tests.unit.test_corpus_rows import DOCUMENT

NEWS = [
    passage("El tren de Toledo llegó tarde por la nieve.", title="Nieve"),
    passage("La nieve tapó el tren de Toledo durante dos horas. " * 20, title="Largo"),
    *(passage(f"La granja {n} vende queso de oveja, miel y pan de centeno.") for n in range(40)),
]
ASK = "¿Por qué llegó tarde el tren de Toledo?"


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> SmallSearch:
    search = SmallSearch(NEWS)
    for module in (library, simple_rag):
        monkeypatch.setattr(module, "searching", lambda *_: nullcontext(search))
    for name in ("CONSCIENCE_MEMORY_PATH", "CONSCIENCE_HOME"):
        monkeypatch.setenv(name, "")  # given back after the test
    return search


def test_the_chats_options_act(
    searched: SmallSearch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [ASK, "--json", "--home", str(tmp_path / "n"), "--out-dir", str(tmp_path / "runs")]
    assert chat_with_rag.main([*common, "--top-k", "2", "--max-chars", "0"]) == 0
    assert len(json.loads(capsys.readouterr().out)["sources"]) == 2
    assert chat_with_rag.main([*common, "--max-chars", "200"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [source["title"] for source in answer["sources"]] == ["Nieve"]
    assert (tmp_path / "runs" / "chat.sqlite").is_file()
    assert not (tmp_path / "n" / "memory").exists()


def test_a_corpus_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file"):
        chat_with_rag.use_corpus(tmp_path / "none.jsonl")


def test_another_corpus_is_searched_from_a_store_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("CONSCIENCE_MEMORY_PATH", "CONSCIENCE_HOME", "CONSCIENCE_RAG_CORPUS_PATH"):
        monkeypatch.setenv(name, "")  # given back after the test
    monkeypatch.setenv("CONSCIENCE_EMBEDDER", "none")
    corpus, home = tmp_path / "corpus.jsonl", tmp_path / "n"
    text = "El tren de Toledo llegó tarde por la nieve."
    corpus.write_text(to_line(replace(DOCUMENT, text=text, title="Nieve")) + "\n")
    common = ["--home", str(home), "--out-dir", str(tmp_path / "runs"), "--json"]
    assert chat_with_rag.main([ASK, "--rag-corpus", str(corpus), *common]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["sources"][0]["title"] == "Nieve"
    assert not (home / "rag" / "store.sqlite").exists()


def test_looking_up_prints_passages(
    searched: SmallSearch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simple_rag.main([ASK, "--k", "1", "--json", "--home", str(tmp_path)]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["title"], found["link"]) == ("Nieve", "https://example.org/a")
    assert simple_rag.main(["xyzzy", "--json", "--home", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert simple_rag.main([ASK, "--home", str(tmp_path)]) == 0
    assert "[1] 1.000 Nieve https://example.org/a" in capsys.readouterr().out
