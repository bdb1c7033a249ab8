"""`init` on a tiny real model: complete, repeatable, and able to go on after an interruption."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from federation.adapter.instructions import Terms
from federation.adapter.signing import SigningKey
from federation.errors import ConfigError, ModelError
from server.config import ServerConfig, ServerHome, load_config, new_config
from server.gate import GateRunner, add_documents, load_documents, open_base_of
from server.registry import Registry
from server.starting import init, require_ready
from server.validation import validate


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny_model import make_tiny_llama

    return make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def wanted(base: Path) -> ServerConfig:
    return new_config({"model": str(base), "rank": 2})


def test_init_makes_a_server_that_may_start(tmp_path: Path, wanted: ServerConfig) -> None:
    home = ServerHome(tmp_path / "server")
    start = init(home, wanted)
    assert (start.is_new, start.current) == (True, 0)
    config = require_ready(home)
    assert config.gateway_port > 0
    assert config.superlink_port > 0
    assert (config.rank, config.alpha) == (2, 4.0)
    key = SigningKey.load(home.signing_key)
    registry = Registry(home.registry, None, key.public_hex)
    registry.verify()
    assert registry.spec == start.spec
    zero = registry.arrays(0)
    assert all(not zero[name].any() for name in zero if name.endswith("lora_B.weight"))


def test_init_again_changes_nothing(tmp_path: Path, wanted: ServerConfig) -> None:
    home = ServerHome(tmp_path / "server")
    init(home, wanted)
    before = {p: p.read_bytes() for p in home.root.rglob("*") if p.is_file()}
    again = init(home, new_config({"model": "nowhere", "rank": 64}))
    assert (again.is_new, again.config.rank) == (False, 2)
    after = {p: p.read_bytes() for p in home.root.rglob("*") if p.is_file()}
    assert after == before


def test_an_interrupted_init_goes_on_with_the_same_keys_and_ports(
    tmp_path: Path, wanted: ServerConfig
) -> None:
    home = ServerHome(tmp_path / "server")
    init(home, wanted)
    kept = (home.signing_key.read_bytes(), load_config(home))
    for path in (home.registry / "v0").iterdir():
        path.unlink()
    (home.registry / "v0").rmdir()
    (home.registry / "current").unlink()
    assert init(home, new_config({"model": "nowhere"})).is_new
    assert (home.signing_key.read_bytes(), load_config(home)) == kept


def test_a_base_named_from_the_working_folder_is_kept_by_its_whole_path(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(base.parent)
    start = init(ServerHome(tmp_path / "server"), new_config({"model": base.name, "rank": 2}))
    assert start.config.model == str(base)


def test_a_base_in_the_settings_lies_in_the_servers_home_wherever_a_command_is_run(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = ServerHome(tmp_path / "server")
    shutil.copytree(base, home.models / base.name)
    (tmp_path / base.name).mkdir()
    monkeypatch.chdir(tmp_path)
    choice = open_base_of(home, new_config({"model": base.name})).choice
    assert choice.path == home.models / base.name


def test_a_base_that_does_not_load_is_named_and_not_replaced(tmp_path: Path) -> None:
    home = ServerHome(tmp_path / "server")
    with pytest.raises(ModelError, match="nowhere"):
        init(home, new_config({"model": "nowhere"}))
    assert not home.config.exists()


def test_gate_data_joins_the_packaged_set(tmp_path: Path) -> None:
    row = {"id": "x1", "lang": "es", "text": "La luna gira.", "other": 1}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n\n")
    packaged = load_documents(tmp_path / "none")
    assert len(packaged) >= 100
    assert {document.lang for document in packaged} == {"en", "es"}
    assert add_documents(tmp_path / "mine.jsonl", tmp_path / "gate") == 1
    assert len(load_documents(tmp_path / "gate")) == len(packaged) + 1


@pytest.mark.parametrize("line", ["{", "[]", '"text"', "{}", '{"question": "only"}'])
def test_a_line_that_is_no_document_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "good"}\n' + line + "\n")
    with pytest.raises(ConfigError, match="line 2"):
        add_documents(tmp_path / "bad.jsonl", tmp_path / "gate")
    assert not (tmp_path / "gate").exists()


def test_the_gate_measures_each_adapter_and_version_zero_as_the_bare_base(
    tmp_path: Path, wanted: ServerConfig
) -> None:
    home = ServerHome(tmp_path / "server")
    start = init(home, wanted)
    registry = Registry(home.registry, None, SigningKey.load(home.signing_key).public_hex)
    runner = GateRunner(home, load_config(home), start.spec)
    zero = registry.arrays(0)
    rng = np.random.default_rng(1)
    moved = {n: a + rng.normal(0, 0.05, a.shape).astype(np.float32) for n, a in zero.items()}
    first, other = runner.losses(zero), runner.losses(moved)
    assert first.shape == (len(runner.langs), 2)
    assert (first[:, 1] > 0).all()
    assert not np.allclose(first[:, 0], other[:, 0])
    # What was measured is not measured again: no model is needed for it.
    modelless = load_config(home).model_copy(update={"model": "nowhere"})
    again = GateRunner(home, modelless, start.spec)
    np.testing.assert_array_equal(first, again.losses(zero))


def test_the_gate_measures_what_a_version_adds_to_the_base_and_forgets_it_again(
    tmp_path: Path, wanted: ServerConfig
) -> None:
    home = ServerHome(tmp_path / "server")
    start = init(home, wanted)
    key = SigningKey.load(home.signing_key)
    registry = Registry(home.registry, key, key.public_hex)
    runner = GateRunner(home, load_config(home), start.spec)
    zero, rng = registry.arrays(0), np.random.default_rng(1)
    scale = np.float32(start.spec.scale)
    # one adapter, once as the pair and once as the base: the same model
    moved = {n: a + rng.normal(0, 0.05, a.shape).astype(np.float32) for n, a in zero.items()}
    base = {n: a * scale if n.endswith("lora_B.weight") else a for n, a in moved.items()}
    plain, as_pair, as_base = runner.losses(zero), runner.losses(moved), runner.losses(zero, base)
    np.testing.assert_allclose(as_base[:, 0], as_pair[:, 0], rtol=1e-4)
    shifted = {n: a + np.float32(0.01) for n, a in zero.items()}
    with_none = GateRunner(home, load_config(home), start.spec).losses(shifted)
    np.testing.assert_allclose(runner.losses(shifted)[:, 0], with_none[:, 0], rtol=1e-5)
    assert not np.allclose(plain[:, 0], as_base[:, 0])
    registry.publish(zero, strategy="flora", terms=Terms(base=base))
    registry.publish(zero, strategy="flora", terms=Terms(base={}))
    found = validate(home, "v1", "v0")
    mean = float((as_base[:, 0] / as_base[:, 1]).mean())
    assert found["overall"]["after"] == pytest.approx(mean)
    assert validate(home, "v2", "v0")["overall"]["difference"] == 0
