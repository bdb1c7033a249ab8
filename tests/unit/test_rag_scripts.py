"""The thin mains `chat_with_rag.py` and `simple_rag.py`."""

from __future__ import annotations

import json
from pathlib import Path

import chat_with_rag
import pytest
import simple_rag

from client import knowledge
from client.config import NodeConfig
from federation.errors import UsageError
from tests.small_search import SmallSearch, passage

NEWS = [
    passage("El tren de Toledo llegó tarde por la nieve.", title="Nieve"),
    passage("La nieve tapó el tren de Toledo durante dos horas. " * 20, title="Largo"),
    *(passage(f"La granja {n} vende queso de oveja, miel y pan de centeno.") for n in range(40)),
]
ASK = "¿Por qué llegó tarde el tren de Toledo?"


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> SmallSearch:
    search = SmallSearch(NEWS)
    monkeypatch.setattr(knowledge, "open_search", lambda _home, _config: search)
    monkeypatch.setattr(simple_rag, "open_search", lambda _home, _config: search)
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


def test_a_corpus_that_would_not_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file"):
        chat_with_rag.use_corpus(tmp_path / "none.jsonl")
    path = tmp_path / "corpus.jsonl"
    path.touch()
    if chat_with_rag.CORPUS_SETTING not in NodeConfig.model_fields:
        with pytest.raises(UsageError, match="no retrieval"):
            chat_with_rag.use_corpus(path)


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
