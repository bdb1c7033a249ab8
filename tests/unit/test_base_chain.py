"""Base deltas from version to version: what travels, what a node ends up with, what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.adapters import AdapterStore
from client.config import NodeHome
from federation.adapter.base_delta import compact, rows_from
from federation.adapter.format import A, AdapterSpec, Arrays, B, initial_arrays
from federation.adapter.instructions import Terms
from federation.adapter.signing import SigningKey
from federation.adapter.tensors import save_tensors
from federation.errors import FormatError, SignatureError
from server.registry import Registry
from tests.adapter_samples import make_spec, random_arrays
from tests.global_samples import make_federation
from tests.round_bench import equal

pytestmark = pytest.mark.strategies
SPEC = make_spec()


def stack(rank: int, seed: int) -> Arrays:
    return random_arrays(make_spec(rank=rank), seed)


class Town:
    """A registry whose versions add to the base, and a node."""

    def __init__(self, folder: Path) -> None:
        key = SigningKey.generate()
        self.registry = Registry(folder / "registry", key, key.public_hex)
        self.registry.publish(initial_arrays(SPEC, 0), strategy="initial", spec=SPEC)
        self.store = AdapterStore(NodeHome(folder / "node"), make_federation(SPEC, key.public_hex))

    def publish(self, base: Arrays | None) -> int:
        weights = random_arrays(SPEC, len(self.registry.versions()))
        terms = Terms(base=base)
        return self.registry.publish(weights, strategy="flora", terms=terms).version

    def install(self, rows: bytes | None = None) -> int:
        """Bring the node to the current version; returns how many bytes of the base travelled."""
        held = self.store.held_version()
        sent = self.registry.base_since(held) if rows is None else rows
        chain = self.registry.chain(held)
        self.store.install(self.registry.package(self.registry.current), chain, sent)
        return len(sent)

    def held_base(self) -> Arrays:
        current = self.store.current()
        assert current is not None
        return current.base


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(tmp_path)


def test_a_node_that_follows_gets_the_new_rows_alone_and_a_newcomer_all(
    town: Town, tmp_path: Path
) -> None:
    town.install()
    whole = stack(12, 1)
    sizes = []
    for rank in (4, 8, 12):
        town.publish(first_rows(whole, rank))
        sizes.append(town.install())
        assert equal(town.held_base(), first_rows(whole, rank))
    assert len({size // 64 for size in sizes}) == 1
    late = Town(tmp_path / "late")
    late.registry = town.registry
    late.store = AdapterStore(
        NodeHome(tmp_path / "other"), make_federation(SPEC, town.registry.public_key)
    )
    assert late.install() > 2.5 * sizes[0]
    assert equal(late.held_base(), whole)


def first_rows(base: Arrays, rank: int) -> Arrays:
    return {
        n: v[:rank] if n.endswith(A) else np.ascontiguousarray(v[:, :rank]) for n, v in base.items()
    }


def test_what_a_version_does_not_name_stays_and_what_it_empties_goes(town: Town) -> None:
    base = stack(4, 1)
    town.publish(base)
    town.install()
    town.publish(None)
    assert town.install() == 0
    assert equal(town.held_base(), base)
    town.publish({})
    assert town.install() == 0
    assert town.held_base() == {}


def test_after_a_way_back_nodes_get_the_older_base_whole(town: Town) -> None:
    whole = stack(8, 1)
    town.publish(first_rows(whole, 4))
    town.publish(whole)
    town.install()
    town.registry.republish(1, strategy="rollback")
    assert town.install() > 0
    assert equal(town.held_base(), first_rows(whole, 4))
    town.registry.verify()


def test_rows_that_lead_to_another_base_than_the_signed_one_are_refused(town: Town) -> None:
    town.install()
    town.publish(stack(4, 1))
    for rows in (save_tensors(stack(4, 2)), b"", save_tensors(stack(4, 1))[:-4]):
        with pytest.raises((SignatureError, FormatError)):
            town.install(rows)
    with pytest.raises(FormatError, match="larger than it says"):
        town.install(bytes(2**22))
    assert town.store.held_version() == 0
    assert town.install() > 0


def test_a_base_that_was_changed_on_disk_is_fetched_anew(town: Town, tmp_path: Path) -> None:
    town.publish(stack(4, 1))
    town.install()
    path = tmp_path / "node" / "models" / "global" / "v1" / "base" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\x00\x01")
    assert town.store.held_version() == -1
    assert town.install() > 0
    assert equal(town.held_base(), stack(4, 1))


def test_a_stack_longer_than_its_matrices_is_written_as_what_it_amounts_to() -> None:
    spec: AdapterSpec = make_spec(linears={"self_attn.q_proj": (12, 20), "mlp.up": (16, 8)})
    long = random_arrays(
        make_spec(rank=40, linears={"self_attn.q_proj": (12, 20), "mlp.up": (16, 8)}), 3
    )
    short = compact(long, spec)
    assert {v.shape[0] for n, v in short.items() if n.endswith(A)} == {12}
    for module in spec.modules():
        expected = long[module + B].astype(float) @ long[module + A]
        np.testing.assert_allclose(short[module + B] @ short[module + A], expected, atol=1e-6)
    assert equal(compact(short, spec), short)
    assert all(value.size == 0 for value in rows_from(short, 12).values())
