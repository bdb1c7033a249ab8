"""The registry: signed, linear, checked, and readable by stock tools."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from federation.adapter.format import AdapterSpec, Arrays, initial_arrays, read_adapter_folder
from federation.adapter.manifest import GlobalManifest, InputRecord
from federation.adapter.package import open_package
from federation.adapter.signing import SigningKey
from federation.errors import AdapterError, FormatError, SignatureError
from server.registry import Registry
from tests.adapter_samples import make_spec, random_arrays

SPEC = make_spec()


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


@pytest.fixture
def registry(tmp_path: Path, key: SigningKey) -> Registry:
    made = Registry(tmp_path / "registry", key, key.public_hex)
    made.publish(initial_arrays(SPEC, 0), strategy="initial", spec=SPEC)
    return made


def publish(registry: Registry, seed: int, *shas: str) -> GlobalManifest:
    inputs = [InputRecord(sha256=sha, weight=0.5) for sha in shas]
    return registry.publish(
        random_arrays(SPEC, seed), strategy="fedit", inputs=inputs, gate={"accepted": True}
    )


def equal(left: Arrays, right: Arrays) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[n], right[n]) for n in left)


def test_a_published_version_is_current_and_reads_back_bit_for_bit(registry: Registry) -> None:
    manifest = publish(registry, 1, "a" * 64)
    assert (manifest.version, registry.current, registry.versions()) == (1, 1, [0, 1])
    assert equal(registry.arrays(1), random_arrays(SPEC, 1))
    assert registry.manifest(1) == manifest
    assert registry.spec == SPEC
    assert registry.merged_inputs() == {"a" * 64: 1}
    registry.verify()


def test_a_version_is_a_plain_peft_folder(registry: Registry) -> None:
    arrays, spec, manifest = read_adapter_folder(registry.path(0))
    assert (spec, manifest) == (SPEC, registry.manifest(0))
    assert equal(arrays, initial_arrays(SPEC, 0))
    config = json.loads((registry.path(0) / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"


def test_the_package_is_what_nodes_verify(registry: Registry, key: SigningKey) -> None:
    publish(registry, 1)
    data = registry.package(1)
    package = open_package(data, max_bytes=len(data))
    assert package.manifest == registry.manifest(1)
    assert len(registry.chain(-1)) == 2
    assert json.loads(registry.chain(0)[0])["version"] == 1
    assert registry.chain(1) == ()


def test_a_way_back_is_a_new_version_with_the_old_weights(registry: Registry) -> None:
    publish(registry, 1)
    publish(registry, 2)
    manifest = registry.republish(1, strategy="rollback")
    assert (manifest.version, registry.current, manifest.inputs) == (3, 3, ())
    assert equal(registry.arrays(3), registry.arrays(1))
    registry.verify()


@pytest.mark.security
def test_h14_a_package_is_merged_once(registry: Registry) -> None:
    publish(registry, 1, "a" * 64)
    with pytest.raises(FormatError, match="merged before, in v1"):
        publish(registry, 2, "b" * 64, "a" * 64)
    assert registry.versions() == [0, 1]


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_is_not_finite_is_never_published(registry: Registry, poison: float) -> None:
    arrays = random_arrays(SPEC, 1)
    next(iter(arrays.values()))[0, 0] = poison
    with pytest.raises(AdapterError):
        registry.publish(arrays, strategy="fedit")
    assert (registry.versions(), registry.current) == ([0], 0)


def test_another_shape_is_never_published(registry: Registry) -> None:
    other = make_spec(rank=8)
    with pytest.raises(AdapterError):
        registry.publish(random_arrays(other, 1), strategy="fedit")
    with pytest.raises(FormatError, match="shape cannot change"):
        registry.publish(random_arrays(other, 1), strategy="fedit", spec=other)
    assert registry.versions() == [0]


def test_a_reader_without_the_key_publishes_nothing_and_touches_nothing(
    registry: Registry, key: SigningKey
) -> None:
    (registry.folder / ".partial-v1").mkdir()
    reader = Registry(registry.folder, None, key.public_hex)
    assert reader.current == 0
    assert (registry.folder / ".partial-v1").is_dir()
    with pytest.raises(FormatError, match="reading only"):
        reader.publish(random_arrays(SPEC, 1), strategy="fedit")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_changed_byte_is_found(registry: Registry, name: str) -> None:
    publish(registry, 1)
    path = registry.path(1) / name
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(AdapterError):
        registry.verify()


def test_a_changed_manifest_is_found(registry: Registry) -> None:
    publish(registry, 1)
    path = registry.path(1) / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"fedit", b"fedix"))
    with pytest.raises(SignatureError):
        registry.verify()


def test_a_missing_version_is_found(registry: Registry) -> None:
    for seed in (1, 2):
        publish(registry, seed)
    registry.path(1).rename(registry.folder / "gone")
    with pytest.raises(FormatError, match="a version is missing"):
        registry.verify()


def test_another_operator_is_found(registry: Registry) -> None:
    reader = Registry(registry.folder, None, SigningKey.generate().public_hex)
    with pytest.raises(SignatureError):
        reader.verify()


@pytest.mark.security
@pytest.mark.parametrize("text", ["v9", "../v0", "v00", "0", "", "v-1", "v0\n/etc"])
def test_h02_current_names_a_version_or_nothing(registry: Registry, text: str) -> None:
    (registry.folder / "current").write_text(text)
    with pytest.raises(FormatError, match="names no version"):
        _ = registry.current


@pytest.mark.security
def test_h02_an_unknown_version_is_named(registry: Registry) -> None:
    with pytest.raises(FormatError, match="no version v7"):
        registry.arrays(7)


def test_an_empty_registry_says_what_to_do(tmp_path: Path, key: SigningKey) -> None:
    empty = Registry(tmp_path / "none", None, key.public_hex)
    with pytest.raises(FormatError, match="holds no version yet"):
        _ = empty.current


def test_a_refused_candidate_is_kept_beside_the_registry(registry: Registry) -> None:
    folder = registry.keep_candidate(random_arrays(SPEC, 5), {"reason": "worse"})
    assert folder.parent == registry.folder.parent / "candidates"
    assert json.loads((folder / "report.json").read_text()) == {"reason": "worse"}
    assert equal(read_adapter_folder(folder)[0], random_arrays(SPEC, 5))
    assert registry.versions() == [0]


def test_of_refused_candidates_the_newest_are_kept(tmp_path: Path, key: SigningKey) -> None:
    now = [datetime(2026, 3, 1, tzinfo=UTC)]
    registry = Registry(tmp_path / "registry", key, key.public_hex, now=lambda: now[0])
    registry.publish(initial_arrays(SPEC, 0), strategy="initial", spec=SPEC)
    registry.candidates.mkdir()
    (registry.candidates / "notes of the operator").mkdir()
    made = []
    for day in range(5):
        now[0] += timedelta(days=1)
        made.append(registry.keep_candidate(random_arrays(SPEC, day), {"day": day}, keep=3))
    kept = sorted(path.name for path in registry.candidates.iterdir())
    assert kept == [*(path.name for path in made[2:]), "notes of the operator"]
    assert made[-1].is_dir()


def test_version_zero_changes_nothing(registry: Registry) -> None:
    arrays = registry.arrays(0)
    assert all(not arrays[name].any() for name in arrays if name.endswith("lora_B.weight"))
    assert isinstance(registry.spec, AdapterSpec)
