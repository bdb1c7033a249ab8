"""What a valid update and a valid global adapter are: each single fault is named and refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from federation.adapter.checks import check_global, check_update
from federation.adapter.delta import SCALES, encode
from federation.adapter.format import AdapterSpec, Arrays, config_bytes, initial_arrays
from federation.adapter.manifest import GlobalManifest, PackageManifest, canonical
from federation.adapter.package import Package, build_package, open_package
from federation.adapter.signing import SigningKey, pseudonym, sign
from federation.adapter.tensors import RawTensor, TensorFile, save_tensors
from federation.errors import BaseMismatchError, ConscienceError, FormatError, SignatureError
from tests.adapter_samples import PREFIX, make_sample, make_spec, random_arrays

KEY = SigningKey.generate()
NODE = pseudonym(KEY.public_hex)
SPEC = make_spec()
FIRST_A = PREFIX + "0.self_attn.q_proj.lora_A.weight"
FIRST_B = PREFIX + "0.self_attn.q_proj.lora_B.weight"
Raw = dict[str, RawTensor]


def forge(
    stored: Raw | None = None,
    *,
    config: bytes | None = None,
    unsigned: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Package:
    """Package as a dishonest node could make it: consistent and properly signed, but wrong.

    Args:
        stored: tensors as they lie in the file; None: a valid bf16 delta.
        config: content of adapter_config.json.
        unsigned: manifest fields changed after signing.
        fields: manifest fields changed before signing.
    """
    raw = encode(random_arrays(SPEC, 1), "bf16")[0] if stored is None else stored
    data, text = save_tensors(raw), config_bytes(SPEC) if config is None else config
    file = TensorFile.from_bytes(data)
    values: dict[str, Any] = {
        "node": NODE,
        "base_hash": SPEC.base_hash,
        "spec_hash": SPEC.spec_hash,
        "global_version": 0,
        "global_sha256": "0" * 64,
        "rank": SPEC.rank,
        "alpha": SPEC.alpha,
        "rslora": SPEC.rslora,
        "targets": SPEC.targets,
        "coding": "bf16",
        "examples": 10,
        "tokens": 100,
        "steps": 3,
        "loss_before": 2.0,
        "loss_after": 1.5,
        "tensors": {name: file.tensor_sha256(name) for name in file.names()},
        "config_sha256": hashlib.sha256(text).hexdigest(),
        "nonce": "5" * 32,
    }
    manifest = sign(PackageManifest(**(values | fields)), KEY).model_copy(update=unsigned or {})
    return open_package(build_package(data, text, canonical(manifest)), max_bytes=10**7)


def tensors_with(change: Callable[[Raw], None], coding: str = "bf16") -> Raw:
    raw = encode(random_arrays(SPEC, 1), coding)[0]
    change(raw)
    return raw


def put(name: str, value: RawTensor) -> Callable[[Raw], None]:
    return lambda raw: raw.__setitem__(name, value)


def poke(name: str, bits: int) -> Callable[[Raw], None]:
    """Set one stored bf16 value to `bits`."""

    def change(raw: Raw) -> None:
        raw[name][1, 2] = bits

    return change


def zeros(*shape: int) -> RawTensor:
    return np.zeros(shape, np.uint16)


@pytest.mark.parametrize("coding", ["bf16", "int8"])
def test_honest_update_passes(coding: Any) -> None:
    package = open_package(make_sample(SPEC, KEY, coding=coding), max_bytes=10**7)

    assert check_update(package, SPEC, node=NODE, public_key=KEY.public_hex) is None
    assert check_update(package, SPEC, node=NODE, public_key=None) is None


HOSTILE: dict[str, tuple[Callable[[], Package], str, str]] = {
    "NaN": (lambda: forge(tensors_with(poke(FIRST_A, 0x7FC0))), "finite", FIRST_A),
    "infinity": (lambda: forge(tensors_with(poke(FIRST_A, 0xFF80))), "finite", FIRST_A),
    "missing key": (lambda: forge(tensors_with(lambda raw: raw.pop(FIRST_B))), "schema", FIRST_B),
    "extra key": (
        lambda: forge(tensors_with(put(PREFIX + "9.x.lora_A.weight", zeros(4, 4)))),
        "schema",
        "9.x.lora_A",
    ),
    "frozen base weight": (
        lambda: forge(
            tensors_with(put(PREFIX + "0.self_attn.q_proj.base_layer.weight", zeros(32, 32)))
        ),
        "schema",
        "base_layer.weight",
    ),
    "wrong shape": (lambda: forge(tensors_with(put(FIRST_A, zeros(4, 31)))), "shape", FIRST_A),
    "transposed": (lambda: forge(tensors_with(put(FIRST_A, zeros(32, 4)))), "shape", FIRST_A),
    "broadcastable": (lambda: forge(tensors_with(put(FIRST_A, zeros(1, 32)))), "shape", FIRST_A),
    "scalar": (lambda: forge(tensors_with(put(FIRST_A, zeros()))), "shape", FIRST_A),
    "extra axis": (lambda: forge(tensors_with(put(FIRST_A, zeros(1, 4, 32)))), "shape", FIRST_A),
    "no values": (lambda: forge(tensors_with(put(FIRST_A, zeros(0, 32)))), "shape", FIRST_A),
    "wrong dtype": (
        lambda: forge(tensors_with(put(FIRST_A, np.zeros((4, 32), np.float32)))),
        "dtype",
        FIRST_A,
    ),
    "bf16 said to be int8": (lambda: forge(coding="int8"), "schema", SCALES),
    "int8 said to be bf16": (
        lambda: forge(tensors_with(lambda _raw: None, "int8")),
        "schema",
        SCALES,
    ),
    "int8 with scales of another rank": (
        lambda: forge(
            tensors_with(put(SCALES, np.ones((12, 5), np.float32)), "int8"), coding="int8"
        ),
        "shape",
        SCALES,
    ),
    "int8 with a NaN scale": (
        lambda: forge(
            tensors_with(put(SCALES, np.full((12, 4), np.nan, np.float32)), "int8"), coding="int8"
        ),
        "finite",
        "lora_A",
    ),
    "int8 with an overflowing scale": (
        lambda: forge(
            tensors_with(put(SCALES, np.full((12, 4), 3e38, np.float32)), "int8"), coding="int8"
        ),
        "finite",
        "lora_A",
    ),
    "no examples": (lambda: forge(examples=0), "examples", "0 examples"),
    "negative examples": (lambda: forge(examples=-5), "examples", "-5"),
    "1e12 examples": (lambda: forge(examples=10**12), "examples", "1000000000000"),
    "other base": (lambda: forge(base_hash="cd" * 32), "base", "semilla"),
    "other rank": (lambda: forge(rank=8), "rank", "rank 8"),
    "other alpha": (lambda: forge(alpha=32.0), "alpha", "32"),
    "rsLoRA": (lambda: forge(rslora=True), "alpha", "rsLoRA"),
    "other targets": (lambda: forge(targets=("q_proj",)), "spec", "spec"),
    "other spec hash": (lambda: forge(spec_hash="0" * 64), "spec", "spec"),
    "other config": (
        lambda: forge(config=config_bytes(make_spec(alpha=32))),
        "spec",
        "adapter_config.json",
    ),
    "config not the signed one": (
        lambda: forge(config_sha256="0" * 64),
        "signature",
        "adapter_config.json",
    ),
    "tensor not the signed one": (
        lambda: forge(tensors=dict.fromkeys(SPEC.shapes, "0" * 64)),
        "signature",
        "layers.0.mlp.down_proj.lora_A.weight",
    ),
    "tensor without a hash": (lambda: forge(tensors={}), "schema", "lists other tensors"),
    "other node's name": (lambda: forge(node="0" * 16), "identity", "0" * 16),
    "changed after signing": (lambda: forge(unsigned={"examples": 999}), "signature", "match"),
    "unsigned": (
        lambda: forge(unsigned={"public_key": "", "signature": ""}),
        "signature",
        "another key",
    ),
}


@pytest.mark.security
@pytest.mark.parametrize(("make", "code", "detail"), HOSTILE.values(), ids=HOSTILE.keys())
def test_h07_h11_hostile_update_is_refused_by_name(
    make: Callable[[], Package], code: str, detail: str
) -> None:
    refusal = check_update(make(), SPEC, node=NODE, public_key=KEY.public_hex)

    assert refusal is not None
    assert refusal.code == code
    assert detail in refusal.detail


def test_registered_key_decides_who_a_node_is() -> None:
    other = SigningKey.generate()
    package = forge()

    refusal = check_update(package, SPEC, node=NODE, public_key=other.public_hex)
    assert refusal is not None
    assert refusal.code == "identity"
    refusal = check_update(
        package, SPEC, node=pseudonym(other.public_hex), public_key=other.public_hex
    )
    assert refusal is not None
    assert refusal.code == "identity"


def test_global_adapter_is_no_update_and_an_update_is_no_global_adapter() -> None:
    refusal = check_update(make_global(), SPEC, node=NODE, public_key=KEY.public_hex)

    assert refusal is not None
    assert refusal.code == "format"
    with pytest.raises(FormatError, match="not a global adapter"):
        check_global(forge(), SPEC, public_key=KEY.public_hex)


def make_global(
    stored: Raw | None = None,
    *,
    spec: AdapterSpec = SPEC,
    config: bytes | None = None,
    key: SigningKey = KEY,
    **fields: Any,
) -> Package:
    """Global adapter as a dishonest server could make it."""
    raw: Mapping[str, RawTensor] = initial_arrays(spec, 0) if stored is None else stored
    data, text = save_tensors(raw), config_bytes(spec) if config is None else config
    values: dict[str, Any] = {
        "version": 0,
        "spec": spec.to_json(),
        "tensors_sha256": hashlib.sha256(data).hexdigest(),
        "config_sha256": hashlib.sha256(text).hexdigest(),
        "strategy": "fedit",
        "created_at": "2026-01-01T00:00:00Z",
    }
    manifest = sign(GlobalManifest(**(values | fields)), key)
    return open_package(build_package(data, text, canonical(manifest)), max_bytes=10**7)


def global_with(name: str, value: RawTensor) -> Package:
    arrays: Arrays = initial_arrays(SPEC, 0)
    return make_global({**arrays, name: value})


def test_honest_global_adapter_passes() -> None:
    check_global(make_global(), SPEC, public_key=KEY.public_hex)


BAD_GLOBALS: dict[str, tuple[Callable[[], Package], type[ConscienceError], str]] = {
    "other signer": (lambda: make_global(key=SigningKey.generate()), SignatureError, "another key"),
    "tensors swapped": (
        lambda: make_global(tensors_sha256="0" * 64),
        SignatureError,
        "adapter_model.safetensors",
    ),
    "config swapped": (
        lambda: make_global(config_sha256="0" * 64),
        SignatureError,
        "adapter_config.json",
    ),
    "other base": (
        lambda: make_global(spec=make_spec(base_hash="cd" * 32)),
        BaseMismatchError,
        "base",
    ),
    "other spec": (lambda: make_global(spec=make_spec(alpha=8)), FormatError, "another spec"),
    "other config": (
        lambda: make_global(config=config_bytes(make_spec(alpha=8))),
        FormatError,
        "adapter_config.json",
    ),
    "NaN": (
        lambda: global_with(FIRST_A, np.full((4, 32), np.nan, np.float32)),
        FormatError,
        FIRST_A,
    ),
    "base layer": (
        lambda: global_with("base_model.model.x.base_layer.weight", np.ones((2, 2), np.float32)),
        FormatError,
        "base_layer",
    ),
    "bf16": (lambda: global_with(FIRST_A, zeros(4, 32)), FormatError, "BF16"),
}


@pytest.mark.security
@pytest.mark.parametrize(("make", "error", "detail"), BAD_GLOBALS.values(), ids=BAD_GLOBALS.keys())
def test_h16_h28_bad_global_adapter_is_refused(
    make: Callable[[], Package], error: type[ConscienceError], detail: str
) -> None:
    with pytest.raises(error, match=detail):
        check_global(make(), SPEC, public_key=KEY.public_hex)
