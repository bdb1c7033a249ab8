"""`flower-client ingest --path`: files and folders come in, are updated, and go out again."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from client.cli import run
from client.config import NodeConfig, NodeHome, write_default
from federation.settings import save
from rag.corpus_rows import Removal, from_line
from rag.documents import Document
from tests.file_samples import docx, pdf

Ingest = Callable[..., dict[str, Any]]


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    """Of a node without an embedder: what is read is the subject, not its vectors."""
    made = NodeHome(tmp_path / "node")
    save(NodeConfig(embedder="none"), write_default(made))
    return made


@pytest.fixture
def ingest(home: NodeHome, capsys: pytest.CaptureFixture[str]) -> Ingest:
    def go(*paths: Path | str, options: tuple[str, ...] = ()) -> dict[str, Any]:
        named = [word for path in paths for word in ("--path", str(path))]
        code = run(["--home", str(home.root), "ingest", "--json", *named, *options])
        answer: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return answer | {"exit": code}

    return go


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One file of each kind, and some that are none of ours."""
    place = tmp_path / "notes"
    (place / "deep" / "er").mkdir(parents=True)
    (place / ".hidden").mkdir()
    (place / "a.txt").write_text("El río se seca.\n\nY los peces también.", encoding="utf-8")
    (place / "b.md").write_text("# The river\n\nIt runs dry.", encoding="utf-8")
    page = "<html><title>Page</title><nav>menu</nav><main><p>Words.</p><script>x</script></main>"
    (place / "deep" / "c.html").write_text(page, encoding="utf-8")
    (place / "deep" / "er" / "d.pdf").write_bytes(pdf("Words of a PDF page"))
    (place / "e.docx").write_bytes(docx("Words of a letter", "Second paragraph"))
    rows = [{"_id": "r1", "title": "One", "text": "First row"}, {"question": "Q?", "answer": "A."}]
    (place / "f.jsonl").write_text("\n".join([*map(json.dumps, rows), "not json", "[]", ""]))
    (place / "g.png").write_bytes(b"\x89PNG")
    (place / ".hidden" / "h.txt").write_text("hidden")
    return place


def documents(home: NodeHome) -> dict[str, Document]:
    held: dict[str, Document] = {}
    for line in home.corpus.read_text().splitlines():
        entry = from_line(line)
        if isinstance(entry, Removal):
            held.pop(entry.id)
        else:
            held[entry.id] = entry
    return held


def counts(answer: dict[str, Any]) -> tuple[int, ...]:
    return tuple(answer[name] for name in ("new", "changed", "same", "removed", "failed"))


def test_each_kind_of_file_comes_in_once(home: NodeHome, ingest: Ingest, folder: Path) -> None:
    assert counts(ingest(folder)) == (7, 0, 0, 0, 0)
    assert counts(ingest(folder)) == (0, 0, 7, 0, 0)
    found = {each.title: each for each in documents(home).values()}
    assert found["a"].text == "El río se seca.\n\nY los peces también."
    assert found["a"].language == "es"
    assert found["The river"].text.startswith("# The river")
    assert found["Page"].text == "Words."
    assert "Words of a PDF page" in found["d"].text
    assert found["e"].text == "Words of a letter\n\nSecond paragraph"
    assert found["One"].text == "First row"
    assert found["Q?"].text == "A."
    for each in found.values():
        assert each.kind == "file"
        assert each.source == str(folder / Path(each.source).relative_to(folder))
        assert not each.is_for_training


def test_a_file_that_changed_is_a_new_revision_and_one_that_went_is_taken_out(
    home: NodeHome, ingest: Ingest, folder: Path
) -> None:
    ingest(folder)
    (folder / "a.txt").write_text("Other words.")
    (folder / "b.md").unlink()
    (folder / "f.jsonl").write_text(json.dumps({"_id": "r1", "title": "One", "text": "First row"}))
    assert counts(ingest(folder)) == (0, 1, 4, 2, 0)
    titles = {each.title: each for each in documents(home).values()}
    assert (titles["a"].revision, titles["a"].text) == (2, "Other words.")
    assert "The river" not in titles
    assert "Q?" not in titles


