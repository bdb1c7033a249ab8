"""Where `rag_corpus_path` names another corpus: each has its own store, and nothing is mixed up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.cli import run
from client.config import NodeConfig, NodeHome, find_home
from client.library import open_library
from federation import settings
from rag.ingest.feed_settings import FeedSettings
from tests.chat_bench import CONFIG, chat_of
from tests.feed_samples import item, rss, twenty
from tests.feed_server import FeedServer, ok

OTHER = "datasets/other.jsonl"
FEEDS = FeedSettings(allow_loopback=True)


@pytest.fixture
def server() -> Iterator[FeedServer]:
    with FeedServer() as made:
        made.pages = {"/rss": ok(twenty()), "/b": ok(rss([item(70)], title="B"))}
        yield made


def node(corpus: str) -> NodeHome:
    home = find_home()
    config = NodeConfig(embedder="none", feeds=FEEDS, rag_corpus_path=corpus)
    settings.save(config, home.config)
    return home


def feeds_file(server: FeedServer, path: str) -> str:
    found = find_home().root / f"{path.strip('/')}.json"
    found.write_text(json.dumps([server.url(path)]))
    return str(found)


def documents(home: NodeHome, corpus: Path) -> int:
    config = NodeConfig(embedder="none", rag_corpus_path=OTHER)
    with open_library(home, config, corpus=corpus) as library:
        return library.store.count("documents")  # as it is: nothing is followed here


def test_ingest_follows_what_it_wrote_and_leaves_the_searched_store_alone(
    server: FeedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    home = node(OTHER)
    other = home.root / OTHER
    assert run(["ingest", "--feeds", feeds_file(server, "/rss")]) == 0
    said = capsys.readouterr().err
    assert "20 documents can be searched" in said
    assert "The chat searches another corpus" in said
    assert (documents(home, home.corpus), documents(home, other)) == (20, 0)
    assert not home.refusal.exists()  # it is the searched corpus's
    assert run(["ingest", "--feeds", feeds_file(server, "/b"), "--out", str(other)]) == 0
    assert "another corpus" not in capsys.readouterr().err
    assert (documents(home, home.corpus), documents(home, other)) == (20, 1)


def test_a_path_that_names_the_nodes_own_corpus_has_no_second_store(server: FeedServer) -> None:
    home = node("datasets/../datasets/rss_research.jsonl")
    assert run(["ingest", "--feeds", feeds_file(server, "/rss")]) == 0
    assert documents(home, home.corpus) == 20
    assert not (home.rag / "other").exists()


def test_the_page_says_that_what_it_takes_in_is_not_searched(
    server: FeedServer, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"rag_corpus_path": OTHER})
    with chat_of(tmp_path / "node", config=config) as bench:
        refused = bench.upload("a.txt", b"Un texto que nadie encontraria.")
        assert refused.status_code == 422
        assert "another corpus" in refused.json()["detail"]
        assert not list(bench.home.documents.glob("*"))
        bench.client.post("/api/feeds", json={"url": server.url("/rss")}).raise_for_status()
        came = bench.client.post("/api/feeds/ingest", json={}).json()
        assert came["new"] == 20
        assert "another corpus" in came["note"]
