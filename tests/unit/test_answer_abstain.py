"""The doubt before an answer: start values, fit to a corpus, stamp and file."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from federation.errors import FormatError
from rag.answer.abstain import LIMIT, START, Refusal, auc, calibrate, load, refreshed, save
from rag.passages import Evidence, Passage
from tests.small_search import SmallSearch, passage

SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ja", "ke", "li", "mo", "nu", "pa", "re", "si", "vu")


def corpus(count: int = 60, seed: int = 3) -> list[Passage]:
    """Texts of 20 words that many share and 10 that few do; a title holds four of the latter."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(SYLLABLES, k=3)) for _ in range(1500)]
    made = []
    for n in range(count):
        rare = draw.sample(words[100:], 10)
        text = " ".join([*rare, *draw.choices(words[:100], k=20)])
        title = " ".join(draw.sample(rare, 4))
        made.append(passage(text, title=title, id=f"{n:032x}", language="en"))
    return made


def questions(passages: list[Passage], seed: int = 4) -> list[tuple[str, str]]:
    """Three words that mark a text and one that it may lack, with the text's id."""
    draw = random.Random(seed)
    made = []
    for one in passages:
        stranger = draw.choice(passages[0].text.split())
        words = [*draw.sample(one.text.split()[:10], 3), stranger]
        made.append((" ".join(words), one.document_id))
    return made


def items(passages: list[Passage]) -> list[tuple[str, str]]:
    return [(p.title, p.document_id) for p in passages]


def test_the_start_values_are_those_that_were_measured() -> None:
    evidence = Evidence(chunks=240, bm25=12.0, ratio=0.8, coverage=0.9, cosine=0.4)
    logit = -8.727 + 0.373 * 12 + 4.829 * 0.8 + 3.46 * 0.9
    assert START.probability(evidence) == pytest.approx(1 / (1 + np.exp(-logit)))


def test_no_word_in_common_is_no_answer() -> None:
    assert START.probability(Evidence(500, 0.0, 0.0, 0.0, None)) < 0.001


def test_the_fused_score_has_no_part_in_it() -> None:
    question = corpus()[0].text.split()[0]
    found = SmallSearch(corpus()).find(question, 3)
    assert found.passages[0].score == 1.0  # the best of a bad lot is at 1 too
    assert set(vars(START)) & {"score", "fused"} == set()


def test_a_fit_to_titles_tells_questions_with_an_answer_from_those_without() -> None:
    passages = corpus(120)
    search = SmallSearch(passages)
    fitted = calibrate(search, items(passages[:80]), seed=1)
    asked = questions(passages[80:])
    there = [fitted.probability(search.find(t, 1).evidence) for t, _id in asked]
    gone = [fitted.probability(search.find(t, 1, without=id).evidence) for t, id in asked]
    assert auc(np.array(there), np.array(gone)) > 0.9
    assert np.mean(np.array(there) >= LIMIT) > 0.8
    assert np.mean(np.array(gone) >= LIMIT) < 0.3
    assert (fitted.chunks, fitted.items) == (120, 80)
    assert fitted.auc is not None
    assert fitted.auc > 0.7


def test_a_fit_repeats_itself() -> None:
    passages = corpus()
    once, again = (calibrate(SmallSearch(passages), items(passages), seed=5) for _ in range(2))
    assert once == again


def test_too_few_titles_leave_the_start_values() -> None:
    passages = corpus(10)
    assert calibrate(SmallSearch(passages), items(passages)) == START
    untitled = [("", p.document_id) for p in corpus(60)]
    assert calibrate(SmallSearch(passages), untitled) == START


def test_growth_and_another_embedder_ask_for_a_new_fit() -> None:
    fitted = Refusal(chunks=1000, embedder="mini@1", items=100)
    assert START.is_stale(10, "")
    assert not fitted.is_stale(1400, "mini@1")
    assert fitted.is_stale(1600, "mini@1")
    assert fitted.is_stale(600, "mini@1")
    assert fitted.is_stale(1000, "other@2")


def test_a_fit_is_made_when_it_is_due_and_only_then(tmp_path: Path) -> None:
    path = tmp_path / "refusal.json"
    passages = corpus(60)
    search = SmallSearch(passages)

    def refresh(chunks: int) -> Refusal:
        return refreshed(path, search, items(passages), chunks=chunks, embedder="")

    fitted = refresh(60)
    assert load(path) == fitted != START
    asked = len(search.asked)
    assert refresh(80) == fitted
    assert len(search.asked) == asked
    refresh(100)
    assert len(search.asked) == 2 * asked
    path.write_text("{")
    assert refresh(60) == fitted == load(path)


def test_a_corpus_too_small_to_fit_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "refusal.json"
    few = corpus(5)
    found = refreshed(path, SmallSearch(few), items(few), chunks=5, embedder="")
    assert found == START
    assert not path.exists()


def test_a_fit_survives_its_file_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rag" / "refusal.json"
    assert load(path) == START
    fitted = replace(START, bm25=0.5, chunks=10, items=30, auc=0.9)
    save(fitted, path)
    assert load(path) == fitted
    for text in ("{", "{}", json.dumps({**vars(fitted), "bm25": None}), '{"format": 2, "x": 2}'):
        path.write_text(text)
        with pytest.raises(FormatError, match=r"refusal\.json is damaged"):
            load(path)
    path.write_text(json.dumps({**vars(fitted), "format": 1}))
    assert load(path) == START  # fitted to other numbers: it is made anew
    path.write_text(json.dumps({**vars(fitted), "format": 9}))
    with pytest.raises(FormatError, match="newer"):
        load(path)
