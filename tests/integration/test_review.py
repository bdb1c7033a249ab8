"""`flower-client review`: what was thought of answers on the page, shown in the terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from client.cli import run
from client.config import find_home
from rag.chat.web.feedback import Feedback
from tests.chat_bench import Bench, chat_of
from tests.integration.test_chat_web import QUESTION, VOLCANO

WHY = "le falta\nla isla"


def told(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    capsys.readouterr()
    assert run(["review", *options]) == 0
    return capsys.readouterr().out


def judged(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(told(capsys, *options, "--json"))
    return found


def rate(bench: Bench, answer: dict[str, Any], rating: str, reason: str = "") -> None:
    content = {"message_id": answer["message_id"], "rating": rating, "reason": reason}
    bench.client.post("/api/feedback", json=content).raise_for_status()


def test_opinions_of_the_page_are_shown_bad_ones_first_and_go_with_their_talk(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "No answer was judged" in told(capsys)
    home = find_home()
    with chat_of(home.root) as bench:
        bench.fill()
        bench.upload("La Palma.txt", VOLCANO.encode())
        first, second = bench.ask(QUESTION), bench.ask("¿Cuánto duró la erupción?")
        rate(bench, first, "down")
        rate(bench, first, "down", WHY)  # the later one holds
        rate(bench, second, "up")
    found = judged(capsys, "--week")
    assert (found["up"], found["down"]) == (1, 1)
    bad, good = found["answers"]
    assert (bad["rating"], bad["reason"], bad["question"]) == ("down", WHY, QUESTION)
    assert bad["answer"] == first["answer"]
    assert bad["sources"][0]["title"] == "La Palma"
    assert good["rating"] == "up"
    text = told(capsys)
    assert "1 good and 1 bad" in text
    assert "why: le falta la isla" in text
    assert text.index(QUESTION) < text.index("¿Cuánto duró")
    assert run(["memory", "forget", first["session_id"]]) == 0
    rest = judged(capsys)["answers"]
    assert [each["rating"] for each in rest] == ["up"]
    assert "isla" not in home.feedback.read_text()
    assert run(["memory", "forget", "--all"]) == 0
    assert judged(capsys)["answers"] == []


def test_a_week_leaves_out_what_is_older(capsys: pytest.CaptureFixture[str]) -> None:
    home = find_home()
    Feedback(home.feedback).add("ab" * 16, "down", "")
    row = json.loads(home.feedback.read_text())
    old = json.dumps(row | {"message_id": "cd" * 16, "ts": row["ts"] - 8 * 86_400})
    home.feedback.write_text(f'{old}\n{json.dumps(row)}\n{{"message_id": "cut')
    assert [each["message_id"] for each in judged(capsys, "--week")["answers"]] == ["ab" * 16]
    assert len(judged(capsys)["answers"]) == 2
    assert "forgotten" in told(capsys)
