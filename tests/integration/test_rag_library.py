"""Corpus, store, a real encoder, index and the commands together, in one node's home."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from client.cli import run
from client.config import NodeHome, write_default
from federation.errors import ConscienceError, ModelError
from rag.retrieval import index, upkeep, vectors
from rag.retrieval.library import Library
from rag.retrieval.store import Store
from tests.corpora import append, document, numbered, write
from tests.tiny_encoder import make_tiny_encoder


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    made = NodeHome(tmp_path / "node")
    write_default(made)
    write(made.corpus, numbered(30))
    return made


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_encoder(tmp_path_factory.mktemp("encoder") / "other", seed=5, max_length=128)


def library(home: NodeHome, embedder: Path | str = "none") -> Library:
    return Library(home.corpus, home.rag, embedder=str(embedder))


def use(home: NodeHome, **values: object) -> None:
    settings = json.loads(home.config.read_text())
    home.config.write_text(json.dumps(settings | values))


def command(
    home: NodeHome, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0
) -> dict[str, Any]:
    assert run(["--home", str(home.root), "rag", *words, "--json"]) == code
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_words_are_searched_at_once_and_vectors_as_soon_as_they_are_there(
    home: NodeHome, encoder: Path
) -> None:
    with library(home, encoder) as opened:
        opened.follow()
        found = opened.search("palabra7")
        assert found.passages[0].document_id == numbered(8)[7].id
        assert found.embedder == ""
        assert opened.keep_up() == opened.store.count("chunks")
        found = opened.search("palabra7")
        assert found.passages[0].document_id == numbered(8)[7].id
        assert found.embedder.startswith(str(encoder))
        assert found.passages[0].cosine is not None
        assert opened.stats().is_complete
        assert opened.notes() == []
        assert opened.keep_up() == 0


def test_embedding_goes_on_after_a_stop(home: NodeHome, encoder: Path) -> None:
    with library(home, encoder) as opened:
        opened.follow()
        opened.keep_up(seconds=0)
        assert opened.stats().missing == opened.stats().chunks
        assert "no vector yet" in opened.notes()[0]
        opened.keep_up()
        assert opened.stats().missing == 0


def test_new_items_are_found_by_a_running_reader_at_once(home: NodeHome, encoder: Path) -> None:
    with library(home, encoder) as reader:
        reader.follow()
        reader.keep_up()
        assert reader.search("ornitorrinco").passages == ()
        append(
            home.corpus, [document(90, title="Ornitorrincos", text="El ornitorrinco pone huevos.")]
        )
        with library(home, encoder) as writer:
            writer.follow()
            writer.keep_up()
        found = reader.search("ornitorrinco")
        assert found.passages[0].title == "Ornitorrincos"
        assert found.passages[0].cosine is not None


def test_another_embedder_is_searched_by_words_until_a_reindex(
    home: NodeHome, encoder: Path, other: Path
) -> None:
    with library(home, encoder) as opened:
        opened.follow()
        opened.keep_up()
    with library(home, other) as opened:
        assert opened.search("volcán").embedder == ""
        assert "reindex" in opened.notes()[0]
        assert str(encoder) in opened.notes()[0]
        assert not opened.stats().is_complete
        assert opened.keep_up() == 0, "nothing is mixed into the old index"
        opened.reindex()
        assert opened.search("volcán").embedder.startswith(str(other))
        assert opened.stats().is_complete
        assert opened.stats().index == index.read_stamp(home.rag)
        assert set(opened.store.database.execute("SELECT DISTINCT cut FROM documents")) == {
            (opened.cutter.stamp,)
        }
    with library(home, encoder) as opened:
        assert opened.search("volcán").embedder == ""


def test_questions_are_answered_while_all_is_made_anew(
    home: NodeHome, encoder: Path, other: Path
) -> None:
    with library(home, encoder) as reader:
        reader.follow()
        reader.keep_up()
        failures: list[BaseException] = []
        slow = threading.Event()

        def reindex() -> None:
            try:
                with library(home, other) as writer:
                    writer.reindex(report=lambda *_: time.sleep(0.02))
            except BaseException as err:  # noqa: BLE001 - shown by the test
                failures.append(err)
            finally:
                slow.set()

        thread = threading.Thread(target=reindex)
        thread.start()
        asked, longest = 0, 0.0
        while not slow.is_set():
            start = time.monotonic()
            assert reader.search(f"palabra{asked % 30}").passages
            longest = max(longest, time.monotonic() - start)
            asked += 1
        thread.join()
        assert failures == []
        assert asked > 10
        assert longest < 2


def test_one_process_at_a_time_makes_vectors(home: NodeHome, encoder: Path) -> None:
    with library(home, encoder) as opened, Store(home.rag) as store:
        opened.follow()
        with upkeep.exclusively(store), pytest.raises(ConscienceError, match="another process"):
            opened.keep_up()


def test_a_missing_index_costs_nothing_but_its_making(home: NodeHome, encoder: Path) -> None:
    with library(home, encoder) as opened:
        opened.follow()
        opened.keep_up()
        before = opened.search("volcán lava", k=5).passages
    (home.rag / index.FILE).write_bytes(b"damaged")
    with library(home, encoder) as opened:
        assert opened.search("volcán lava", k=5).passages == before
        assert not opened.stats().is_complete
    (home.rag / index.FILE).unlink()
    with library(home, encoder) as opened:
        opened.mend_index()
        assert opened.stats().is_complete


def test_an_embedder_that_is_not_there_is_named_and_words_are_searched(home: NodeHome) -> None:
    with library(home, "/no/such/encoder") as opened:
        opened.follow()
        assert opened.search("volcán").passages
        assert "/no/such/encoder" in opened.notes()[0]
        with pytest.raises(ModelError):
            opened.reindex()


def test_an_embedder_that_does_not_load_is_named_and_words_are_searched(
    home: NodeHome, tmp_path: Path
) -> None:
    folder = make_tiny_encoder(tmp_path / "broken")
    with library(home, folder) as opened:
        opened.follow()
        opened.keep_up()
    (folder / "tokenizer.json").write_text("{}")
    with library(home, folder) as opened:
        found = opened.search("volcán")
        assert found.passages
        assert found.embedder == ""
        assert "does not load" in opened.notes()[0]


def test_query_follows_the_corpus_and_prints_what_a_machine_reads(
    home: NodeHome, capsys: pytest.CaptureFixture[str]
) -> None:
    use(home, embedder="none")
    answer = command(home, capsys, "query", "¿Qué pasó con palabra12?", "--k", "2")
    first = answer["passages"][0]
    one = numbered(13)[12]
    assert (first["id"], first["url"], first["date"]) == (one.id, one.link, one.published)
    assert one.text[first["start"] : first["end"]] == first["text"]
    assert first["score"] == 1.0
    assert len(answer["passages"]) <= 2
    append(home.corpus, [document(77, text="Una palabranueva.")])
    answer = command(home, capsys, "query", "palabranueva")
    assert answer["passages"][0]["id"] == document(77).id
    assert command(home, capsys, "query", "qwxzv blorft")["passages"] == []


def test_filters_of_the_command_narrow_and_wrong_ones_are_named(
    home: NodeHome, capsys: pytest.CaptureFixture[str]
) -> None:
    use(home, embedder="none")
    answer = command(home, capsys, "query", "registro", "--only", "language=en", "--k", "50")
    assert {p["language"] for p in answer["passages"]} == {"en"}
    answer = command(home, capsys, "query", "registro", "--only", "since=2026-01-20", "--k", "50")
    assert min(p["date"] for p in answer["passages"]) >= "2026-01-20"
    assert command(home, capsys, "query", "x", "--only", "lang=en", code=2)["code"] == 2
    assert command(home, capsys, "query", "x", "--only", "since=ayer", code=2)["code"] == 2


def test_stats_before_and_after_a_reindex(
    home: NodeHome, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(home, embedder=str(encoder))
    before = command(home, capsys, "stats")
    assert (before["documents"], before["is_complete"]) == (0, False)
    assert before["unread_bytes"] == home.corpus.stat().st_size
    after = command(home, capsys, "reindex")
    assert after == command(home, capsys, "stats")
    assert after["documents"] == 30
    assert after["index"]["ntotal"] == after["vectors"] == after["chunks"] > 30
    assert after["index"]["generation"] == after["generation"]
    assert after["newest"] == max(one.published for one in numbered(30))
    assert (after["missing"], after["unread_bytes"], after["is_complete"]) == (0, 0, True)
    assert after["embedder"] == after["vectors_of"]
    assert after["notes"] == []


def test_stats_of_an_empty_node_say_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = NodeHome(tmp_path / "empty")
    write_default(empty)
    assert "ingest" in command(empty, capsys, "stats")["notes"][0]
    assert command(empty, capsys, "query", "hola")["passages"] == []
    assert run(["--home", str(empty.root), "rag", "query", "hola", "--lang", "es"]) == 0
    shown = capsys.readouterr()
    assert "fuentes" in shown.out
    assert "flower-client ingest" in shown.err


def test_text_for_people_names_title_source_date_and_link(
    home: NodeHome, capsys: pytest.CaptureFixture[str]
) -> None:
    use(home, embedder="none")
    assert run(["--home", str(home.root), "rag", "query", "palabra12"]) == 0
    shown = capsys.readouterr().out
    one = numbered(13)[12]
    for part in (one.title, one.source_name, one.published[:10], one.link, "palabra12", "[1]"):
        assert part in shown
    assert run(["--home", str(home.root), "rag", "stats"]) == 0
    assert "30" in capsys.readouterr().out


def test_the_settings_choose_the_embedder_and_bound_its_threads(
    home: NodeHome,
    encoder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rag.retrieval import embedding

    seen: list[int] = []
    original = embedding.load

    def load(choice: Any, *, threads: int) -> Any:
        seen.append(threads)
        return original(choice, threads=threads)

    monkeypatch.setattr(embedding, "load", load)
    use(home, embedder=str(encoder), embedder_threads=3)
    assert command(home, capsys, "reindex")["embedder"].startswith(str(encoder))
    assert seen == [3]
    use(home, embedder="none")
    assert command(home, capsys, "stats")["embedder"] == ""


@pytest.mark.security
def test_an_embedder_is_not_fetched_where_all_goes_through_tor(
    home: NodeHome, capsys: pytest.CaptureFixture[str]
) -> None:
    use(home, embedder="someone/tiny", use_tor=True)
    answer = command(home, capsys, "reindex", "--download", code=2)
    assert "Tor" in answer["error"]


def test_vectors_of_a_removed_embedder_stay_until_another_takes_over(
    home: NodeHome, encoder: Path
) -> None:
    with library(home, encoder) as opened:
        opened.follow()
        opened.keep_up()
        stamp = vectors.active_stamp(opened.store)
    with library(home, "none") as opened:
        opened.reindex()
        assert vectors.active_stamp(opened.store) == stamp
        assert opened.search("volcán").embedder == ""