def test_a_folder_or_file_that_went_takes_its_documents_along(
    home: NodeHome, ingest: Ingest, folder: Path
) -> None:
    ingest(folder)
    (folder / "deep" / "c.html").unlink()
    assert counts(ingest(folder / "deep" / "c.html")) == (0, 0, 0, 1, 0)
    folder.rename(folder.with_name("elsewhere"))
    assert counts(ingest(folder)) == (0, 0, 0, 6, 0)
    assert documents(home) == {}
    assert ingest(folder)["exit"] == 2


def test_another_path_is_left_alone(home: NodeHome, ingest: Ingest, folder: Path) -> None:
    ingest(folder)
    near = folder.with_name("notes2")
    near.mkdir()
    (near / "x.txt").write_text("x y z")
    ingest(near)
    (near / "x.txt").unlink()
    assert counts(ingest(near)) == (0, 0, 0, 1, 0)
    assert len(documents(home)) == 7


def test_the_model_may_learn_from_files_only_if_their_owner_says_so(
    home: NodeHome, ingest: Ingest, folder: Path
) -> None:
    ingest(folder)
    assert counts(ingest(folder, options=("--train",))) == (0, 0, 7, 0, 0)
    assert all(each.is_for_training for each in documents(home).values())
    ingest(folder)
    assert not any(each.is_for_training for each in documents(home).values())
    assert {each.revision for each in documents(home).values()} == {1}


def test_a_file_that_fails_now_keeps_what_it_brought(
    home: NodeHome, ingest: Ingest, folder: Path
) -> None:
    ingest(folder)
    (folder / "deep" / "er" / "d.pdf").write_bytes(b"%PDF-1.7 rubbish")
    answer = ingest(folder)
    assert counts(answer) == (0, 0, 6, 0, 1)
    assert answer["exit"] == 0
    assert len(documents(home)) == 7


def bomb() -> bytes:
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b" " * 250_000_000)
    return packed.getvalue()


@pytest.mark.security
@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.pdf", b"%PDF-1.4\n%%EOF", "PDF is damaged"),
        ("a.pdf", b"no PDF at all", "not what its name says"),
        ("a.docx", b"PK\x03\x04" + bytes(100), "Word"),
        ("a.docx", b"plain text", "not what its name says"),
        ("a.txt", b"MZ\x90\x00\x03" + bytes(100), "not what its name says"),
        ("a.txt", b"  \n ", "no text"),
        ("a.html", b"<script>only()</script>", "no text"),
        ("a.jsonl", b"{}\n[]\nnull\n", "no text"),
        ("a.pdf", pdf(""), "no text"),
    ],
)
def test_h23_hostile_and_empty_files_are_named(
    ingest: Ingest, tmp_path: Path, name: str, content: bytes, why: str
) -> None:
    (tmp_path / name).write_bytes(content)
    answer = ingest(tmp_path / name)
    assert counts(answer) == (0, 0, 0, 0, 1)
    assert why in answer["sources"][0]["why"]
    assert answer["exit"] == 1


@pytest.mark.security
def test_a_packed_bomb_is_named(ingest: Ingest, tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(bomb())
    assert "too large" in ingest(tmp_path / "a.docx")["sources"][0]["why"]


def test_a_file_that_is_too_large_or_closed_is_named(
    ingest: Ingest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag.ingest.all_files.MAX_FILE_BYTES", 10)
    answer = ingest(folder / "b.md")
    assert "larger than" in answer["sources"][0]["why"]


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_is_no_text_is_no_trouble(ingest: Ingest, folder: Path) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.txt"))).write_text("words")
    assert counts(ingest(folder)) == (8, 0, 0, 0, 0)
    assert counts(ingest(folder)) == (0, 0, 8, 0, 0)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "windows-1252"])
def test_a_text_of_any_usual_encoding_is_read(
    home: NodeHome, ingest: Ingest, tmp_path: Path, encoding: str
) -> None:
    (tmp_path / "a.txt").write_text("El ñandú corrió.", encoding=encoding)
    ingest(tmp_path / "a.txt")
    (document,) = documents(home).values()
    assert document.text == "El ñandú corrió."


def test_a_long_file_without_empty_lines_is_read_to_its_end(
    home: NodeHome, ingest: Ingest, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("a line of words\n" * 20_000 + "the end")
    (tmp_path / "b.html").write_text("<html><p>" + "a line of words " * 20_000 + "the end</html>")
    ingest(tmp_path / "a.txt", tmp_path / "b.html")
    assert all(each.text.endswith("the end") for each in documents(home).values())
