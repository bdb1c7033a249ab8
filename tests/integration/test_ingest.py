"""`flower-client ingest` against a server of this machine: what a volunteer would see."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import pytest

from client.cli import run
from client.config import NodeConfig, NodeHome, write_default
from federation.settings import save
from rag.corpus_rows import Removal, from_line
from rag.documents import Document
from rag.ingest.fetch import Fetcher, Patience
from tests.feed_samples import item, rss, text_of, twenty
from tests.feed_server import FeedServer, ok, with_etag

ROOT = Path(__file__).resolve().parents[2]


class Node:
    """A node's home and its server of feeds."""

    def __init__(
        self, folder: Path, server: FeedServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.home, self.server, self._capsys = NodeHome(folder), server, capsys
        self.set()
        self.code = 0
        self.said = ""

    def set(self, **given: object) -> None:
        """Settings beside those of a node that makes no vectors: they are not the subject."""
        config = NodeConfig.model_validate({"embedder": "none", **given})
        save(config, write_default(self.home))

    def feeds(self, *rows: dict[str, Any] | str) -> None:
        urls = [self.server.url(row) if isinstance(row, str) else row for row in rows]
        self.home.feeds.write_text(json.dumps({"feeds": [self._row(row) for row in urls]}))

    def _row(self, row: dict[str, Any] | str) -> dict[str, Any]:
        return {"url": row} if isinstance(row, str) else row | {"url": self.server.url(row["url"])}

    def ingest(self, *options: str) -> dict[str, Any]:
        arguments = ["--home", str(self.home.root), "ingest", "--allow-loopback", "--json"]
        self.code = run([*arguments, *options])
        out, self.said = self._capsys.readouterr()
        answer: dict[str, Any] = json.loads(out.splitlines()[-1])
        return answer

    def counts(self, *options: str) -> tuple[int, int, int, int]:
        answer = self.ingest(*options)
        return answer["new"], answer["changed"], answer["same"], answer["failed"]

    def lines(self) -> list[Document | Removal]:
        return [from_line(line) for line in self.home.corpus.read_text().splitlines()]

    def documents(self) -> dict[str, Document]:
        held: dict[str, Document] = {}
        for each in self.lines():
            if isinstance(each, Removal):
                held.pop(each.id)
            else:
                held[each.id] = each
        return held

    def listed(self) -> list[dict[str, Any]]:
        feeds: list[dict[str, Any]] = json.loads(self.home.feeds.read_text())["feeds"]
        return feeds


@pytest.fixture
def node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Node]:
    with FeedServer() as server:
        yield Node(tmp_path / "node", server, capsys)


def test_twenty_entries_are_new_once_and_then_the_same(node: Node) -> None:
    node.server.pages = {"/rss": with_etag(twenty())}
    node.feeds("/rss")
    assert node.counts() == (20, 0, 0, 0)
    assert len(node.lines()) == 20
    before = node.home.corpus.read_bytes()
    assert node.counts() == (0, 0, 20, 0)
    assert node.home.corpus.read_bytes() == before
    assert node.server.asked[1][1]["if-none-match"] == '"one"'
    row = json.loads(before.splitlines()[0])
    assert row["feed"] == node.server.url("/rss")
    assert (row["feed_name"], row["title"], row["text"]) == ("News", "Item 0", text_of(0))
    assert row["summary"] == row["text"][:300]


@pytest.mark.parametrize("option", [(), ("--force",)])
def test_a_server_that_ignores_etags_makes_nothing_new(node: Node, option: tuple[str, ...]) -> None:
    node.server.pages = {"/rss": ok(twenty())}
    node.feeds("/rss")
    assert node.counts() == (20, 0, 0, 0)
    assert node.counts(*option) == (0, 0, 20, 0)


