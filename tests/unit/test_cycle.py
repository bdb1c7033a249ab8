"""The node's day with a tiny real model: train, package, hand in, each once."""

from __future__ import annotations

import json
import shutil
import sys
from datetime import date
from pathlib import Path

import pytest

from client import cycle, keys, packaging
from client.adapters import AdapterStore
from client.cli import run
from client.config import NodeConfig, NodeHome, load_federation
from client.outbox import Entry, open_outbox
from client.record import latest_run
from client.sharing import SharingSettings
from client.training_plan import Progress
from federation import durable, settings
from federation.adapter.delta import decode_tensor
from federation.adapter.format import AdapterSpec
from federation.adapter.instructions import Instructions
from federation.adapter.package import open_package
from federation.adapter.parts import at_rank, only
from federation.errors import (
    BaseMismatchError,
    ConfigError,
    ConscienceError,
    NoDataError,
    TrainingError,
    UsageError,
)
from federation.protocol import Verdict
from tests.global_samples import Chain, make_federation
from tests.tiny_model import make_tiny_llama, text_rows, write_rows

CONFIG = NodeConfig(
    data=("datasets/notes.jsonl",), max_seq_len=64, epochs=1, learning_rate=1e-2, device="cpu"
)
MONDAY, TUESDAY = date(2026, 1, 5), date(2026, 1, 6)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def chain(base: Path) -> Chain:
    from federation.model.adapted import spec_of
    from federation.model.load import open_base

    loaded = open_base(str(base), search=base.parent, device="cpu")
    made = Chain(spec_of(loaded, rank=2, alpha=4.0))
    made.publish()
    return made


@pytest.fixture
def home(tmp_path: Path, base: Path, chain: Chain) -> NodeHome:
    """A node that joined, holds v0 and has texts."""
    home = NodeHome(tmp_path / "node")
    shutil.copytree(base, home.models / "tiny")
    node = keys.load_or_create(home.keys).node
    settings.save(make_federation(chain.spec, chain.key.public_hex, node=node), home.federation)
    AdapterStore(home, load_federation(home)).install(chain.packages[0])
    write_rows(durable.make_folder(home.datasets) / "notes.jsonl", text_rows(24))
    settings.save(CONFIG, home.config)
    return home


def contribute(home: NodeHome, *, today: date = MONDAY) -> Entry | None:
    return cycle.contribute(home, CONFIG, today=lambda: today)


def entries(home: NodeHome) -> list[Entry]:
    with open_outbox(home, CONFIG) as outbox:
        return outbox.entries()


def package_of(home: NodeHome, entry: Entry) -> bytes:
    with open_outbox(home, CONFIG) as outbox:
        return outbox.read(entry.sha256)


def test_a_contribution_waits_in_the_outbox_and_the_run_is_recorded(
    home: NodeHome, chain: Chain
) -> None:
    told: list[Progress] = []
    entry = cycle.contribute(home, CONFIG, report=told.append, today=lambda: MONDAY)
    assert entry is not None
    assert (entry.state, entry.global_version) == ("waiting", 0)
    packaging.verify(package_of(home, entry), chain.spec)
    record = latest_run(home.runs).record()
    assert (record["day"], record["joined"], record["base"]) == ("2026-01-05", True, "tiny")
    assert record["training"]["start_version"] == 0
    assert record["training"]["examples"] == entry.examples > 0
    assert record["training"]["settings"]["learning_rate"] == CONFIG.learning_rate
    assert any(progress.steps for progress in told)


def test_the_same_day_data_and_adapter_make_one_package(home: NodeHome) -> None:
    assert contribute(home) is not None
    assert contribute(home) is None
    assert len(entries(home)) == 1


