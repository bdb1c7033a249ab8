"""The node's store of global adapters: verified when received and when loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from client.adapters import KEPT_VERSIONS, AdapterStore
from client.config import NodeHome
from federation.adapter.format import initial_arrays
from federation.adapter.manifest import canonical, sha256_of
from federation.adapter.signing import SigningKey
from federation.errors import (
    AdapterError,
    BaseMismatchError,
    DowngradeError,
    FormatError,
    SignatureError,
)
from tests.adapter_samples import make_sample, make_spec
from tests.global_samples import Chain, make_federation

SPEC = make_spec()


@pytest.fixture
def chain() -> Chain:
    made = Chain(SPEC)
    for _ in range(3):
        made.publish()
    return made


@pytest.fixture
def store(tmp_path: Path, chain: Chain) -> AdapterStore:
    return open_store(tmp_path, chain)


def open_store(tmp_path: Path, chain: Chain) -> AdapterStore:
    return AdapterStore(NodeHome(tmp_path), make_federation(SPEC, chain.key.public_hex))


def test_a_node_without_an_adapter_holds_none(store: AdapterStore) -> None:
    assert (store.held(), store.held_version(), store.current()) == (None, -1, None)


def test_an_installed_version_is_loaded_as_it_was_published(
    store: AdapterStore, chain: Chain, tmp_path: Path
) -> None:
    assert store.install(chain.packages[0], chain.texts(-1)[:1]) == 0
    current = open_store(tmp_path, chain).current()
    assert current is not None
    assert (current.version, current.sha256) == (0, sha256_of(chain.manifests[0]))
    expected = initial_arrays(SPEC, 0)
    assert set(current.arrays) == set(expected)
    assert all(np.array_equal(current.arrays[name], expected[name]) for name in expected)
    assert (current.folder / "adapter_config.json").is_file()


def test_the_chain_of_missed_versions_is_followed(store: AdapterStore, chain: Chain) -> None:
    store.install(chain.packages[0])
    assert store.install(chain.packages[2], chain.texts(0)) == 2
    assert store.held_version() == 2


def test_a_chain_may_begin_before_the_version_held(store: AdapterStore, chain: Chain) -> None:
    store.install(chain.packages[1])
    assert store.install(chain.packages[2], chain.texts(-1)) == 2


def test_a_new_node_accepts_any_first_version_of_its_operator(
    store: AdapterStore, chain: Chain
) -> None:
    assert store.install(chain.packages[2]) == 2


def test_installing_a_version_again_changes_nothing(store: AdapterStore, chain: Chain) -> None:
    store.install(chain.packages[1])
    assert store.install(chain.packages[1], chain.texts(0)[:1]) == 1


@pytest.mark.security
def test_h16_an_older_version_is_refused(store: AdapterStore, chain: Chain) -> None:
    store.install(chain.packages[2])
    for older in (0, 1):
        with pytest.raises(DowngradeError, match=f"offers version {older}.*had version 2"):
            store.install(chain.packages[older], chain.texts(-1))
    assert store.held_version() == 2


@pytest.mark.security
def test_h16_another_version_of_the_same_number_is_refused(
    store: AdapterStore, chain: Chain
) -> None:
    store.install(chain.packages[1])
    fork = Chain(SPEC, chain.key)
    fork.publish()
    other = fork.publish(initial_arrays(SPEC, 99))
    with pytest.raises(DowngradeError):
        store.install(other)


@pytest.mark.security
@pytest.mark.parametrize(
    ("make", "error"),
    [
        pytest.param(
            lambda chain: chain.publish(key=SigningKey.generate()), SignatureError, id="signer"
        ),
        pytest.param(lambda chain: chain.publish(parent="ab" * 32), SignatureError, id="parent"),
        pytest.param(lambda chain: chain.publish(version=5), SignatureError, id="gap"),
        pytest.param(
            lambda chain: chain.publish(spec=make_spec(rank=2)), BaseMismatchError, id="rank"
        ),
        pytest.param(
            lambda chain: chain.publish(spec=make_spec(base_hash="cd" * 32)),
            BaseMismatchError,
            id="base",
        ),
        pytest.param(
            lambda chain: chain.publish(
                {**initial_arrays(SPEC, 0), "base_model.model.x.base_layer.weight": np.ones((2, 2))}
            ),
            AdapterError,
            id="h28 smuggled key",
        ),
        pytest.param(
            lambda chain: chain.publish(
                {
                    name: np.full_like(value, np.nan)
                    for name, value in initial_arrays(SPEC, 0).items()
                }
            ),
            AdapterError,
            id="nan",
        ),
        pytest.param(
            lambda chain: make_sample(SPEC, chain.key), FormatError, id="delta instead of global"
        ),
        pytest.param(lambda _chain: b"\x80\x04.", FormatError, id="pickle"),
        pytest.param(lambda chain: chain.publish()[:-40], FormatError, id="truncated"),
    ],
)
def test_h16_what_the_operator_did_not_publish_next_is_refused(
    store: AdapterStore, chain: Chain, make: Callable[[Chain], bytes], error: type[AdapterError]
) -> None:
    store.install(chain.packages[2])
    with pytest.raises(error):
        store.install(make(chain), chain.texts(2))
    assert store.versions() == [2]
    current = store.current()
    assert current is not None
    assert current.version == 2


@pytest.mark.security
def test_h16_one_changed_byte_in_a_package_is_refused(store: AdapterStore, chain: Chain) -> None:
    package = bytearray(chain.packages[0])
    package[len(package) // 2] ^= 1
    with pytest.raises(AdapterError):
        store.install(bytes(package))
    assert store.versions() == []


@pytest.mark.security
@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "adapter_config.json", "manifest.json"]
)
def test_h16_a_file_changed_on_disk_is_refused_when_loaded_and_fetched_again(
    store: AdapterStore, chain: Chain, name: str
) -> None:
    store.install(chain.packages[1])
    path = store.current().folder / name  # type: ignore[union-attr]
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(AdapterError):
        store.current()
    assert store.held_version() == -1
    with pytest.raises(DowngradeError):
        store.install(chain.packages[0])
    assert store.install(chain.packages[1], chain.texts(-1)) == 1
    assert store.current() is not None


@pytest.mark.security
def test_h16_a_pointer_to_another_operators_version_is_refused(
    store: AdapterStore, chain: Chain, tmp_path: Path
) -> None:
    store.install(chain.packages[0])
    foreign = Chain(SPEC)
    foreign.publish()
    (tmp_path / "models" / "global" / "v0" / "manifest.json").write_bytes(
        canonical(foreign.manifests[0])
    )
    with pytest.raises(SignatureError):
        store.current()


def test_a_damaged_pointer_is_named(store: AdapterStore, chain: Chain, tmp_path: Path) -> None:
    store.install(chain.packages[1])
    (tmp_path / "models" / "current").write_text("../../elsewhere")
    with pytest.raises(FormatError, match="is damaged"):
        store.current()
    with pytest.raises(DowngradeError):
        store.install(chain.packages[0])


def test_only_the_newest_versions_are_kept(store: AdapterStore, chain: Chain) -> None:
    for _ in range(4):
        chain.publish()
    for package in chain.packages:
        store.install(package)
    assert store.versions() == list(range(len(chain.packages)))[-KEPT_VERSIONS:]


def test_what_a_kill_left_behind_is_removed(
    store: AdapterStore, chain: Chain, tmp_path: Path
) -> None:
    store.install(chain.packages[0])
    folder = tmp_path / "models" / "global"
    shutil.copytree(folder / "v0", folder / ".v1.half.tmp")
    assert store.versions() == [0]
    store.install(chain.packages[1])
    assert [path.name for path in sorted(folder.iterdir())] == ["v0", "v1"]
