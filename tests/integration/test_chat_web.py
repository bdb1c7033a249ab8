"""The chat's own API over a node's real files: answers, stops, sessions, settings, feeds, files."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from client.chat_settings import SETTINGS
from client.cli import run
from federation.model.speak import Piece, Sampling
from rag.chat.web.desk import Desk
from tests.chat_bench import Bench, chat_of, events
from tests.feed_samples import item, rss, text_of
from tests.feed_server import FeedServer, ok
from tests.scripted_writer import ScriptedWriter

VOLCANO = (
    "El volcán de La Palma entró en erupción el 19 de septiembre de 2021.\n\n"
    "La erupción duró 85 días y la lava llegó al mar."
)
QUESTION = "¿Cuándo entró en erupción el volcán de La Palma?"
WAIT_S = 30.0
ROOT = Path(__file__).parents[2]


class SlowWriter(ScriptedWriter):
    """Writes a word at a time, and notes how many it wrote."""

    def __init__(self, words: int, pause_s: float = 0.05) -> None:
        super().__init__("")
        self.words, self.pause_s, self.written = words, pause_s, 0
        self.sampled: list[Sampling] = []

    def write(
        self,
        ids: Sequence[int],  # noqa: ARG002 - the protocol's
        sampling: Sampling,
        is_stopped: Callable[[], bool],
    ) -> Iterator[Piece]:
        """See `rag.answer.generate.Writer`."""
        self.sampled.append(sampling)
        for n in range(self.words):
            if is_stopped():
                return
            time.sleep(self.pause_s)
            self.written += 1
            yield Piece(f"palabra{n} ", 0, -1.0, 1.0)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with chat_of(tmp_path / "node") as running:
        yield running


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_dropped_file_is_answered_from_at_once_with_its_place(bench: Bench) -> None:
    bench.fill()
    held = bench.upload("../../Volcán de La Palma.txt", VOLCANO.encode())
    assert held.status_code == 201
    document = held.json()
    assert (document["title"], document["kind"]) == ("Volcán de La Palma", "txt")
    assert (document["indexed"], document["bytes"]) == (True, len(VOLCANO.encode()))
    assert bench.client.get("/api/documents").json()[0] == document
    assert bench.client.get(f"/api/documents/{document['id']}").json() == document
    answer = bench.ask(QUESTION)
    assert (
        "«El volcán de La Palma entró en erupción el 19 de septiembre de 2021.» [1]"
        in (answer["answer"])
    )
    source = answer["sources"][0]
    query = {name: source[name] for name in ("document_id", "start", "end")}
    around = bench.client.get("/api/passage", params=query).json()
    assert around["before"] + source["quote"] + around["after"] == VOLCANO
    assert bench.client.delete(f"/api/documents/{document['id']}").status_code == 204
    assert len(bench.client.get("/api/documents").json()) == 1
    assert bench.ask(QUESTION)["abstained"] is True


def test_the_page_and_the_terminal_give_the_same_object(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.fill()
    bench.upload("volcan.txt", VOLCANO.encode())
    ours = bench.ask(QUESTION)
    bench.client.delete("/api/memory")
    wanted = ["--set", "model=semilla", "--home", str(bench.home.root)]
    assert run(["chat", "--once", QUESTION, "--json", *wanted]) == 0
    theirs = json.loads(capsys.readouterr().out)
    for answer in (ours, theirs):
        for name in ("message_id", "session_id", "usage", "metrics"):
            answer.pop(name)
    assert ours == theirs


def test_an_answer_comes_as_events_sources_first(bench: Bench) -> None:
    bench.upload("volcan.txt", VOLCANO.encode())
    came = list(bench.stream(QUESTION))
    names = [name for name, _data in came]
    assert names[:2] == ["start", "sources"]
    assert names[-1] == "done"
    assert set(names[2:-1]) == {"token"}
    done = came[-1][1]
    assert "".join(data["text"] for name, data in came if name == "token") == done["answer"]
    assert came[0][1]["message_id"] == done["message_id"]
    assert came[1][1]["session_id"] == done["session_id"]
    assert came[1][1]["sources"][0]["quote"] == done["sources"][0]["quote"]
    assert done["metrics"]["terms"]


def test_the_first_word_comes_before_the_last_is_written(tmp_path: Path) -> None:
    writer = SlowWriter(20)
    with chat_of(tmp_path / "node", writer=writer) as bench:
        for name, _data in bench.stream("hola", rag=False):
            if name == "token":
                assert writer.written < 20
                break


def test_two_answers_are_written_side_by_side(tmp_path: Path) -> None:
    with chat_of(tmp_path / "node", writer=SlowWriter(15)) as bench:
        order: list[int] = []

        def listen(who: int) -> None:
            with httpx.Client(
                base_url=bench.url, timeout=60, headers={"Authorization": f"Bearer {bench.token}"}
            ) as client:
                content = {"message": "hola", "rag": False, "stream": True}
                with client.stream("POST", "/api/chat", json=content) as answer:
                    order.extend(who for name, _ in events(answer.iter_lines()) if name == "token")

        threads = [threading.Thread(target=listen, args=(who,)) for who in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        first, second = order.index(2), len(order) - 1 - order[::-1].index(1)
        assert first < second  # the second one's first word before the first one's last
        assert first > 0 or order.index(1) > 0


@pytest.mark.parametrize("how", ["delete", "close"])
def test_a_stopped_answer_is_written_no_further_and_remembered(tmp_path: Path, how: str) -> None:
    writer = SlowWriter(600)
    with chat_of(tmp_path / "node", writer=writer) as bench:
        message_id = ""
        for name, data in bench.stream("hola", rag=False):
            message_id = data.get("message_id", message_id)
            if name == "token" and how == "close":
                break
            if name == "token":
                gone = bench.client.delete(f"/api/chat/{message_id}")
                assert gone.json() == {"cancelled": True} or gone.status_code == 404
            if name == "done":
                assert data["was_stopped"] is True
        until(lambda: bench.chat.desk.queue == {"running": 0, "waiting": 0})
        assert writer.written < 600
        [session] = bench.client.get("/api/sessions").json()
        turns = bench.client.get(f"/api/sessions/{session['id']}").json()["turns"]
        assert turns[0]["content"] == "hola"
        assert turns[1]["content"].startswith("palabra0")
        assert turns[1]["message_id"] == message_id
        assert bench.client.delete(f"/api/chat/{message_id}").status_code == 404


def test_too_many_questions_are_sent_away_and_the_rest_answered(tmp_path: Path) -> None:
    desk = Desk(at_once=1, waiting=1)
    with chat_of(tmp_path / "node", writer=SlowWriter(30), desk=desk) as bench:
        codes: list[int] = []
        retry: list[str] = []

        def ask() -> None:
            answer = bench.client.post("/api/chat", json={"message": "hola", "rag": False})
            codes.append(answer.status_code)
            retry.extend(filter(None, [answer.headers.get("retry-after")]))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: codes.count(429) == 2)
        assert bench.client.get("/api/health").json()["live"] is True  # meanwhile it answers
        for thread in threads:
            thread.join(WAIT_S)
        assert sorted(codes) == [200, 200, 429, 429]
        assert len(retry) == 2


def test_sessions_are_listed_gone_on_with_exported_and_forgotten(bench: Bench) -> None:
    first = bench.ask("Mi perro se llama Luna.")
    again = bench.ask("¿Cómo se llama mi perro?", session_id=first["session_id"])
    assert "«Mi perro se llama Luna.» [1]" in again["answer"]
    other = bench.ask("Otra cosa.")
    listed = bench.client.get("/api/sessions").json()
    assert [row["id"] for row in listed] == [other["session_id"], first["session_id"]]
    assert listed[1]["turns"] == 4
    path = f"/api/sessions/{first['session_id']}"
    exported = bench.client.get(f"{path}/export.md")
    assert exported.headers["content-type"].startswith("text/markdown")
    assert "Mi perro se llama Luna." in exported.text
    found = bench.client.get("/api/memory", params={"q": "perro Luna"}).json()
    assert found["found"][0]["session_id"] == first["session_id"]
    assert bench.client.delete(path).status_code == 204
    assert bench.client.get(path).status_code == 404
    assert bench.client.delete("/api/memory").json() == {"forgotten": 2}
    assert bench.client.get("/api/sessions").json() == []
    assert not bench.home.memory.exists()


def test_an_opinion_is_kept_at_home_and_shown_again(bench: Bench) -> None:
    answer = bench.ask("Mi gato se llama Sol.")
    for rating, reason in (("up", ""), ("down", "corta")):
        given = {"message_id": answer["message_id"], "rating": rating, "reason": reason}
        assert bench.client.post("/api/feedback", json=given).status_code == 204
    turns = bench.client.get(f"/api/sessions/{answer['session_id']}").json()["turns"]
    assert [turn["rating"] for turn in turns] == ["", "down"]
    assert json.loads(bench.home.feedback.read_text().splitlines()[1])["reason"] == "corta"
    wrong = {"message_id": "../x", "rating": "up"}
    assert bench.client.post("/api/feedback", json=wrong).status_code == 422


def test_changed_settings_take_effect_at_the_next_answer(tmp_path: Path) -> None:
    writer = SlowWriter(1, 0)
    with chat_of(tmp_path / "node", writer=writer) as bench:
        bench.ask("hola", rag=False)
        params = {"temperature": 1.5, "max_new_tokens": 7, "top_k": 3}
        changed = bench.client.put("/api/settings", json={"params": params}).json()
        assert (changed["params"]["temperature"], changed["source"]) == (1.5, "manual")
        assert changed["origin"]["top_k"] == "file"
        bench.ask("hola", rag=False)
        bench.ask("hola", rag=False, params={"temperature": 0.1})
        used = [(s.temperature, s.max_new_tokens, s.top_k) for s in writer.sampled]
        assert used == [(0.3, 256, 40), (1.5, 7, 3), (0.1, 7, 3)]
        back = bench.client.post("/api/settings/rollback", json={}).json()
        assert back["params"]["temperature"] == 0.3
        assert bench.client.post("/api/settings/rollback", json={}).status_code == 422


def test_how_much_is_searched_follows_the_settings(bench: Bench) -> None:
    bench.fill()
    for n in range(6):
        bench.upload(f"volcan {n}.txt", f"{VOLCANO} {text_of(n) * n}".encode())

    def count() -> int:
        return len(bench.ask(QUESTION)["sources"])

    assert count() == 5
    for params, least, most in (({"rag_top_k": 2}, 2, 2), ({"rag_max_chars": 10}, 1, 1)):
        bench.client.put("/api/settings", json={"params": params})
        assert least <= count() <= most
    params = {"rag_top_k": 6, "rag_max_chars": 0, "rag_min_score": 1.0}
    bench.client.put("/api/settings", json={"params": params})
    assert count() < 6


def test_a_settings_file_changed_by_hand_is_read_and_a_wrong_one_refused(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    path = bench.home.runs / SETTINGS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema": 1, "params": {"rag_top_k": 3}}))
    assert bench.client.get("/api/settings").json()["params"]["rag_top_k"] == 3
    wrong: list[tuple[Any, str]] = [
        ({"schema": 1, "params": {"rag_topk": 9}}, "did you mean 'rag_top_k'"),
        ({"schema": 1, "params": {"temperature": 9}}, "params.temperature"),
        ({"schema": 2}, "schema"),
        ({"schema": 1, "source": "auto_optimize"}, "evidence"),
        ([], "not valid JSON"),
    ]
    for content, said in wrong:
        path.write_text(json.dumps(content))
        held = bench.client.get("/api/settings").json()
        assert held["params"]["rag_top_k"] == 3
        assert said in held["problem"]
    assert caplog.text.count("stay as they were") == len(wrong)
    for content, said in wrong[:2]:
        refused = bench.client.put("/api/settings", json={"params": content["params"]})
        assert refused.status_code == 422
        assert said.removeprefix("params.") in refused.json()["detail"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"message": ""}, "message"),
        ({"message": "   "}, "message"),
        ({"message": "x" * 9000}, "message"),
        ({"message": "a", "mesage": 1}, "did you mean 'message'"),
        ({"message": "a", "params": {"temperature": 99}}, "temperature"),
        ({"message": "a", "params": {"model": "evil"}}, "unknown field 'model'"),
        ({"message": 5}, "message"),
        ({}, "message"),
    ],
)
def test_a_wrong_field_is_named(bench: Bench, fields: dict[str, Any], named: str) -> None:
    answer = bench.client.post("/api/chat", json=fields)
    assert answer.status_code == 422
    assert named in answer.json()["detail"]


def test_what_is_no_json_is_said_to_be_none(bench: Bench) -> None:
    for body in (b"{", b"[]", b"\xff\xfe", b"[" * 20_000):
        headers = {"Content-Type": "application/json"}
        answer = bench.client.post("/api/chat", content=body, headers=headers)
        assert answer.status_code == 400


def test_r01_what_another_program_ingests_is_answered_from_at_once(
    bench: Bench, tmp_path: Path
) -> None:
    bench.fill()
    assert bench.ask(QUESTION)["abstained"] is True
    path = tmp_path / "volcan.txt"
    path.write_text(VOLCANO, encoding="utf-8")
    home = ["--home", str(bench.home.root)]
    ingest = [sys.executable, "-m", "client", "ingest", "--path", str(path), *home]
    subprocess.run(ingest, cwd=ROOT, check=True, capture_output=True, timeout=120)
    assert "2021" in bench.ask(QUESTION)["answer"]


def test_a_feed_is_added_read_and_answered_from(bench: Bench) -> None:
    text = "La estación de Júpiter abrió en 2031 con doce personas."
    with FeedServer(pages={"/rss": ok(rss([item(1, description=text)]))}) as server:
        url = server.url("/rss")
        bad = {"url": server.url("/missing"), "name": "Rota"}
        added = bench.client.post("/api/feeds", json={"url": url, "name": "Espacio"})
        assert added.status_code == 201
        assert [(row["name"], row["train"]) for row in added.json()] == [("Espacio", False)]
        assert bench.client.post("/api/feeds", json={"url": url}).status_code == 422
        assert bench.client.post("/api/feeds", json={"url": "file:///etc/x"}).status_code == 422
        assert bench.client.post("/api/feeds", json=bad).status_code == 201
        came = bench.client.post("/api/feeds/ingest", json={}).json()
        assert (came["new"], len(came["failed"])) == (1, 1)
        assert "404" in came["failed"][0]["reason"]
    answer = bench.ask("¿Cuándo abrió la estación de Júpiter?", anyway=True)
    assert "2031" in answer["answer"]
    rows = bench.client.delete("/api/feeds", params={"url": bad["url"]}).json()
    assert [row["entries"] for row in rows] == [1]


def test_health_and_figures_say_the_truth(bench: Bench) -> None:
    before = bench.client.get("/api/health").json()
    assert (before["ready"], before["chat_available"]) == (True, False)
    assert (before["model"]["base"], before["model"]["loaded"]) == ("semilla", False)
    assert before["rag"]["docs"] == 0
    assert before["node"]["joined"] is False
    bench.upload("volcan.txt", VOLCANO.encode())
    bench.ask(QUESTION)
    middle = bench.client.get("/api/health").json()
    assert middle["model"]["loaded"] is False  # to quote, none is needed
    asked = {"messages": [{"role": "user", "content": "hola"}], "max_tokens": 8}
    written = bench.client.post("/v1/chat/completions", json={"model": "semilla", **asked}).json()
    assert written["usage"]["completion_tokens"] in range(1, 9)
    after = bench.client.get("/api/health").json()
    assert (after["chat_available"], after["rag"]["docs"]) == (True, 1)
    assert after["model"]["loaded"] is True
    assert after["memory"]["turns"] == 2
    figures = bench.client.get("/metrics").text
    assert "conscienceai_chat_answers_total 2" in figures
    assert 'conscienceai_chat_latency_ms{quantile="0.95"}' in figures
