"""A process that plays nodes trains as a node does, bit for bit, and gives the base back."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.batches import prepare, steps_per_epoch
from client.dataset import Dataset
from client.rows import to_document
from client.training import Session, Start, TrainingPlan, train
from client.virtual import VirtualNodes, batches, serve, starter
from federation.adapter.format import AdapterSpec, initial_arrays
from federation.adapter.tensors import Arrays, TensorFile, save_tensors
from federation.errors import ModelError, ProcessError, UsageError
from federation.frames import read_frame, write_frame
from federation.model.documents import Document
from federation.model.grounded import Ground
from server.compare.client_app import app
from server.compare.flower_nodes import FlowerNodes
from server.compare.in_process import InProcessGrid
from server.compare.language import FirstRounds, LanguageTask, split, spoilt
from server.compare.players import STAGE
from server.compare.workers import Worker
from strategies.compare.federate import federate
from strategies.compare.setting import Setting
from tests.adapter_samples import random_arrays
from tests.tiny_model import make_tiny_llama, text_rows, write_rows

pytestmark = pytest.mark.strategies
PLAN = TrainingPlan(learning_rate=0.01, batch_size=2, max_seq_len=32, seed=5)


class InProcess:
    """The one player, here, without messages (`players.Players`)."""

    def __init__(self, nodes: VirtualNodes, opened: dict[str, Any]) -> None:
        self.nodes, self.opened = nodes, opened

    def add_base(self, delta: bytes) -> None:
        self.nodes.answer({"do": "base"}, delta)

    def reset_base(self) -> None:
        self.nodes.answer({"do": "base"}, b"")

    def each(self, tasks: Any) -> Iterator[Any]:
        return (self.nodes.answer({"do": what, **values}, blob) for what, blob, values in tasks)


class CountingPool(InProcess):
    """Counts what is trained."""

    def __init__(self, pool: InProcess) -> None:
        super().__init__(pool.nodes, pool.opened)
        self.trained = 0

    def each(self, tasks: Any) -> Iterator[Any]:
        wanted = list(tasks)
        self.trained += sum(what == "train" for what, _, _ in wanted)
        return super().each(wanted)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def pool(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> InProcess:
    rows: list[dict[str, Any]] = text_rows(60)
    for number, row in enumerate(rows):
        row |= {"lang": ("es", "en")[number % 2], "field": f"field {number % 4}"}
    data = write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl", rows)
    nodes = VirtualNodes()
    opening = {"model": str(folder), "search": str(folder.parent), "rank": 4, "alpha": 8.0}
    opened, _ = nodes.answer({"do": "open", "data": [str(data)], **opening}, b"")
    return InProcess(nodes, opened)


@pytest.fixture
def spec(pool: InProcess) -> AdapterSpec:
    return AdapterSpec.from_json(pool.opened["spec"])


def documents(pool: InProcess, count: int = 12) -> list[Document]:
    return [Document(**each) for each in pool.opened["documents"]][:count]


def ask_to_train(pool: InProcess, start: Arrays, steps: int, trains: str = "AB") -> Arrays:
    plan = {"learning_rate": 0.01, "batch_size": 2, "max_seq_len": 32, "seed": 5}
    values = {"documents": [asdict(each) for each in documents(pool)], "plan": plan}
    values |= {"round": 1, "steps": steps, "trains": trains}
    _, blob = pool.nodes.answer({"do": "train", **values}, save_tensors(start))
    file = TensorFile.from_bytes(blob)
    return {name: np.array(file.array(name)) for name in file.names()}


def test_virtual_training_is_a_nodes_training_to_the_last_bit(
    pool: InProcess, spec: AdapterSpec, tmp_path: Path
) -> None:
    start = initial_arrays(spec, 1)
    chosen = tuple(documents(pool))
    loaded = pool.nodes._loaded
    steps = steps_per_epoch(prepare(loaded.tokenizer, chosen, 32), 2)
    plan = replace(PLAN, max_heldout=0)
    first = ask_to_train(pool, start, steps)
    ask_to_train(pool, random_arrays(spec, 2), 3, trains="B")  # another client, the same adapter
    again = ask_to_train(pool, start, steps)
    ours, record = train(
        loaded, Start(spec, start), Dataset("lm", chosen, ()), plan, Session(tmp_path)
    )
    assert record.steps == steps
    for theirs in (first, again, ask_to_train(pool, start, steps)):
        assert all((ours[name] == theirs[name]).all() for name in spec.shapes)


def test_a_frozen_factor_stays_and_the_other_learns(pool: InProcess, spec: AdapterSpec) -> None:
    start = random_arrays(spec, 3, 0.05)
    trained = ask_to_train(pool, start, 2, trains="B")
    for name, value in trained.items():
        assert (value == start[name]).all() == name.endswith("lora_A.weight")


def test_rounds_go_through_the_data_without_a_gap(pool: InProcess) -> None:
    corpus = prepare(pool.nodes._loaded.tokenizer, documents(pool), 32)

    def taken(skipped: int, steps: int) -> list[list[int]]:
        return [
            [int(token) for piece in step for token in piece.ids]
            for step in batches(corpus, PLAN, skipped, steps)
        ]

    whole = taken(0, 12)
    assert taken(0, 5) + taken(5, 4) + taken(9, 3) == whole
    assert len(whole) == 12


def test_a_delta_of_the_base_is_added_and_taken_back_to_the_last_bit(
    pool: InProcess, spec: AdapterSpec
) -> None:
    pool.reset_base()  # takes the last client's adapter off
    loaded = pool.nodes._loaded
    before = {n: p.detach().clone() for n, p in loaded.model.named_parameters()}
    ground, deltas = Ground(loaded), [random_arrays(spec, seed, 0.1) for seed in (1, 2)]
    for delta in deltas:
        ground.add(delta)
    module = spec.modules()[0]
    weight = f"{module.removeprefix('base_model.model.')}.weight"
    change = dict(loaded.model.named_parameters())[weight] - before[weight]
    a, b = module + ".lora_A.weight", module + ".lora_B.weight"
    assert np.allclose(change.detach().numpy(), sum(d[b] @ d[a] for d in deltas), atol=1e-5)
    ground.reset()
    assert all((p == before[n]).all() for n, p in loaded.model.named_parameters())


@pytest.mark.parametrize("strategy", ["flora", "fedsa"])
def test_a_cell_on_a_model_is_the_same_twice_and_learns(pool: InProcess, strategy: str) -> None:
    texts = split(documents(pool, 60))
    setting = Setting(
        task="tiny",
        strategy=strategy,
        partition="language",
        attack="flip:0.3",
        clients=2,
        rounds=2,
        steps=1,
        lr=0.01,
        coding="bf16",
        tokens=32,
    )
    found = []
    for _ in range(2):
        with LanguageTask(pool, texts, setting) as task:
            found.append(federate(task, setting).to_json() | {"seconds": None})
    assert found[0] == found[1]
    first, *_, last = found[0]["rounds"]
    assert last["loss"] < first["loss"]
    assert set(found[0]["facts"]) == {"base", "data", "order", "initial", "steps"}
    assert {part[:2] for part in last["parts"]} == {"es", "en"}


def test_clients_of_unequal_ranks_train_leading_rows_on_a_model(pool: InProcess) -> None:
    texts = split(documents(pool, 60))
    setting = Setting(task="tiny", strategy="flexlora", partition="iid", clients=2, rounds=2)
    setting = replace(setting, steps=1, ranks=(2, 4), coding="bf16", tokens=32)
    with LanguageTask(pool, texts, setting) as task:
        mixed = federate(task, setting).to_json()
    whole = replace(setting, ranks=())
    with LanguageTask(pool, texts, whole) as task:
        even = federate(task, whole).to_json()
    assert mixed["rounds"][-1]["up"] * 4 == even["rounds"][-1]["up"] * 3
    assert mixed["rounds"][-1]["loss"] < mixed["rounds"][0]["loss"]
    assert mixed["rounds"][-1]["loss"] != even["rounds"][-1]["loss"]


def test_arms_share_what_they_train_alike_in_their_first_round(pool: InProcess) -> None:
    texts, first = split(documents(pool, 60)), FirstRounds()
    setting = Setting(task="tiny", partition="iid", clients=3, rounds=2, steps=1, tokens=32)
    trained: list[int] = []
    records = {}
    for strategy in ("fedit", "flexlora", "ffa"):
        arm = replace(setting, strategy=strategy)
        counting = CountingPool(pool)
        with LanguageTask(counting, texts, arm, first) as task:
            records[strategy] = federate(task, arm).to_json()["rounds"]
        trained.append(counting.trained)
    assert trained == [6, 3, 6]  # flexlora begins as fedit does; ffa trains another factor
    again = replace(setting, strategy="flexlora")
    with LanguageTask(pool, texts, again) as task:
        assert federate(task, again).to_json()["rounds"] == records["flexlora"]


def test_held_out_texts_are_of_every_field_and_nobody_trains_on_them(pool: InProcess) -> None:
    texts = split(documents(pool, 60), most=8)
    assert not {each.digest for each in texts.train} & {each.digest for each in texts.held_out}
    assert len(texts.held_out) <= 8
    assert {each.lang for each in texts.held_out} == {"es", "en"}
    assert spoilt(Document(text="one two three", lang="en")).text == "three two one"


def test_the_texts_of_a_model_study_are_those_of_a_node_by_default() -> None:
    found = starter()
    assert len(found) > 200
    assert {each.lang for each in found} == {"es", "en"}
    assert to_document({"text": "x", "lang": "es"}).lang == "es"


def test_frames_are_read_as_they_were_written_and_damage_is_said() -> None:
    stream = io.BytesIO()
    write_frame(stream, {"do": "sí"}, b"abc")
    stream.seek(0)
    assert read_frame(stream) == ({"do": "sí"}, b"abc")
    assert read_frame(stream) is None
    for damaged in (stream.getvalue()[:-1], stream.getvalue()[:5], b"\xff" * 40):
        with pytest.raises(ProcessError):
            read_frame(io.BytesIO(damaged))


def test_a_known_error_is_an_answer_and_the_next_question_is_taken() -> None:
    asking, answering = io.BytesIO(), io.BytesIO()
    opening = {"model": "/none", "search": "/none", "rank": 4, "alpha": 8.0}
    for _ in range(2):
        write_frame(asking, {"do": "open", "data": ["/no/such.jsonl"], **opening})
    asking.seek(0)
    serve(asking, answering)
    answering.seek(0)
    answers = [read_frame(answering), read_frame(answering)]
    assert all(frame is not None and "error" in frame[0] for frame in answers)


def test_another_model_never_stands_in_for_one_that_is_not_there(tmp_path: Path) -> None:
    opening = {"do": "open", "model": "semila", "search": str(tmp_path), "rank": 4, "alpha": 8.0}
    with pytest.raises(ModelError, match="semila"):
        VirtualNodes().answer(opening | {"data": []}, b"")


def test_a_real_worker_measures_and_its_errors_come_over_the_pipe(
    pool: InProcess, folder: Path, spec: AdapterSpec, tmp_path: Path
) -> None:
    opening = {"model": str(folder), "search": str(tmp_path), "rank": 4, "alpha": 8.0}
    rows = [asdict(each) for each in documents(pool, 3)]
    blob = save_tensors(random_arrays(spec, 1, 0.1))
    real = Worker()
    try:
        with pytest.raises(UsageError, match="no file"):
            real.ask("open", **opening, data=[str(tmp_path / "none.jsonl")])
        opened, _ = real.ask("open", **opening, data=[])
        assert opened["spec"] == spec.to_json()
        there, _ = real.ask("measure", blob, documents=rows, max_tokens=32)
        ((here, _),) = pool.each([("measure", blob, {"documents": rows, "max_tokens": 32})])
        assert np.allclose(there["losses"], here["losses"], rtol=1e-6)
        real._process.kill()
        with pytest.raises(ProcessError, match="ended in the middle"):
            real.ask("base")
    finally:
        real.stop()


def test_nodes_of_real_workers_answer_in_order_and_a_dead_worker_is_begun_anew(
    pool: InProcess, folder: Path, spec: AdapterSpec, tmp_path: Path
) -> None:
    opening = {"model": str(folder), "search": str(tmp_path), "rank": 4, "alpha": 8.0, "data": []}
    rows = [asdict(each) for each in documents(pool, 6)]
    blob = save_tensors(random_arrays(spec, 1, 0.1))
    delta = save_tensors(random_arrays(spec, 2, 0.1))
    asked = [("measure", blob, {"documents": [row], "max_tokens": 32}) for row in rows]

    def losses(of: Any) -> list[Any]:
        return [content["losses"][0] for content, _ in of.each(asked)]

    with closing(STAGE), closing(InProcessGrid(app, 3, workers=2)) as grid:
        nodes = FlowerNodes(grid, grid.get_node_ids(), opening, at_once=2)
        assert nodes.opened["spec"] == spec.to_json()
        pool.reset_base()
        plain = losses(nodes)
        assert np.allclose(plain, losses(pool), rtol=1e-6)
        for players in (nodes, pool):
            players.add_base(delta)
        moved = losses(nodes)
        assert np.allclose(moved, losses(pool), rtol=1e-6)
        assert not np.allclose(moved, plain, rtol=1e-3)
        for player in STAGE._free:
            player._worker._process.kill()  # type: ignore[attr-defined]
        with pytest.raises(ProcessError, match="ended in the middle"):
            losses(nodes)
        assert losses(nodes) == moved
        processes = [player._worker._process for player in STAGE._free]  # type: ignore[attr-defined]
    assert len(processes) == 2
    assert all(process.poll() is not None for process in processes)
    pool.reset_base()
