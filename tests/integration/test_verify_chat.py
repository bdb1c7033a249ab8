"""The morning's checks as commands, with semilla itself and adapters that are good and broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from client.adapters import AdapterStore
from client.cli import run
from client.config import NodeHome, load_federation
from client.verification import HISTORY, LATEST
from federation.adapter.format import AdapterSpec
from federation.model import adapted
from federation.model.choose import SEMILLA, BaseChoice, identity
from federation.model.load import load_base
from tests.chat_bench import CONFIG, chat_of
from tests.global_samples import Chain, joined_home

GOOD, BROKEN = 0.02, 0.3  # of random weights: nearly nothing, and a ruin that still babbles


@pytest.fixture(autouse=True)
def _words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSCIENCE_EMBEDDER", "none")
    monkeypatch.setenv("CONSCIENCE_DEVICE", "cpu")
    monkeypatch.setenv("CONSCIENCE_MODEL", "semilla")


@pytest.fixture(scope="module")
def spec() -> AdapterSpec:
    loaded = load_base(BaseChoice("semilla", SEMILLA, None, identity(SEMILLA)), device="cpu")
    return adapted.spec_of(loaded, rank=2, alpha=4)


def deploy(home: NodeHome, chain: Chain, scale: float) -> None:
    draw = np.random.default_rng(3)
    shapes = chain.spec.shapes
    arrays = {n: np.float32(draw.normal(size=s) * scale) for n, s in shapes.items()}
    store = AdapterStore(home, load_federation(home))
    held = store.held_version()
    store.install(chain.publish(arrays), chain.texts(held)[:-1])


def test_r84_a_broken_adapter_is_put_back_one_step_and_the_running_chat_follows(
    tmp_path: Path, spec: AdapterSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    chain = Chain(spec)
    home = joined_home(tmp_path / "node", chain)

    def verify() -> tuple[int, dict[str, object]]:
        code = run(["--home", str(home.root), "verify-chat", "--json"])
        found: dict[str, object] = json.loads(capsys.readouterr().out)
        assert json.loads((home.runs / LATEST).read_text(encoding="utf-8")) == found
        return code, found

    deploy(home, chain, GOOD)
    code, found = verify()
    assert (code, found["passed"], found["refused"]) == (0, True, "")
    with chat_of(home.root, config=CONFIG) as bench:
        writes = {"model": "semilla", "max_tokens": 4,
                  "messages": [{"role": "user", "content": "hola"}]}  # fmt: skip

        def wrote() -> str:
            return str(bench.client.post("/v1/chat/completions", json=writes).json()["model"])

        assert wrote() == "semilla+global@v0"
        deploy(home, chain, BROKEN)
        assert wrote() == "semilla+global@v1"  # it babbles: its first words are no proof
        code, found = verify()
        assert (code, found["refused"]) == (1, "global@v1")
        assert "goes back from global@v1 to global@v0" in str(found["note"])
        assert wrote() == "semilla+global@v0"
        refused = bench.client.get("/api/health").json()["model"]["refused"]
        assert "likelihood: finds right answers unlikely" in refused
    assert AdapterStore(home, load_federation(home)).held_version() == 1
    assert len((home.runs / HISTORY).read_text(encoding="utf-8").splitlines()) == 2


def test_verify_chat_shows_a_table_and_asks_no_adapter_where_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["--home", str(tmp_path / "node"), "verify-chat"]) == 0
    shown = capsys.readouterr().out
    assert "es-13" in shown
    assert "30 of 30 passed with semilla" in shown


def note(n: int) -> str:
    return f"# La huerta comunal número {n}\n\nLa huerta comunal número {n} dio {n} kilos de uva."


def test_r38_smoke_asks_about_the_nodes_own_texts_and_fails_where_they_are_not_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = NodeHome(tmp_path / "node")
    folder = tmp_path / "notas"
    folder.mkdir()

    def smoke() -> tuple[int, str]:
        code = run(["--home", str(home.root), "smoke"])
        return code, capsys.readouterr().out

    assert smoke() == (1, "")
    (folder / "a.md").write_text(note(1), encoding="utf-8")
    assert run(["--home", str(home.root), "ingest", "--path", str(folder)]) == 0
    capsys.readouterr()
    code, shown = smoke()
    assert code == 0
    assert "3/3 answered, 3/3 cite a source, 3/3 find it" in shown
    assert "the shipped ones were asked about" in shown
    (folder / "a.md").unlink()
    for n in range(101, 171):
        (folder / f"{n}.md").write_text(note(n), encoding="utf-8")
    assert run(["--home", str(home.root), "ingest", "--path", str(folder)]) == 0
    capsys.readouterr()
    code, shown = smoke()
    assert shown.count("La huerta comunal número 1") == 6  # three questions, three sources
    assert "shipped" not in shown
    assert code == 0
    never = {**json.loads(home.refusal.read_text(encoding="utf-8")), "intercept": -90.0}
    home.refusal.write_text(json.dumps(never), encoding="utf-8")
    code, shown = smoke()
    assert (code, "0/3 answered" in shown) == (1, True)
