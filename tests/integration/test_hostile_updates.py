"""Hostile updates, one row each: the round completes on the rest, as if that node were absent."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message

from federation import padding
from federation.adapter.delta import encode
from federation.adapter.format import Arrays, initial_arrays
from federation.adapter.manifest import PackageManifest, canonical
from federation.adapter.package import PACKAGE_MEMBERS, build_package
from federation.adapter.signing import sign
from federation.protocol import CollectReply
from tests.adapter_samples import FACTS, make_package, make_spec, random_arrays
from tests.round_bench import LIMIT, Bench, HandNode, collected, equal, reply_with

pytestmark = [pytest.mark.security, pytest.mark.strategies]
Spoil = Callable[[Bench, HandNode], bytes]


def remade(
    bench: Bench,
    person: HandNode,
    *,
    spec: Any = None,
    **claims: Any,
) -> bytes:
    """A package signed by its node that tells lies: another change, or other claims."""
    spec = spec or bench.spec
    start = initial_arrays(spec, 0)
    delta = random_arrays(spec, 7)
    facts = replace(FACTS, global_sha256=bench.origin)
    raw = make_package(
        {name: start[name] + delta[name] for name in start}, start, spec, facts, person.key
    )[0]
    if not claims:
        return raw
    with zipfile.ZipFile(BytesIO(raw)) as archive:
        tensors, config, text = (archive.read(name) for name in PACKAGE_MEMBERS)
    return build_package(tensors, config, _claiming(text, person, claims))


def _claiming(text: bytes, person: HandNode, claims: dict[str, Any]) -> bytes:
    """The manifest `text` with other claims, signed again; nothing is validated."""
    content = json.loads(text) | claims
    content["targets"] = tuple(content["targets"])
    return canonical(sign(PackageManifest.model_construct(**content), person.key))


def bits(value: int) -> Callable[[dict[str, Any]], None]:
    """One entry of one tensor gets these bfloat16 bits."""

    def change(tensors: dict[str, Any]) -> None:
        tensors[first_of(tensors)].reshape(-1)[3] = value

    return change


def retensored(bench: Bench, person: HandNode, change: Callable[[dict[str, Any]], None]) -> bytes:
    """A package whose tensors are not those of the spec, with hashes that match them."""
    import hashlib

    from federation.adapter.tensors import save_tensors

    raw, _ = encode(random_arrays(bench.spec, 7), "bf16")
    tensors: dict[str, Any] = dict(raw)
    change(tensors)
    with zipfile.ZipFile(BytesIO(remade(bench, person))) as archive:
        config, text = (archive.read(name) for name in PACKAGE_MEMBERS[1:])
    hashes = {
        name: hashlib.sha256(np.ascontiguousarray(_data(tensor)).tobytes()).hexdigest()
        for name, tensor in tensors.items()
    }
    return build_package(
        save_tensors(tensors), config, _claiming(text, person, {"tensors": hashes})
    )


def _data(tensor: Any) -> Any:
    return getattr(tensor, "data", tensor)


def first_of(tensors: dict[str, Any]) -> str:
    """Name of the first tensor."""
    return sorted(tensors)[0]


def _reshaped(tensors: dict[str, Any]) -> None:
    name = first_of(tensors)
    tensors[name] = np.zeros((1, 3), np.uint16)


def _broadcastable(tensors: dict[str, Any]) -> None:
    name = first_of(tensors)
    rows = _data(tensors[name]).shape[0]
    tensors[name] = np.zeros((rows, 1), np.uint16)


def _wrong_dtype(tensors: dict[str, Any]) -> None:
    name = first_of(tensors)
    tensors[name] = np.zeros(_data(tensors[name]).shape, np.float32)


def _missing(tensors: dict[str, Any]) -> None:
    del tensors[first_of(tensors)]


def _extra(tensors: dict[str, Any]) -> None:
    tensors["base_model.model.extra.lora_A.weight"] = np.zeros((4, 32), np.uint16)


def _base_layer(tensors: dict[str, Any]) -> None:
    name = first_of(tensors).split(".lora_")[0] + ".base_layer.weight"
    tensors[name] = np.zeros((32, 32), np.uint16)


def _pickled(_bench: Bench, _person: HandNode) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in PACKAGE_MEMBERS:
            archive.writestr(name, pickle.dumps({"weights": [1.0]}))
    return buffer.getvalue()


def _random_bytes(_bench: Bench, _person: HandNode) -> bytes:
    return bytes(range(256)) * 40


def _oversized(bench: Bench, person: HandNode) -> bytes:
    return remade(bench, person) + b"\0" * LIMIT


SPOILED: dict[str, tuple[Spoil, str]] = {
    "nan": (lambda b, p: retensored(b, p, bits(0x7FC0)), "finite"),
    "inf": (lambda b, p: retensored(b, p, bits(0x7F80)), "finite"),
    "1e30": (lambda b, p: retensored(b, p, bits(0x7149)), "norm"),
    "negative examples": (lambda b, p: remade(b, p, examples=-5), "examples"),
    "1e12 examples": (lambda b, p: remade(b, p, examples=10**12), "examples"),
    "wrong shape": (lambda b, p: retensored(b, p, _reshaped), "shape"),
    "broadcastable shape": (lambda b, p: retensored(b, p, _broadcastable), "shape"),
    "wrong rank": (lambda b, p: remade(b, p, spec=make_spec(rank=2)), ""),
    "wrong dtype": (lambda b, p: retensored(b, p, _wrong_dtype), "dtype"),
    "missing key": (lambda b, p: retensored(b, p, _missing), "schema"),
    "extra key": (lambda b, p: retensored(b, p, _extra), "schema"),
    "base_layer key": (lambda b, p: retensored(b, p, _base_layer), "schema"),
    "other base": (lambda b, p: remade(b, p, spec=make_spec(base_hash="cd" * 32)), "base"),
    "stale": (lambda b, p: remade(b, p, global_version=-7), ""),
    "from the future": (lambda b, p: remade(b, p, global_version=9), "version"),
    "truncated": (lambda b, p: remade(b, p)[:-500], "format"),
    "pickle": (_pickled, "format"),
    "random bytes": (_random_bytes, "format"),
    "another's signature": (lambda b, _: remade(b, HandNode(0, b.people[0].key, b"")), ""),
}


def with_and_without(
    tmp_path: Path, spoil: Callable[[Bench, HandNode], None]
) -> tuple[Bench, Any, Arrays]:
    """Two honest nodes and a hostile one, then the same two alone."""
    alone = Bench(tmp_path / "alone")
    together = Bench(tmp_path / "together", twin=alone)
    for seed in (1, 2):
        twin = alone.add(seed)
        together.add(seed, key=twin.key).package = twin.package
    spoil(together, together.add(3))
    alone.run(quorum=2)
    report = together.run(quorum=2).report
    return together, report, alone.current()


@pytest.mark.parametrize("name", SPOILED)
def test_h11_h12_a_spoiled_package_changes_nothing(tmp_path: Path, name: str) -> None:
    make, code = SPOILED[name]

    def spoil(bench: Bench, person: HandNode) -> None:
        person.package = make(bench, person)

    bench, report, expected = with_and_without(tmp_path, spoil)
    hostile = bench.people[2]
    assert report.outcome["version"] == 1
    assert equal(bench.current(), expected)
    refused = report.outcome["refused"]
    assert [record["node"] for record in refused] == [hostile.node]
    assert code in ("", refused[0]["code"]), refused
    assert [verdict.state for verdict in hostile.told] == ["refused"]
    assert hostile.told[0].reason.startswith(refused[0]["code"])


def test_h08_an_oversized_package_is_not_stored(tmp_path: Path) -> None:
    def spoil(bench: Bench, person: HandNode) -> None:
        person.package = _oversized(bench, person)

    bench, report, expected = with_and_without(tmp_path, spoil)
    assert equal(bench.current(), expected)
    assert [lost["why"].split(":")[0] for lost in report.lost] == ["size"]


def test_h14_a_replayed_package_counts_once(tmp_path: Path) -> None:
    def spoil(bench: Bench, person: HandNode) -> None:
        person.package = bench.people[0].package

    bench, report, expected = with_and_without(tmp_path, spoil)
    assert equal(bench.current(), expected)
    assert len(report.outcome["merged"]) == 2


def _raises(message: Message, _node: HandNode) -> Message:
    return Message(Error(code=2, reason="<class 'ValueError'>:<'boom'>"), reply_to=message)


def _silent(_message: Message, _node: HandNode) -> None:
    return None


def _empty_body(message: Message, _node: HandNode) -> Message:
    from flwr.app import RecordDict

    return Message(RecordDict({}), reply_to=message)


def _foreign_keys(message: Message, node: HandNode) -> Message:
    from flwr.app import ArrayRecord, MetricRecord, RecordDict

    content = RecordDict(
        {
            "arrays": ArrayRecord([np.full((2, 2), np.nan)]),
            "metrics": MetricRecord({"num-examples": 1e12}),
        }
    )
    del node
    return Message(content, reply_to=message)


def _unasked_claims(message: Message, node: HandNode) -> Message:
    return collected(message, b"not what I named", node=node.node, sha256="f" * 64)


def _unpadded(message: Message, node: HandNode) -> Message:
    size = len(node.package)
    assert padding.padded_size(size) > size, "choose another package"
    body = CollectReply(node=node.node, sha256=node.sha256, size_bytes=size)
    return reply_with(message, body, node.package)


def _says_another_size(message: Message, node: HandNode) -> Message:
    size = len(node.package) - 1
    assert padding.padded_size(size) == padding.padded_size(size + 1), "choose another package"
    body = CollectReply(node=node.node, sha256=node.sha256, size_bytes=size)
    return reply_with(message, body, padding.pad(node.package))


def _says_no_size(message: Message, node: HandNode) -> Message:
    body = CollectReply(node=node.node, sha256=node.sha256)
    return reply_with(message, body, padding.pad(node.package))


TWISTS = [_raises, _silent, _empty_body, _foreign_keys, _unasked_claims]
TWISTS += [_unpadded, _says_another_size, _says_no_size]


@pytest.mark.parametrize("twist", TWISTS)
def test_h12_a_spoiled_reply_changes_nothing(
    tmp_path: Path, twist: Callable[[Message, HandNode], Message | None]
) -> None:
    def spoil(_bench: Bench, person: HandNode) -> None:
        person.twist = twist

    bench, report, expected = with_and_without(tmp_path, spoil)
    assert report.outcome["version"] == 1
    assert equal(bench.current(), expected)


def test_a_stale_package_expires_with_a_reason(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    late = bench.add(1)
    for _ in range(4):
        bench.registry.publish(bench.current(), strategy="test")
    late.held = 4
    report = bench.run().report
    assert report.outcome["version"] is None
    assert [(v.state, "versions behind" in v.reason) for v in late.told] == [("expired", True)]