def test_the_script_of_the_seed_document_says_the_same(node: Node, tmp_path: Path) -> None:
    node.server.pages = {"/rss": with_etag(twenty())}
    feeds, out = tmp_path / "feeds.json", tmp_path / "out" / "rows.jsonl"
    feeds.write_text(json.dumps([node.server.url("/rss")]))
    stats = tmp_path / "stats.json"
    options = ["--feeds", str(feeds), "--out", str(out), "--stats", str(stats)]
    options += ["--languages", "es,en", "--topics", "ia;river", "--max-items-per-feed", "50"]
    options += ["--auto-manage", "--deactivate-threshold", "0.15"]
    options += ["--min-processed-to-evaluate", "20"]
    for expected in ("new=20 changed=0 same=0 failed=0", "new=0 changed=0 same=20 failed=0"):
        done = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "rss_ingest.py"), *options],
            env={
                "CONSCIENCE_FEEDS": '{"allow_loopback": true}',
                "CONSCIENCE_HOME": str(tmp_path / "home"),
                "PATH": "",
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, expected), done.stderr
    assert len(out.read_text().splitlines()) == 20
    assert json.loads(stats.read_text())["sources"][0]["outcome"] == "unchanged"


def test_one_feed_hangs_and_the_others_are_read(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    brisk = partial(Fetcher, patience=Patience(1, 1, 2))
    monkeypatch.setattr("client.ingesting.Fetcher", brisk)
    node.server.pages = {"/a": ok(twenty()), "/b": ok(twenty(100))}
    node.server.silent = {"/hangs"}
    node.feeds("/a", {"url": "/hangs", "name": "Sleepy"}, "/b", "/missing")
    assert node.counts() == (40, 0, 0, 2)
    assert node.code == 0
    assert "failed: Sleepy: no answer in time" in node.said
    assert "404" in node.said
    stats = json.loads(node.home.feed_stats.read_text())
    assert [row["outcome"] for row in stats["sources"]] == ["read", "failed", "read", "failed"]
    assert stats["sources"][1]["failures"] == 1


def test_all_that_was_tried_failed_is_exit_code_1(node: Node) -> None:
    node.feeds("/missing")
    assert node.counts() == (0, 0, 0, 1)
    assert node.code == 1
    assert node.counts() == (0, 0, 0, 0)  # not due: it has failed a moment ago
    assert node.code == 0
    assert node.counts("--force") == (0, 0, 0, 1)


def test_a_changed_entry_is_a_new_revision_of_the_same_document(node: Node) -> None:
    node.server.pages = {"/rss": ok(rss([item(1), item(2)]))}
    node.feeds("/rss")
    node.ingest()
    changed = item(1, description=escape(f"<p>{text_of(1)} And more.</p>"))
    node.server.pages["/rss"] = ok(rss([changed, item(2), item(3)]))
    assert node.counts() == (1, 1, 1, 0)
    (first,) = [each for each in node.documents().values() if each.title == "Item 1"]
    assert first.revision == 2
    assert first.text.endswith("And more.")
    assert len(node.lines()) == 4
    assert len(node.documents()) == 3


def test_the_same_and_nearly_the_same_text_of_two_feeds_is_one_document(node: Node) -> None:
    long = text_of(7, 300)
    edited = long.replace("river", "brook", 1)
    node.server.pages = {
        "/a": ok(rss([item(1), item(2, description=long)])),
        "/b": ok(rss([item(1, guid="other"), item(2, guid="b2", description=edited), item(3)])),
    }
    node.feeds("/a", "/b")
    assert node.counts() == (3, 0, 2, 0)
    assert node.counts("--force") == (0, 0, 5, 0)


def test_alike_entries_of_one_feed_stay_apart(node: Node) -> None:
    long = text_of(7, 300)
    entries = [item(1, description=long), item(2, description=f"{long} Two.")]
    node.server.pages = {"/a": ok(rss(entries))}
    node.feeds("/a")
    assert node.counts() == (2, 0, 0, 0)


def test_a_feed_that_writes_new_guids_for_old_texts_brings_nothing_new(node: Node) -> None:
    node.server.pages = {"/a": ok(rss([item(1, guid="one")]))}
    node.feeds("/a")
    node.ingest()
    node.server.pages = {"/a": ok(rss([item(1, guid="two")]))}
    assert node.counts() == (0, 0, 1, 0)


def test_short_equal_titles_are_the_same_only_with_the_same_link(node: Node) -> None:
    def links(number: int, link: str) -> str:
        return item(number, title="Weekly links", description="", link=link, guid=f"g{number}")

    node.server.pages = {
        "/a": ok(rss([links(1, "https://a.example/1"), links(2, "https://a.example/2")])),
        "/b": ok(rss([links(3, "http://www.a.example/2/")])),
    }
    node.feeds("/a", "/b")
    assert node.counts() == (2, 0, 1, 0)


def test_topics_and_languages_of_flags_and_feeds(node: Node) -> None:
    spanish = "La vida social del río que cruza la ciudad no ha sido fácil para los peces."
    node.server.pages = {
        "/a": ok(
            rss(
                [
                    item(1, title="La IA y los ríos", description=spanish),
                    item(2, title="Social", description=f"{spanish} Y se acaba."),
                    item(
                        3, title="Der Fluss", description="Der Fluss ist in diesem Sommer trocken."
                    ),
                ]
            )
        )
    }
    node.feeds({"url": "/a", "topics": ["rio"], "train": False, "priority": 1})
    answer = node.ingest("--topics", "ia;inteligencia artificial", "--languages", "es,en")
    assert (answer["new"], answer["left_out"]) == (2, 1)
    rows = {each.title: each for each in node.documents().values()}
    assert rows["La IA y los ríos"].topics == ("rio", "ia")
    assert rows["Social"].topics == ("rio",)
    assert {each.language for each in rows.values()} == {"es"}
    assert {each.priority for each in rows.values()} == {1}
    assert not any(each.is_for_training for each in rows.values())


def test_the_settings_topics_languages_and_items_do_what_the_flags_do(node: Node) -> None:
    settings = {"topics": ["river"], "languages": ["de"], "max_items": 2, "allow_loopback": True}
    node.set(feeds=settings)
    english = "The river that crosses the town is dry and the people of the town have to leave."
    entries = [item(n, description=f"{english} {n}") for n in range(3)]
    node.server.pages = {"/a": ok(rss(entries))}
    node.feeds("/a")
    answer = node.ingest()
    assert (answer["new"], answer["left_out"]) == (0, 2)
    node.set(feeds=settings | {"languages": []})
    assert node.counts("--force") == (2, 0, 0, 0)
    assert {each.topics for each in node.documents().values()} == {("river",)}


def test_a_feed_beside_the_topics_is_switched_off_and_one_that_rests_never(node: Node) -> None:
    off_topic = [item(n, description=escape(f"About {text_of(n)}")) for n in range(20)]
    good = [item(n, title=f"IA {n}", guid=f"good{n}") for n in range(100, 120)]
    node.server.pages = {
        "/off": ok(rss(off_topic)),
        "/good": ok(rss(good)),
        "/few": ok(rss(off_topic[:1])),
    }
    node.feeds("/good", "/off")
    options = ("--topics", "ia", "--auto-manage")
    answer = node.ingest(*options)
    assert [row["active"] for row in node.listed()] == [True, False]
    assert "0 of its 20 entries" in answer["notes"][0]
    for _day in range(30):
        assert node.counts(*options) == (0, 0, 20, 0)
    assert [row["active"] for row in node.listed()] == [True, False]
    (row,) = json.loads(node.home.feed_stats.read_text())["sources"]
    assert (row["processed"], row["matched"], row["match_rate"]) == (20, 20, 1.0)


def test_without_topics_no_feed_is_judged(node: Node) -> None:
    node.server.pages = {"/a": ok(twenty())}
    node.feeds("/a")
    assert node.ingest("--auto-manage")["notes"] == []
    assert node.listed() == [{"url": node.server.url("/a")}]


def test_a_feed_that_moved_is_remembered_and_its_entries_stay_the_same(node: Node) -> None:
    node.server.pages = {"/old": (301, {"location": "/new"}, b""), "/new": ok(twenty())}
    node.feeds({"url": "/old", "name": "N"})
    answer = node.ingest()
    assert answer["new"] == 20
    assert node.listed()[0]["url"] == node.server.url("/new")
    assert node.listed()[0]["former"] == [node.server.url("/old")]
    assert "has moved" in answer["notes"][0]
    node.server.pages["/new"] = ok(rss([item(n) for n in range(21)]))
    assert node.counts() == (1, 0, 20, 0)
    assert node.server.paths() == ["/old", "/new", "/new"]


def test_a_feed_that_is_gone_is_switched_off(node: Node) -> None:
    node.server.pages = {"/gone": (410, {}, b""), "/a": ok(twenty())}
    node.feeds("/gone", "/a")
    assert node.counts() == (20, 0, 0, 1)
    assert [row["active"] for row in node.listed()] == [False, True]
    assert node.counts() == (0, 0, 20, 0)


def test_a_busy_server_is_not_asked_again_before_it_wants_to_be(node: Node) -> None:
    node.server.pages = {"/a": (429, {"retry-after": "7200"}, b"")}
    node.feeds("/a")
    node.ingest()
    node.ingest()
    assert len(node.server.asked) == 1
    (row,) = json.loads(node.home.feed_stats.read_text())["sources"]
    assert row["outcome"] == "not due"
    assert "not due" in node.said


def test_one_host_is_asked_one_thing_at_a_time(node: Node) -> None:
    node.server.pages = {f"/{n}": ok(twenty(n * 100)) for n in range(6)}
    node.server.slow = {f"/{n}": 0.003 for n in range(6)}
    node.feeds(*node.server.pages)
    assert node.counts() == (120, 0, 0, 0)
    assert node.server.most_at_once == 1


def test_several_hosts_are_asked_side_by_side(node: Node) -> None:
    url = node.server.url("/a")
    node.home.feeds.write_text(json.dumps([url, url.replace("127.0.0.1", "localhost")]))
    node.server.pages = {"/a": ok(twenty())}
    node.server.slow = {"/a": 0.01}
    node.ingest()
    assert node.server.most_at_once == 2


def test_a_corpus_that_was_taken_away_is_brought_back(node: Node) -> None:
    node.server.pages = {"/a": with_etag(twenty())}
    node.feeds("/a")
    node.ingest()
    node.home.corpus.unlink()
    assert node.counts() == (20, 0, 0, 0)


def test_a_feed_that_may_not_be_learnt_from_takes_its_earlier_entries_along(node: Node) -> None:
    node.server.pages = {"/a": with_etag(twenty())}
    node.feeds("/a")
    node.ingest()
    node.feeds({"url": "/a", "train": False})
    assert node.counts() == (0, 0, 20, 0)
    assert not any(each.is_for_training for each in node.documents().values())
    assert {each.revision for each in node.documents().values()} == {1}


def test_wrong_options_and_files_are_exit_code_2(node: Node) -> None:
    assert node.ingest()["code"] == 2
    node.feeds({"url": "/a", "mood": 1})
    assert "mood" in node.ingest()["error"]
    node.feeds("/a")
    assert node.ingest("--languages", "english")["code"] == 2
    assert node.ingest("--max-items-per-feed", "0")["code"] == 2
    assert node.ingest("--path", str(node.home.root / "nowhere"))["code"] == 2


@pytest.mark.security
def test_without_the_flag_for_tests_this_machine_is_never_asked(node: Node) -> None:
    node.server.pages = {"/a": ok(twenty())}
    node.feeds("/a")
    assert run(["--home", str(node.home.root), "ingest"]) == 1
    assert node.server.asked == []


def test_feeds_are_listed_added_removed_and_switched(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    def feeds(*words: str) -> str:
        code = run(["--home", str(node.home.root), "feeds", *words])
        out = capsys.readouterr()
        return out.out if code == 0 else f"{code}: {out.err}"

    assert "no feeds yet" in feeds("list")
    url = node.server.url("/a")
    assert url in feeds("add", url, "--name", "A", "--topics", "ia;salud", "--language", "es")
    assert feeds("add", url).startswith("2:")
    assert feeds("add", "ftp://b.example/").startswith("2:")
    feeds("add", node.server.url("/b"), "--no-train")
    node.server.pages = {"/a": ok(twenty()), "/b": ok(twenty(100))}
    feeds("disable", "A")
    assert node.counts() == (20, 0, 0, 0)
    feeds("enable", url)
    assert node.counts() == (20, 0, 20, 0)
    rows = json.loads(feeds("list", "--json"))["feeds"]
    assert [(row["name"], row["entries"], row["train"]) for row in rows] == [
        ("A", 20, True),
        ("News", 20, False),
    ]
    assert "News" in feeds("list")
    feeds("remove", "A")
    assert feeds("remove", "A").startswith("2:")
    assert [row["url"] for row in node.listed()] == [node.server.url("/b")]
    assert len(node.documents()) == 40
