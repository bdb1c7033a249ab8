"""How often a quoted answer holds what was asked, and how often the refusal is right.

On questions people wrote (XQuAD, PubMedQA). Needs `../shared/data/qa`; -s prints the figures.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag.answer.abstain import LIMIT, START, Refusal, auc, calibrate
from rag.answer.extract import extract
from rag.answer.sentences import sentences
from tests.small_search import SmallSearch, passage

QA = Path(__file__).parents[2].parent / "shared" / "data" / "qa"
pytestmark = pytest.mark.skipif(not QA.is_dir(), reason="needs ../shared/data/qa")
CONTEXTS, QUESTIONS, TITLE_WORDS = 240, 200, 12


def rows(name: str) -> list[dict[str, Any]]:
    with (QA / name).open(encoding="utf-8") as file:  # str.splitlines would cut at U+2028 too
        return [json.loads(line) for line in file]


def load(name: str) -> tuple[SmallSearch, list[dict[str, Any]], str]:
    language = "es" if name.endswith("es") else "en"
    texts = {row["id"]: row["text"] for row in rows(f"{name}.contexts.jsonl")[:CONTEXTS]}
    asked = [row for row in rows(f"{name}.questions.jsonl") if row["context_id"] in texts]
    random.Random(1).shuffle(asked)
    passages = [passage(text, id=id, language=language) for id, text in texts.items()]
    return SmallSearch(passages), asked[:QUESTIONS], language


@pytest.mark.parametrize("name", ["xquad-en", "xquad-es"])
def test_a_quoted_answer_holds_what_was_asked(name: str) -> None:
    search, asked, language = load(name)
    first = whole = there = characters = 0
    for row in asked:
        passages = search.find(row["question"], 3).passages
        found = extract(row["question"], passages, language)
        best = max(found, key=lambda entry: entry.value)
        texts = {e: passages[e.n - 1].text[e.span.start : e.span.end] for e in found}
        first += any(answer in texts[best] for answer in row["answers"])
        whole += any(answer in " ".join(texts.values()) for answer in row["answers"])
        there += any(answer in p.text for answer in row["answers"] for p in passages)
        characters += sum(map(len, texts.values()))
    total = len(asked)
    print(f"\n{name}: best sentence {first / total:.3f}, answer {whole / total:.3f}, "
          f"3 passages {there / total:.3f}, {characters / total:.0f} characters")  # fmt: skip
    assert first / total > 0.68
    assert whole / total > 0.82


@pytest.mark.parametrize("name", ["xquad-en", "xquad-es", "pubmedqa"])
def test_a_refusal_fitted_to_first_sentences_is_seldom_wrong_on_questions(name: str) -> None:
    search, asked, _language = load(name)
    titles = []
    for one in search.passages:
        first = sentences(one.text)[0]
        words = one.text[first.start : first.end].split()[:TITLE_WORDS]
        titles.append((" ".join(words), one.document_id))
    fitted = calibrate(search, titles)
    there = [search.find(row["question"], 1).evidence for row in asked]
    gone = [search.find(row["question"], 1, without=row["context_id"]).evidence for row in asked]

    def figures(refusal: Refusal) -> tuple[float, float, float]:
        high = np.array([refusal.probability(evidence) for evidence in there])
        low = np.array([refusal.probability(evidence) for evidence in gone])
        return auc(high, low), float((high >= LIMIT).mean()), float((low >= LIMIT).mean())

    for label, refusal in (("start", START), ("fitted", fitted)):
        area, answered, wrongly = figures(refusal)
        print(f"\n{name} {label}: AUC {area:.3f}, answered {answered:.3f}, wrongly {wrongly:.3f}")
    area, answered, wrongly = figures(fitted)
    assert area > 0.9
    assert answered > 0.82
    assert wrongly < figures(START)[2] < 0.4
