"""The benchmark of retrieval on a set of a few texts: its numbers, gates and exit code."""

from __future__ import annotations

import json
import math
from pathlib import Path

import bench_retrieval
import bench_retrieval_quality as quality
import numpy as np
import pytest

from tests.corpora import TEXTS
from tests.tiny_encoder import make_tiny_encoder

QUESTIONS = (
    "¿Cuánto duró la erupción?",
    "¿Qué enseñan las vacunas?",
    "What do corals do when the water is too warm?",
    "What pictured the shadow of a black hole?",
)


def make_set(folder: Path, name: str = "own") -> Path:
    """Write a set with a line separator inside a text, which is no line's end."""
    contexts = [
        {"id": f"c{at}", "lang": language, "text": text.replace("\n\n", "\u2028")}
        for at, (language, _title, text) in enumerate(TEXTS[:4])
    ]
    questions = [
        {"id": f"q{at}", "question": text, "context_id": f"c{at}"}
        for at, text in enumerate(QUESTIONS)
    ]
    for kind, rows in (("contexts", contexts), ("questions", questions)):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{name}.{kind}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def test_quality_of_a_set_that_words_alone_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder, out = make_tiny_encoder(tmp_path / "encoder"), tmp_path / "numbers.json"
    cache = tmp_path / "cache"
    words = ["quality", "--data", str(make_set(tmp_path)), "--embedder", str(encoder)]
    words += ["--cache", str(cache), "--out", str(out)]
    assert bench_retrieval.main(words) in (0, 1)
    found = json.loads(out.read_text())["own"]
    assert found["words"]["ndcg"] == found["words"]["hit1"] == found["words"]["mrr"] == 1.0
    assert found["words"]["questions"] == len(QUESTIONS)
    assert 0 < found["hybrid"]["ndcg"] <= 1
    assert "| own | hybrid |" in capsys.readouterr().out
    assert list(cache.glob("*.npz"))
    assert bench_retrieval.main(words) in (0, 1)
    assert json.loads(out.read_text())["own"] == found, "the same again from the cache"


def test_a_gate_that_is_missed_is_named() -> None:
    good = {"ndcg": 0.99, "interval": [0.9, 1.0], "hit1": 1.0, "hit5": 1.0, "mrr": 1.0}
    _lines, is_good = quality.report({"xquad-es": {"words": good, "hybrid": good}})
    assert is_good
    for bad in (good | {"ndcg": 0.9}, good | {"hit5": 0.98}):
        lines, is_good = quality.report({"xquad-es": {"words": good, "hybrid": bad}})
        assert not is_good
        assert "MISSED xquad-es" in lines[-1]
    assert not quality.report({"own": {"words": good}})[1]


def test_numbers_are_as_they_are_defined() -> None:
    found = quality._numbers(np.array([0, 1, 4, 10]), seed=1)
    assert math.isclose(found["ndcg"], (1 + 1 / math.log2(3) + 1 / math.log2(6)) / 4)
    assert math.isclose(found["mrr"], (1 + 1 / 2 + 1 / 5) / 4)
    assert (found["hit1"], found["hit5"]) == (0.25, 0.75)
    low, high = found["interval"]
    assert 0 <= low <= found["ndcg"] <= high <= 1


@pytest.mark.parametrize("what", ["quality", "speed"])
def test_a_folder_without_a_set_passes_no_gate(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        bench_retrieval.main([what, "--data", str(tmp_path)])
    assert ended.value.code == 2
    assert str(tmp_path) in capsys.readouterr().err
