"""A volunteer's first morning: files and feeds come in, a question is answered with its source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.cli import run

NOTE = """# El faro

El faro de Peñas se encendió por primera vez en 1852 y tuvo nueve fareros.

La lámpara gastaba cuarenta litros de aceite cada noche de invierno.
"""
OTHERS = {
    f"nota-{n}.md": f"# Nota {n}\n\nLa huerta número {n} dio tomates, pimientos y calabazas.\n"
    for n in range(24)
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node that searches by words alone; no model of vectors is needed."""
    monkeypatch.setenv("CONSCIENCE_EMBEDDER", "none")
    folder = tmp_path / "notas"
    folder.mkdir()
    for name, text in {"faro.md": NOTE, **OTHERS}.items():
        (folder / name).write_text(text, encoding="utf-8")
    return tmp_path / "node"


def test_what_was_taken_in_is_answered_from_with_its_source(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*words: str) -> str:
        assert run(["--home", str(home), *words]) == 0
        return capsys.readouterr().out

    folder = home.parent / "notas"
    assert "new=25" in command("ingest", "--path", str(folder))
    assert "same=25" in command("ingest", "--path", str(folder))
    stats = json.loads(command("rag", "stats", "--json"))
    assert (stats["documents"], stats["unread_bytes"], stats["is_complete"]) == (25, 0, True)
    found = json.loads(command("rag", "query", "¿Cuándo se encendió el faro?", "--json"))
    assert "1852" in found["passages"][0]["text"]

    ask = ("chat", "--once", "--json", "¿Cuándo se encendió el faro de Peñas por primera vez?")
    answer = json.loads(command(*ask))
    assert not answer["abstained"]
    assert "1852" in answer["answer"]
    assert answer["sources"][0]["title"] == "El faro"
    none = json.loads(command("chat", "--once", "--json", "¿Quién ganó el mundial de ajedrez?"))
    assert none["abstained"]

    (folder / "faro.md").write_text(NOTE.replace("1852", "1853"), encoding="utf-8")
    assert "changed=1" in command("ingest", "--path", str(folder))
    assert "1853" in json.loads(command(*ask))["answer"]