def test_another_day_other_data_or_a_new_adapter_make_another_package(
    home: NodeHome, chain: Chain
) -> None:
    assert contribute(home) is not None
    assert contribute(home, today=TUESDAY) is not None
    write_rows(home.datasets / "notes.jsonl", text_rows(25))
    assert contribute(home, today=TUESDAY) is not None
    newer = Chain(chain.spec, chain.key)
    newer.publish()
    package = newer.publish()
    AdapterStore(home, load_federation(home)).install(package)
    entry = contribute(home, today=TUESDAY)
    assert entry is not None
    assert entry.global_version == 1
    assert len(entries(home)) == 4


def test_a_run_killed_before_the_hand_in_hands_in_the_same_package(home: NodeHome) -> None:
    entry = contribute(home)
    assert entry is not None
    # As it stood on disk after the package was kept and before the outbox had it.
    folder = latest_run(home.runs)
    folder.package.write_bytes(package_of(home, entry))
    folder.feedback.write_bytes((home.outbox / f"{entry.sha256}.feedback").read_bytes())
    folder.advance("packaged")
    for path in home.outbox.iterdir():
        path.unlink()
    again = contribute(home)
    assert again is not None
    assert again.sha256 == entry.sha256
    # And after the outbox had it, before the run was marked as done.
    folder.package.write_bytes(package_of(home, entry))
    folder.feedback.write_bytes(b"")
    folder.advance("packaged")
    contribute(home)
    assert [known.sha256 for known in entries(home)] == [entry.sha256]
    assert not folder.package.exists()


def test_a_run_killed_after_training_is_not_trained_again(home: NodeHome) -> None:
    folder = cycle.train_cycle(home, CONFIG, today=lambda: MONDAY)
    before = folder.record()["training"]
    entry = contribute(home)
    assert entry is not None
    assert folder.record()["training"] == before
    assert (folder.step, entry.examples) == ("done", before["examples"])


def test_a_run_killed_in_training_is_finished(home: NodeHome) -> None:
    folder = cycle.train_cycle(home, CONFIG, today=lambda: MONDAY)
    shutil.rmtree(folder.adapter)
    folder.advance("training")
    assert contribute(home) is not None
    assert folder.step == "done"


def test_a_damaged_adapter_of_an_earlier_attempt_is_trained_again(home: NodeHome) -> None:
    folder = cycle.train_cycle(home, CONFIG, today=lambda: MONDAY)
    (folder.adapter / "adapter_model.safetensors").write_bytes(b"half")
    assert contribute(home) is not None


def test_training_once_more_leaves_the_contribution_alone(home: NodeHome) -> None:
    assert contribute(home) is not None
    folder = cycle.train_cycle(home, CONFIG, today=lambda: MONDAY)
    assert folder.path.name.endswith("-2")
    assert contribute(home) is None


def test_the_package_that_was_shown_is_the_one_that_is_handed_in(home: NodeHome) -> None:
    with pytest.raises(ConscienceError, match="Nothing was trained today"):
        cycle.package_today(home, CONFIG, today=lambda: MONDAY)
    cycle.train_cycle(home, CONFIG, today=lambda: MONDAY)
    shown = cycle.package_today(home, CONFIG, today=lambda: MONDAY).read_bytes()
    assert cycle.package_today(home, CONFIG, today=lambda: MONDAY).read_bytes() == shown
    entry = contribute(home)
    assert entry is not None
    assert package_of(home, entry) == shown
    assert cycle.package_today(home, CONFIG, today=lambda: MONDAY).read_bytes() == shown


def test_two_at_once_are_one(home: NodeHome) -> None:
    with (
        durable.locked(home.train_lock),
        pytest.raises(ConscienceError, match="already running"),
    ):
        contribute(home)


def test_without_data_there_is_nothing_to_contribute(
    home: NodeHome, capsys: pytest.CaptureFixture[str]
) -> None:
    (home.datasets / "notes.jsonl").unlink()
    default = NodeConfig()
    with pytest.raises(NoDataError):
        cycle.contribute(home, default)
    settings.save(default, home.config)
    assert run(["contribute", "--json", "--home", str(home.root)]) == 0
    assert json.loads(capsys.readouterr().out)["package"] is None
    assert run(["contribute", "--home", str(home.root)]) == 0
    assert "Nothing to contribute" in capsys.readouterr().out


