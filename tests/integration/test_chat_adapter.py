"""A deploy under a running chat, with semilla itself: no answer is lost, and A/B says who wrote."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from client.adapters import AdapterStore
from client.chat_settings import SETTINGS
from client.config import load_federation
from federation.adapter.manifest import sha256_of
from federation.model import adapted
from federation.model.choose import SEMILLA, BaseChoice, identity
from federation.model.load import load_base
from tests.chat_bench import CONFIG, Bench, chat_of
from tests.global_samples import Chain, joined_home
from tests.tiny_model import make_tiny_llama, qa_rows, write_rows

ROOT = Path(__file__).parents[2]
WRITES = CONFIG.model_copy(update={"answer_style": "generative"})
ASKED = {"message": "¿Qué es la luna?", "rag": False}
LONG = {"temperature": 0, "max_new_tokens": 24, "repetition_penalty": 1.0}


class Deployed:
    """A running chat of a node that joined, and its operator."""

    def __init__(self, bench: Bench, chain: Chain) -> None:
        self.bench, self.chain = bench, chain

    def deploy(self, seed: int = 0, scale: float = 0.1) -> str:
        """Publish and install the next version as a sync does; the sha256 of its manifest."""
        store = AdapterStore(self.bench.home, load_federation(self.bench.home))
        draw = np.random.default_rng(seed)
        shapes = self.chain.spec.shapes
        arrays = {n: np.float32(draw.normal(size=s) * scale) for n, s in shapes.items()}
        held = store.held_version()
        store.install(self.chain.publish(arrays), self.chain.texts(held)[:-1])
        return sha256_of(self.chain.manifests[-1])

    @property
    def newest(self) -> str:
        """What an answer calls the version published last."""
        return f"global@v{len(self.chain.manifests) - 1}"

    def ask(self, **fields: Any) -> dict[str, Any]:
        """A whole answer that the model writes."""
        return self.bench.ask(**{**ASKED, "params": LONG, **fields})

    def model(self) -> dict[str, Any]:
        """What health says of it."""
        found: dict[str, Any] = self.bench.client.get("/api/health").json()["model"]
        return found


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """One chat for all tests, as one runs for weeks: each deploys what it needs."""
    loaded = load_base(BaseChoice("semilla", SEMILLA, None, identity(SEMILLA)), device="cpu")
    chain = Chain(adapted.spec_of(loaded, rank=2, alpha=4))
    home = joined_home(tmp_path_factory.mktemp("chat") / "node", chain)
    with chat_of(home.root, config=WRITES) as bench:
        yield Deployed(bench, chain)


def test_a_deploy_in_the_middle_of_an_answer_loses_nothing_and_the_next_one_is_new(
    node: Deployed,
) -> None:
    first = node.deploy()
    whole = node.ask()
    assert (whole["style"], whole["model"]["sha256"]) == ("generative", first)
    second, done = "", {}
    for name, data in node.bench.stream(**ASKED, params=LONG):
        if name == "token" and not second:
            second = node.deploy(seed=1)
            assert node.model()["adapter"] == node.newest  # taken up while the answer is written
        done = data
    assert (done["answer"], done["model"]["sha256"]) == (whole["answer"], first)
    after = node.ask()
    assert (after["model"]["adapter"], after["model"]["sha256"]) == (node.newest, second)
    assert after["answer"] != whole["answer"]
    model: Any = node.bench.chat.services.answers
    [name] = model._model._loaded.voices.names()  # the old one is gone
    assert name.startswith(f"{node.newest.removeprefix('global@')}-")


def test_an_adapter_that_cannot_speak_is_refused_and_the_old_one_answers(node: Deployed) -> None:
    node.deploy()
    before = node.ask()
    node.deploy(scale=1e25)
    after = node.ask()
    assert (after["answer"], after["model"]) == (before["answer"], before["model"])
    assert f"{node.newest} does not answer" in node.model()["refused"]


def test_the_base_answers_while_the_network_writes_and_each_says_its_own(node: Deployed) -> None:
    node.deploy(scale=0.5)  # it babbles on to the window's end
    alone = {who: node.ask(adapter=who)["answer"] for who in ("network", "base")}
    assert alone["network"] != alone["base"]
    long = {**ASKED, "params": {**LONG, "max_new_tokens": 900}}
    done: dict[str, Any] = {}
    other: dict[str, Any] = {}
    for name, data in node.bench.stream(**long):
        if name == "token" and not other:
            other = node.ask(adapter="base")
            running = next(iter(node.bench.chat.desk._jobs))
            assert node.bench.client.delete(f"/api/chat/{running}").status_code == 200
        if name == "done":
            done = data
    assert done["was_stopped"] is True  # so the other was answered in its midst
    assert (other["answer"], other["model"]["adapter"]) == (alone["base"], "")
    assert done["model"]["adapter"] == node.newest
    shared = max(1, min(len(done["answer"]), len(alone["network"])) - 20)  # but the cut ends
    assert done["answer"][:shared] == alone["network"][:shared]


def test_openai_names_the_network_and_the_base_and_says_which_wrote(node: Deployed) -> None:
    node.deploy()

    def listed() -> list[str]:
        return [row["id"] for row in node.bench.client.get("/v1/models").json()["data"]]

    def wrote(model: str) -> str:
        content = {
            "model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "hola"}]
        }  # fmt: skip
        answer = node.bench.client.post("/v1/chat/completions", json=content)
        return str(answer.json().get("model", answer.status_code))

    own = f"semilla+{node.newest}"
    names = [own, f"{own}+rag", "semilla-base", "semilla-base+rag"]
    assert listed() == names
    assert [wrote(name) for name in names] == names
    assert wrote("semilla") == own  # the bare name is the newest, whichever it is
    node.deploy()
    assert listed()[0] == wrote("semilla") == f"semilla+{node.newest}" != own
    assert wrote(own) == "404"
    content = {"model": "semilla-base", "stream": True, "max_tokens": 3,
               "messages": [{"role": "user", "content": "hola"}]}  # fmt: skip
    lines = node.bench.client.post("/v1/chat/completions", json=content).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert {chunk["model"] for chunk in chunks} == {"semilla-base"}


def test_the_settings_choose_a_kept_version_and_no_other_base(node: Deployed) -> None:
    shas = [node.deploy(), node.deploy()]
    client = node.bench.client
    put = client.put("/api/settings", json={"model": {"adapter_sha256": shas[0]}})
    assert put.status_code == 200
    assert node.ask()["model"]["sha256"] == shas[0]
    client.post("/api/settings/rollback", json={}).raise_for_status()
    assert node.ask()["model"]["sha256"] == shas[1]
    for wrong, said in (
        ({"adapter_sha256": "f" * 64}, "No adapter ffffffffffff is kept"),
        ({"base": "gpt-2"}, "is not this node's base model, which is 'semilla'"),
    ):
        refused = client.put("/api/settings", json={"model": wrong})
        assert refused.status_code == 422
        assert said in refused.json()["detail"]
    assert client.put("/api/settings", json={"model": {"base": "semilla"}}).status_code == 200
    path = node.bench.home.runs / SETTINGS
    content = {"schema": 1, "params": {"rag_top_k": 3}, "model": {"adapter_sha256": "f" * 64}}
    path.write_text(json.dumps(content), encoding="utf-8")
    held = client.get("/api/settings").json()
    assert (held["params"]["rag_top_k"], held["model"]["adapter_sha256"]) == (3, "")
    assert "No adapter ffffffffffff is kept" in held["problem"]
    assert node.ask()["model"]["sha256"] == shas[1]
    path.unlink()


def test_the_chat_answers_while_the_node_trains_at_low_priority(
    node: Deployed, tmp_path: Path
) -> None:
    node.deploy()
    model = make_tiny_llama(tmp_path / "tiny")
    data = write_rows(tmp_path / "qa.jsonl", qa_rows(60))
    home = tmp_path / "trains"
    settings = {"model": str(model), "device": "cpu", "epochs": 1000}
    home.mkdir()
    (home / "node_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (home / "node_config.json").chmod(0o600)
    command = [sys.executable, "-m", "client", "train", "--data", str(data), "--home", str(home)]
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    psutil.Process(child.pid).nice(19)
    try:
        while not list(home.glob("ai_runs/*/state.json")):
            assert child.poll() is None
            threading.Event().wait(0.05)
        answer = node.ask()
        assert child.poll() is None  # it was at it all the time
    finally:
        child.terminate()
        child.wait()
    assert answer["usage"]["answer_tokens"] > 0
    assert answer["model"]["adapter"] == node.newest
