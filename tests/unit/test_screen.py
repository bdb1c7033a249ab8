"""The screen refuses what it must, names node and reason, and nothing refused has any influence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.adapter.checks import Refusal
from federation.adapter.format import AdapterSpec, config_bytes, initial_arrays
from federation.adapter.manifest import PackageManifest, canonical
from federation.adapter.package import build_package, open_package
from federation.adapter.signing import SigningKey, pseudonym, sign
from federation.adapter.tensors import Arrays, RawTensor, TensorFile, save_tensors
from strategies.screen import Screened, ScreenHistory, ScreenPolicy, screen_updates
from strategies.sizes import SizePolicy
from strategies.spool import Arrival, Spool
from tests.adapter_samples import make_spec, random_arrays
from tests.update_samples import make_spool, put, typical_delta

pytestmark = pytest.mark.strategies
VERSION = 3


class Federation:
    """Nodes with keys, a spool, and the screen's view of both."""

    def __init__(self, folder: Path, nodes: int = 6) -> None:
        self.spec = make_spec()
        self.start: Arrays = random_arrays(self.spec, 99, 0.05)
        self.keys = [SigningKey.generate() for _ in range(nodes)]
        self.spool: Spool = make_spool(folder / "spool")

    def node(self, index: int) -> str:
        return pseudonym(self.keys[index].public_hex)

    def send(
        self, index: int, *, factor: float = 1.0, seed: int | None = None, **facts: Any
    ) -> str:
        """Spool a good update of node `index`, `factor` times as large as the others'."""
        delta = typical_delta(self.spec, index if seed is None else seed, 1e-3 * factor)
        facts = {"global_version": VERSION} | facts
        return put(self.spool, self.spec, self.start, delta, self.keys[index], **facts).sha256

    def send_raw(self, index: int, tensors: dict[str, RawTensor], **changes: Any) -> str:
        """Spool a package of any tensors, correctly signed, with `changes` in its manifest."""
        good = open_package(self._bytes_of(self.send(index)), max_bytes=2**20)
        self.spool.discard(good.sha256)
        stored = save_tensors(tensors)
        file = TensorFile.from_bytes(stored)
        hashes = {name: file.tensor_sha256(name) for name in file.names()}
        manifest = good.manifest.model_copy(update={"tensors": hashes} | changes)
        assert isinstance(manifest, PackageManifest)
        text = canonical(sign(manifest, self.keys[index]))
        return self.put_bytes(index, build_package(stored, config_bytes(self.spec), text))

    def put_bytes(self, index: int, data: bytes) -> str:
        return self.spool.add(data, Arrival(node=self.node(index))).sha256

    def raw(self, index: int) -> dict[str, RawTensor]:
        """Tensors of a good update of node `index`, to be spoilt."""
        sha256 = self.send(index)
        file = open_package(self._bytes_of(sha256), max_bytes=2**20).tensors
        self.spool.discard(sha256)
        return {name: np.array(file.array(name)) for name in file.names()}

    def screen(self, policy: ScreenPolicy | None = None, **history: Any) -> Screened:
        known = {"public_keys": {self.node(i): k.public_hex for i, k in enumerate(self.keys)}}
        updates = [self.spool.open(entry.sha256) for entry in self.spool.entries()]
        return screen_updates(
            updates,
            self.spec,
            self.start,
            policy or ScreenPolicy(),
            ScreenHistory(current_version=VERSION, **(known | history)),
        )

    def _bytes_of(self, sha256: str) -> bytes:
        return (self.spool.folder / f"{sha256}.zip").read_bytes()


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path)


def refusals(screened: Screened) -> dict[str, Refusal]:
    return {refused.sha256: refused.refusal for refused in screened.refused}


def test_good_updates_pass_whole_and_are_counted(federation: Federation) -> None:
    sent = [federation.send(i, examples=10 + i, global_version=VERSION - i % 2) for i in range(6)]
    screened = federation.screen()
    assert [update.sha256 for update in screened.accepted] == sorted(sent)
    assert (screened.refused, screened.waiting) == ((), ())
    by_node = {update.node: update for update in screened.accepted}
    for i in range(6):
        update = by_node[federation.node(i)]
        assert (update.examples, update.staleness, update.clip) == (10 + i, i % 2, 1.0)
    assert {space: len(norms) for space, norms in screened.log_norms.items()} == {
        "product": 6,
        "a": 6,
        "b": 6,
    }


A0 = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
BF16_NAN, BF16_INF, BF16_1E30 = 0x7FC0, 0x7F80, 0x714A


def spoil(value: int) -> Any:
    def change(raw: dict[str, RawTensor]) -> None:
        raw[A0][0, 0] = value

    return change


def cut_rank(raw: dict[str, RawTensor]) -> None:
    for name in raw:
        raw[name] = raw[name][:2] if name.endswith("lora_A.weight") else raw[name][:, :2]