def test_a_file_that_was_asked_for_and_does_not_exist_is_an_error(home: NodeHome) -> None:
    (home.datasets / "notes.jsonl").unlink()
    with pytest.raises(UsageError, match=r"notes\.jsonl"):
        contribute(home)


def test_without_a_global_adapter_training_says_what_to_do(home: NodeHome) -> None:
    shutil.rmtree(home.models / "global")
    (home.models / "current").unlink()
    with pytest.raises(TrainingError, match="No global adapter") as caught:
        contribute(home)
    assert "flower-client run" in caught.value.hint


def test_a_base_model_that_changed_is_refused(home: NodeHome) -> None:
    config = json.loads((home.models / "tiny" / "config.json").read_text())
    (home.models / "tiny" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    with pytest.raises(BaseMismatchError, match="tiny"):
        contribute(home)


def test_a_node_that_has_not_joined_trains_for_itself_but_contributes_nothing(
    home: NodeHome,
) -> None:
    home.federation.unlink()
    lone = CONFIG.model_copy(update={"model": "tiny"})
    record = cycle.train_cycle(home, lone, today=lambda: MONDAY).record()
    assert (record["joined"], record["base"]) == (False, "tiny")
    assert record["training"]["steps"] > 0
    with pytest.raises(ConfigError, match="has not joined"):
        contribute(home)


def test_the_current_adapter_is_measured_on_held_out_texts(home: NodeHome) -> None:
    loss, documents = cycle.evaluate_current(home, CONFIG, today=lambda: MONDAY)
    training = cycle.train_cycle(home, CONFIG, today=lambda: MONDAY).record()["training"]
    assert documents == training["heldout"] > 0
    assert loss == pytest.approx(training["loss_before"], rel=1e-4)


def test_a_node_that_holds_nothing_out_measures_nothing_and_loads_nothing_for_it(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row | {"split": "train"} for row in text_rows(12)]
    write_rows(home.datasets / "notes.jsonl", rows)
    monkeypatch.setitem(sys.modules, "federation.model.loss", None)  # its import would fail
    assert cycle.evaluate_current(home, CONFIG, today=lambda: MONDAY) == (None, 0)


def test_packages_that_waited_too_long_expire(home: NodeHome) -> None:
    first = contribute(home)
    assert first is not None
    hasty = CONFIG.model_copy(update={"max_package_age_days": 1e-9})
    assert cycle.contribute(home, hasty, today=lambda: TUESDAY) is not None
    states = {entry.sha256: entry.state for entry in entries(home)}
    assert states.pop(first.sha256) == "expired"
    assert list(states.values()) == ["waiting"]


def test_what_int8_loses_is_carried_into_the_next_package(home: NodeHome) -> None:
    coarse = CONFIG.model_copy(update={"coding": "int8"})
    entry = cycle.contribute(home, coarse, today=lambda: MONDAY)
    assert entry is not None
    with open_outbox(home, CONFIG) as outbox:
        spec = AdapterSpec.from_json(load_federation(home).spec)
        assert packaging.load_feedback(outbox.feedback_for_next(), spec) is not None
        outbox.settle(entry.sha256, Verdict(sha256=entry.sha256, state="merged", version=1))


def test_the_commands_end_to_end(home: NodeHome, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--home", str(home.root), "--json"]

    def ask(*command: str) -> dict[str, object]:
        assert run([*command, *at]) == 0
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        content = json.loads(out)
        assert isinstance(content, dict)
        return content

    trained = ask("train", "--max-minutes", "1", "--task", "lm")
    assert trained["joined"] is True
    explained = ask("package", "--explain", "--verify")
    package = Path(str(explained["package"]))
    parts = explained["parts"]
    assert isinstance(parts, list)
    assert sum(part["size_bytes"] for part in parts) == package.stat().st_size
    handed_in = str(ask("contribute", "--task", "lm")["package"])
    (listed,) = ask("outbox", "list")["packages"]  # type: ignore[misc]
    assert listed["sha256"] == handed_in  # type: ignore[index]
    assert ask("outbox", "show", handed_in[:8])["state"] == "waiting"
    status = ask("status")
    assert (status["global_version"], status["outbox"]) == (0, {"waiting": 1})
    assert ask("outbox", "drop", handed_in[:8])["state"] == "expired"
    assert run(["outbox", "show", "zz", *at]) == 2
    capsys.readouterr()
    assert ask("doctor", "--model")["ok"] is True


def told(home: NodeHome, chain: Chain, asks: Instructions) -> Chain:
    """The node holds a version 1 that asks for this."""
    later = Chain(chain.spec, chain.key)
    later.manifests, later.packages = list(chain.manifests[:1]), list(chain.packages[:1])
    later.publish(asks=asks)
    AdapterStore(home, load_federation(home)).install(later.packages[1], later.texts(0))
    return later


def sent(home: NodeHome, config: NodeConfig, today: date = MONDAY) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the package of a contribution."""
    entry = cycle.contribute(home, config, today=lambda: today)
    assert entry is not None
    data = package_of(home, entry)
    tensors = open_package(data, max_bytes=len(data)).tensors
    return {name: tensors.shape(name) for name in tensors.names()}


def test_a_node_sends_the_factor_that_its_version_asks_for(home: NodeHome, chain: Chain) -> None:
    told(home, chain, Instructions(trains="B"))
    assert sent(home, CONFIG) == only(chain.spec.shapes, "B")


def test_what_a_node_keeps_at_home_is_what_it_goes_on_with_and_chats_with(
    home: NodeHome, chain: Chain
) -> None:
    told(home, chain, Instructions(sends="A"))
    store = AdapterStore(home, load_federation(home))
    assert sent(home, CONFIG) == only(chain.spec.shapes, "A")
    trained, current = latest_run(home.runs).load_adapter(), store.current()
    assert trained is not None
    assert current is not None
    for name in only(chain.spec.shapes, "B"):
        assert (current.arrays[name] == trained[name]).all()
        assert current.arrays[name].any()
    own = home.own_factor
    own.write_bytes(own.read_bytes()[:-8])
    damaged = store.current()
    assert damaged is not None
    assert not any(damaged.arrays[name].any() for name in only(chain.spec.shapes, "B"))


def test_max_rank_is_kept_where_the_rule_allows_it_and_said_where_not(
    home: NodeHome, chain: Chain
) -> None:
    small = CONFIG.model_copy(update={"sharing": SharingSettings(max_rank=1)})
    with pytest.raises(ConfigError, match="less than rank 2"):
        cycle.contribute(home, small, today=lambda: MONDAY)
    told(home, chain, Instructions(any_rank=True))
    assert sent(home, small) == at_rank(chain.spec, 1).shapes
    wide = CONFIG.model_copy(update={"sharing": SharingSettings(max_rank=64)})
    assert sent(home, wide) == chain.spec.shapes


@pytest.mark.privacy
def test_noise_that_the_owner_wants_is_on_what_leaves_and_the_owner_hears_what_it_is_worth(
    home: NodeHome, chain: Chain
) -> None:
    said: list[str] = []
    sharing = SharingSettings(clip_norm=10.0, noise_multiplier=1.0)
    blurred = CONFIG.model_copy(update={"sharing": sharing})
    entry = cycle.contribute(
        home, blurred, report=lambda progress: said.append(progress.note), today=lambda: MONDAY
    )
    assert entry is not None
    data = package_of(home, entry)
    tensors = open_package(data, max_bytes=len(data)).tensors
    for name in chain.spec.shapes:
        assert decode_tensor(tensors, name, "bf16").std() > 5.0  # training alone moves by 0.01
    assert any("epsilon" in note for note in said)
