"""From files to documents: columns, bad lines, duplicates, the held-out split, the day's subset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.dataset import Dataset, load_dataset
from client.rows import strip_html
from federation.errors import NoDataError, UsageError
from federation.model.documents import Document
from tests.tiny_model import qa_rows, text_rows, write_rows

DAY = "2026-01-31"


def load(path: Path, **options: object) -> Dataset:
    return load_dataset([path], day=DAY, **options)  # type: ignore[arg-type]


def all_of(data: Dataset) -> list[Document]:
    return [*data.train, *data.heldout]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": "Why?", "answer": "So."}, Document(question="Why?", answer="So.")),
        ({"instruction": "Say", "output": "Hi"}, Document(question="Say", answer="Hi")),
        ({"question": "Say", "response": "Hi"}, Document(question="Say", answer="Hi")),
        (
            {"instruction": "Add", "input": "1 and 2", "output": "3"},
            Document(question="Add\n1 and 2", answer="3"),
        ),
        ({"Question ": "Why?", "ANSWER": "So."}, Document(question="Why?", answer="So.")),
        ({"text": " A note. "}, Document(text="A note.")),
        ({"title": "Moon", "text": "It turns."}, Document(text="Moon\nIt turns.")),
        ({"title": "Moon", "summary": "Short"}, Document(text="Moon\nShort")),
        (
            {"title": "Moon &amp; sun", "summary": "Short", "content": "<p>Long <b>text</b></p>"},
            Document(text="Moon & sun\nLong text"),
        ),
        (
            {"title": "T", "content": [{"value": "<i>one</i>"}, {"value": "two"}]},
            Document(text="T\none\ntwo"),
        ),
        ({"title": "Only a title", "summary": None}, Document(text="Only a title")),
        (
            {"text": "x", "lang": "es", "field": "law", "id": 7},
            Document(text="x", lang="es", field="law", id="7"),
        ),
        (
            {"text": "y", "language": "en", "topic": "art"},
            Document(text="y", lang="en", field="art"),
        ),
        ({"title": "Only a title", "text": "Only a title"}, Document(text="Only a title")),
        ({"text": "half \ud800 pair"}, Document(text="half ? pair")),
    ],
)
def test_columns_are_recognised(row: dict[str, object], expected: Document, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert all_of(load(tmp_path / "a.jsonl")) == [expected]


def test_html_is_stripped_and_entities_are_read() -> None:
    fragment = "<p>One<br>two&nbsp;&lt;3</p><script>bad()</script><ul><li>a</li><li>b</li></ul>"
    assert strip_html(fragment) == "One\ntwo <3\na\nb"


def test_a_bad_line_is_named_and_skipped_but_not_fatal(tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    lines = [
        b"\xef\xbb\xbf" + json.dumps({"text": "good"}).encode(),
        b"{not json",
        b"",
        b'"a string"',
        b'{"text": "\xff"}',
        b'{"unknown": 1}',
        b'{"question": "Q", "answer": ""}',
        b'{"text": 5}',
        json.dumps({"text": "also good"}).encode(),
    ]
    path.write_bytes(b"\r\n".join(lines))
    data = load(path)
    assert [document.text for document in all_of(data)] == ["good", "also good"]
    assert [item.rpartition(": ")[0] for item in data.skipped] == [
        f"mixed.jsonl:{number}" for number in (2, 4, 5, 6, 7, 8)
    ]
    assert any("6 rows could not be read" in note for note in data.notes)


def test_when_every_line_is_bad_the_first_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("nonsense\nmore\n")
    with pytest.raises(NoDataError, match=r"a\.jsonl:1"):
        load(tmp_path / "a.jsonl")


def test_an_empty_file_is_nothing_to_train_on(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n\n")
    with pytest.raises(NoDataError):
        load(tmp_path / "a.jsonl")


def test_a_missing_file_and_an_unknown_task_are_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.jsonl"):
        load(tmp_path / "gone.jsonl")
    with pytest.raises(UsageError, match="poetry"):
        load(tmp_path / "gone.jsonl", task="poetry")


def test_auto_takes_both_kinds_and_says_how_many(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", qa_rows(12) + text_rows(8))
    data = load(path)
    assert data.task == "mixed"
    assert "12 question–answer pairs, 8 texts" in data.notes[0]


@pytest.mark.parametrize(("task", "is_qa"), [("qa", True), ("lm", False)])
def test_a_task_takes_its_own_kind_only(task: str, is_qa: bool, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", qa_rows(10) + text_rows(10))
    data = load(path, task=task)
    assert data.task == task
    assert len(all_of(data)) == 10
    assert all(document.is_qa == is_qa for document in all_of(data))
    assert any("10 rows left out" in note for note in data.notes)


def test_a_task_without_rows_points_to_auto(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", qa_rows(3))
    with pytest.raises(NoDataError, match="task lm") as caught:
        load(path, task="lm")
    assert "auto" in caught.value.hint


def test_exact_duplicates_are_dropped_also_across_files(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "a.jsonl", text_rows(10))
    second = write_rows(tmp_path / "b.jsonl", [row | {"id": "x"} for row in text_rows(12)])
    data = load_dataset([first, second], day=DAY)
    assert len(all_of(data)) == 12
    assert any("10 repeated rows" in note for note in data.notes)


def test_plain_text_is_cut_at_paragraphs(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {n}. " + "word " * 100 for n in range(12)]
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs))
    data = load(tmp_path / "book.txt")
    assert data.task == "lm"
    assert all(len(document.text) <= 2000 for document in all_of(data))
    joined = "".join(document.text for document in all_of(data))
    assert all(f"Paragraph {n}." in joined for n in range(12))


def test_about_a_tenth_is_held_out_and_shares_nothing_with_training(tmp_path: Path) -> None:
    data = load(write_rows(tmp_path / "a.jsonl", text_rows(400)))
    assert 20 <= len(data.heldout) <= 60
    assert not {d.digest for d in data.train} & {d.digest for d in data.heldout}


@pytest.mark.parametrize("count", range(1, 13))
def test_few_rows_hold_out_at_least_one_from_five_on(count: int, tmp_path: Path) -> None:
    data = load(write_rows(tmp_path / "a.jsonl", text_rows(count)))
    assert bool(data.heldout) == (count >= 5)
    assert data.train


def test_a_row_keeps_its_side_as_rows_come_and_go_and_days_pass(tmp_path: Path) -> None:
    rows = text_rows(300)
    before = load(write_rows(tmp_path / "a.jsonl", rows))
    after = load_dataset(
        [write_rows(tmp_path / "b.jsonl", text_rows(600)[::-1][:450])], day="2026-02-01"
    )
    known = {document.digest for document in all_of(after)}
    assert {d.digest for d in before.heldout} & known == {d.digest for d in after.heldout} & {
        d.digest for d in all_of(before)
    }


def test_a_split_written_in_the_row_is_honoured(tmp_path: Path) -> None:
    rows = [row | {"split": "heldout" if n % 2 else "train"} for n, row in enumerate(text_rows(40))]
    data = load(write_rows(tmp_path / "a.jsonl", rows))
    assert (len(data.train), len(data.heldout)) == (20, 20)
    assert all(int(document.text.split()[1][:-1]) % 2 for document in data.heldout)


@pytest.mark.privacy
def test_rows_marked_not_for_training_are_left_out(tmp_path: Path) -> None:
    rows = [row | {"train": n >= 3} for n, row in enumerate(text_rows(10))]
    data = load(write_rows(tmp_path / "a.jsonl", rows))
    assert len(all_of(data)) == 7
    assert any("3 rows left out: marked not for training" in note for note in data.notes)


def test_the_subset_differs_by_day_and_seed_but_not_by_call(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", qa_rows(60) + text_rows(10))

    def subset(day: str, seed: int) -> set[str]:
        data = load_dataset([path], day=day, seed=seed, qa_subset_size=12)
        assert sum(document.is_qa for document in data.train) == 12
        assert sum(not document.is_qa for document in data.train) >= 8
        return {document.digest for document in data.train}

    monday = subset("2026-01-05", 1)
    assert monday == subset("2026-01-05", 1)
    assert monday != subset("2026-01-06", 1)
    assert monday != subset("2026-01-05", 2)
    whole = load_dataset([path], day="2026-01-05")
    held = load_dataset([path], day="2026-01-06", qa_subset_size=12).heldout
    assert held == whole.heldout


def test_the_fingerprint_tells_training_from_held_out() -> None:
    one, two = Document(text="one"), Document(text="two")
    assert Dataset("lm", (one, two), ()).sha256 != Dataset("lm", (one,), (two,)).sha256


def corpus_row(name: str, text: str, **more: object) -> dict[str, object]:
    return {"_id": name, "format": 1, "title": "T", "text": text, "train": True} | more


def test_of_a_corpus_the_last_row_of_each_document_counts(tmp_path: Path) -> None:
    rows = [
        corpus_row("a", "first words"),
        corpus_row("b", "kept"),
        corpus_row("a", "other words"),
        corpus_row("c", "gone"),
        {"_id": "c", "deleted": True},
        corpus_row("d", "allowed"),
        corpus_row("d", "allowed", train=False),
    ]
    data = load(write_rows(tmp_path / "corpus.jsonl", rows))
    assert {document.text for document in all_of(data)} == {"T\nkept", "T\nother words"}
    assert data.skipped == ()