HOSTILE: dict[str, tuple[Any, dict[str, Any], str]] = {
    "nan": (spoil(BF16_NAN), {}, "finite"),
    "infinity": (spoil(BF16_INF), {}, "finite"),
    "1e30": (spoil(BF16_1E30), {}, "norm"),
    "no examples": (None, {"examples": 0}, "examples"),
    "negative examples": (None, {"examples": -5}, "examples"),
    "10^12 examples": (None, {"examples": 10**12}, "examples"),
    "transposed": (lambda raw: raw.update({A0: raw[A0].T.copy()}), {}, "shape"),
    "broadcastable": (lambda raw: raw.update({A0: raw[A0][:1]}), {}, "shape"),
    "other rank": (cut_rank, {}, "shape"),
    "other rank in the manifest": (None, {"rank": 2}, "rank"),
    "other alpha": (None, {"alpha": 1.0}, "alpha"),
    "float32": (lambda raw: raw.update({A0: np.zeros((4, 64), np.float32)}), {}, "dtype"),
    "missing key": (lambda raw: raw.pop(A0), {}, "schema"),
    "extra key": (lambda raw: raw.update({"extra.weight": raw[A0]}), {}, "schema"),
    "base_layer": (
        lambda raw: raw.update({A0.replace("lora_A", "base_layer"): raw[A0]}),
        {},
        "schema",
    ),
    "other base": (None, {"base_hash": "cd" * 32}, "base"),
    "other spec": (None, {"spec_hash": "cd" * 32}, "spec"),
    "other node": (None, {"node": "0" * 16}, "identity"),
    "stale": (None, {"global_version": 0}, "stale"),
    "from the future": (None, {"global_version": VERSION + 1}, "version"),
    "nothing": (lambda raw: [value.fill(0) for value in raw.values()], {}, "norm"),
}


@pytest.mark.security
@pytest.mark.parametrize("case", HOSTILE)
def test_h11_a_hostile_update_is_refused_by_name_and_leaves_no_trace(
    federation: Federation, case: str
) -> None:
    change, manifest, code = HOSTILE[case]
    policy = ScreenPolicy(max_staleness=2)
    for i in range(5):
        federation.send(i, factor=1.12 if i == 4 else 1.0)
    without = federation.screen(policy)
    assert sum(update.clip < 1.0 for update in without.accepted) == 1
    raw = federation.raw(5)
    if change is not None:
        change(raw)
    bad = federation.send_raw(5, raw, **manifest)
    screened = federation.screen(policy)
    (refused,) = screened.refused
    assert (refused.sha256, refused.node, refused.refusal.code) == (bad, federation.node(5), code)
    assert refused.refusal.detail
    assert screened.accepted == without.accepted
    assert screened.log_norms == without.log_norms


@pytest.mark.security
@pytest.mark.parametrize(
    "spoilt",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data + b"more",
        lambda data: b"\x80\x04" + data[2:],
        lambda data: data[:0],
        lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
    ],
    ids=["truncated", "trailing", "pickle", "empty", "one bit"],
)
def test_a_broken_container_is_a_refusal_and_not_an_exception(
    federation: Federation, spoilt: Any
) -> None:
    good = federation.send(0)
    data = (federation.spool.folder / f"{good}.zip").read_bytes()
    bad = federation.put_bytes(1, spoilt(data))
    screened = federation.screen()
    assert [update.sha256 for update in screened.accepted] == [good]
    assert refusals(screened)[bad].code == "format"


@pytest.mark.security
def test_h07_h14_a_wrong_signature_an_unknown_node_and_a_repetition_are_refused(
    federation: Federation,
) -> None:
    forged, known, again = (federation.send(i) for i in range(3))
    keys = {federation.node(i): federation.keys[i].public_hex for i in range(6)}
    keys[federation.node(0)] = SigningKey.generate().public_hex
    del keys[federation.node(1)]
    screened = federation.screen(public_keys=keys, settled={again: "merged in v2"})
    found = refusals(screened)
    assert found[forged].code in ("identity", "signature")
    assert found[known].code == "identity"
    assert (found[again].code, "merged in v2" in found[again].detail) == ("duplicate", True)


def test_a_version_of_the_same_number_from_elsewhere_is_refused(federation: Federation) -> None:
    mine = federation.send(0, global_sha256="1" * 64)
    theirs = federation.send(1, global_sha256="2" * 64)
    screened = federation.screen(versions={VERSION: "1" * 64})
    assert [update.sha256 for update in screened.accepted] == [mine]
    assert refusals(screened)[theirs].code == "version"


def test_one_update_per_node_counts_and_the_others_wait_without_a_verdict(
    federation: Federation,
) -> None:
    older = federation.send(0, seed=1, global_version=VERSION - 1)
    twins = sorted(federation.send(0, seed=seed) for seed in (2, 3))
    other = federation.send(1)
    screened = federation.screen()
    assert {update.sha256 for update in screened.accepted} == {twins[1], other}
    assert set(screened.waiting) == {older, twins[0]}
    assert screened.refused == ()


def test_a_bad_newest_update_does_not_cost_the_node_its_older_one(federation: Federation) -> None:
    older = federation.send(0, global_version=VERSION - 1)
    raw = federation.raw(0)
    raw[A0][0, 0] = BF16_NAN
    bad = federation.send_raw(0, raw)
    screened = federation.screen()
    assert [update.sha256 for update in screened.accepted] == [older]
    assert set(refusals(screened)) == {bad}


def test_the_verdicts_do_not_depend_on_the_order(federation: Federation) -> None:
    for i in range(6):
        federation.send(i, factor=50.0 if i == 3 else 1.0)
    updates = [federation.spool.open(entry.sha256) for entry in federation.spool.entries()]
    policy, history = ScreenPolicy(), ScreenHistory(current_version=VERSION)
    first = screen_updates(updates, federation.spec, federation.start, policy, history)
    rest = screen_updates(updates[::-1], federation.spec, federation.start, policy, history)
    assert first == rest
    assert len(first.refused) == 1


@pytest.mark.security
def test_h15_an_outlier_among_five_is_refused_and_its_node_named(federation: Federation) -> None:
    for i in range(5):
        federation.send(i)
    large = federation.send(5, factor=10.0)
    found = refusals(federation.screen())
    assert (set(found), found[large].code) == ({large}, "norm")


def test_among_fewer_than_five_an_outlier_is_only_shrunk(federation: Federation) -> None:
    for i in range(3):
        federation.send(i)
    large = federation.send(5, factor=10.0)
    screened = federation.screen()
    clips = {update.sha256: update.clip for update in screened.accepted}
    assert 0.1 < clips.pop(large) < 0.3
    assert set(clips.values()) == {1.0}
    assert max(screened.log_norms["b"]) - min(screened.log_norms["b"]) < 1.0


def test_a_lone_update_is_shrunk_against_earlier_rounds(federation: Federation) -> None:
    for i in range(5):
        federation.send(i)
    earlier = federation.screen().log_norms
    for entry in federation.spool.entries():
        federation.spool.discard(entry.sha256)
    federation.send(5, factor=10.0)
    assert federation.screen().accepted[0].clip == 1.0
    assert federation.screen(log_norms=earlier).accepted[0].clip < 0.3


@pytest.mark.security
def test_h15_a_gauge_attack_is_seen_in_factor_space(federation: Federation) -> None:
    """(B t, A / t) is the same dW, so only the factors betray it (strategies.md, fact 4)."""
    spec, start = federation.spec, federation.start
    for i in range(5):
        federation.send(i)
    honest = typical_delta(spec, 5)
    attack: Arrays = {}
    for name, value in start.items():
        factor = np.float32(0.1 if name.endswith("lora_A.weight") else 10.0)
        attack[name] = (value + honest[name]) * factor - value
    sent = put(federation.spool, spec, start, attack, federation.keys[5], global_version=VERSION)
    assert set(refusals(federation.screen())) == {sent.sha256}
    assert not federation.screen(ScreenPolicy(gauge_safe=True)).refused


def test_where_nodes_choose_their_work_outliers_are_shrunk_and_not_refused(
    federation: Federation,
) -> None:
    for i in range(6):
        federation.send(i, factor=10.0 if i == 5 else 1.0)
    policy = ScreenPolicy(sizes=SizePolicy(reject_outliers=False))
    screened = federation.screen(policy)
    assert not screened.refused
    assert sum(update.clip < 1.0 for update in screened.accepted) == 1


def test_a_frozen_factor_of_all_does_not_disturb_the_statistics(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    for i in range(6):
        delta = typical_delta(federation.spec, i)
        for name in delta:
            if name.endswith("lora_A.weight"):
                delta[name][:] = 0
        put(federation.spool, federation.spec, federation.start, delta, federation.keys[i],
            global_version=VERSION)  # fmt: skip
    screened = federation.screen()
    assert len(screened.accepted) == 6
    assert screened.log_norms["a"] == ()


def test_no_update_is_no_verdict(federation: Federation) -> None:
    assert federation.screen() == Screened((), (), (), {"product": (), "a": (), "b": ()})


def test_a_spec_of_other_modules_refuses_everybody(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    federation.send(0)
    other: AdapterSpec = make_spec(layers=1)
    updates = [federation.spool.open(entry.sha256) for entry in federation.spool.entries()]
    history = ScreenHistory(current_version=VERSION)
    start = initial_arrays(other, 0)
    screened = screen_updates(updates, other, start, ScreenPolicy(), history)
    assert refusals(screened)[updates[0].sha256].code == "spec"
