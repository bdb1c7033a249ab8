"""Adapter specs, safetensors headers, and adapter folders that stock PEFT loads."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from federation.adapter.format import (
    AdapterSpec,
    config_bytes,
    initial_arrays,
    open_adapter_folder,
    peft_config,
    read_adapter_folder,
    write_adapter_folder,
)
from federation.adapter.manifest import GlobalManifest, sha256_of
from federation.adapter.tensors import TensorFile, save_tensors
from federation.errors import AdapterError, FormatError, SignatureError
from tests.adapter_samples import PREFIX, make_spec, random_arrays

NAME = PREFIX + "0.self_attn.q_proj.lora_A.weight"


def raw_file(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: Any, begin: Any, end: Any, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HOSTILE_FILES = {
    "empty": b"",
    "too short": b"\0" * 7,
    "header beyond the file": struct.pack("<Q", 100) + b"{}",
    "header over the cap": struct.pack("<Q", 2**20 + 1) + b" " * (2**20 + 1),
    "header of 2**64 - 1": b"\xff" * 8 + b"{}",
    "not JSON": raw_file(b"{"),
    "not UTF-8": raw_file(b'{"\xff": 1}'),
    "not an object": raw_file([1]),
    "deep nesting": raw_file(b"[" * 200_000),
    "duplicate key": raw_file(
        b'{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},'
        b'"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}',
        b"x",
    ),
    "metadata of its own": raw_file({"__metadata__": {"format": "pt", "host": "x"}}),
    "unknown dtype": raw_file({"a": entry([1], 0, 8, "F64")}, b"x" * 8),
    "dtype not a string": raw_file({"a": entry([1], 0, 4, ["F32"])}, b"x" * 4),
    "shape not a list": raw_file({"a": entry("11", 0, 4)}, b"x" * 4),
    "shape of objects": raw_file({"a": entry([{"n": 1}], 0, 4)}, b"x" * 4),
    "shape of booleans": raw_file({"a": entry([True], 0, 4)}, b"x" * 4),
    "shape of floats": raw_file({"a": entry([1.0], 0, 4)}, b"x" * 4),
    "negative shape": raw_file({"a": entry([-1, -1], 0, 4)}, b"x" * 4),
    "shape overflowing 64 bits": raw_file({"a": entry([2**32, 2**32, 1], 0, 0)}),
    "too many dimensions": raw_file({"a": entry([1] * 9, 0, 4)}, b"x" * 4),
    "shape and length disagree": raw_file({"a": entry([2], 0, 4)}, b"x" * 4),
    "negative offset": raw_file({"a": entry([1], -4, 0)}, b"x" * 4),
    "falling offsets": raw_file({"a": entry([1], 4, 0)}, b"x" * 4),
    "offsets out of bounds": raw_file({"a": entry([2], 0, 8)}, b"x" * 4),
    "gap at the beginning": raw_file({"a": entry([1], 4, 8)}, b"x" * 8),
    "gap between": raw_file({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, b"x" * 12),
    "overlap": raw_file({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, b"x" * 12),
    "two on the same bytes": raw_file({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, b"x" * 4),
    "trailing bytes": raw_file({"a": entry([1], 0, 4)}, b"x" * 5),
    "extra field": raw_file({"a": entry([1], 0, 4) | {"x": 1}}, b"x" * 4),
    "three offsets": raw_file(
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}}, b"x" * 4
    ),
    "entry is nested": raw_file({"a": {"b": entry([1], 0, 4)}}, b"x" * 4),
}


@pytest.mark.parametrize("data", HOSTILE_FILES.values(), ids=HOSTILE_FILES.keys())
def test_hostile_tensor_files_are_refused_with_a_sentence(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"^[^\n]{10,400}$"):
        TensorFile.from_bytes(data)


def test_saved_tensors_are_what_the_safetensors_library_reads() -> None:
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([[-3, 7]], np.int8)}

    data = save_tensors(arrays)

    loaded = safetensors.numpy.load(data)
    assert set(loaded) == {"a", "b"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)
    assert data == save_tensors(dict(reversed(arrays.items())))


def test_files_of_the_safetensors_library_are_read() -> None:
    arrays = random_arrays(make_spec(), 3)

    file = TensorFile.from_bytes(safetensors.numpy.save(arrays, {"format": "pt"}))

    assert file.names() == sorted(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(file.array(name), array)


def test_tensors_of_a_region_are_mapped_read_only(tmp_path: Path) -> None:
    arrays = {"x": np.array([[1.5, -2.5]], np.float32), "e": np.empty((0, 3), np.float32)}
    data = save_tensors(arrays)
    path = tmp_path / "region"
    path.write_bytes(b"junk!" + data + b"more")

    file = TensorFile.open(path, offset=5, length=len(data))

    np.testing.assert_array_equal(file.array("x"), arrays["x"])
    assert file.shape("e") == (0, 3)
    with pytest.raises(ValueError, match="read-only"):
        file.array("x")[0, 0] = 0
    with pytest.raises(FormatError, match="no tensor"):
        file.array("y")
    for offset, length in ((-1, 10), (5, 10**6), (10**6, None), (5, 4)):
        with pytest.raises(FormatError):
            TensorFile.open(path, offset, length)


def test_tensors_of_another_dtype_are_not_saved() -> None:
    with pytest.raises(FormatError, match="float64"):
        save_tensors({"x": np.zeros(3)})  # type: ignore[dict-item]


def test_spec_survives_json_and_its_hash_does_not_depend_on_order() -> None:
    spec = make_spec()
    shuffled = make_spec(targets=tuple(reversed(spec.targets)))

    again = AdapterSpec.from_json(json.loads(json.dumps(spec.to_json())))

    assert again == spec == shuffled
    assert again.spec_hash == spec.spec_hash == shuffled.spec_hash
    assert make_spec(alpha=8).spec_hash != spec.spec_hash
    assert spec.modules()[0] == PREFIX + "0.mlp.down_proj"


def test_scale_is_alpha_over_rank_or_its_root() -> None:
    assert make_spec(rank=4, alpha=16).scale == 4.0
    assert make_spec(rank=4, alpha=16, rslora=True).scale == 8.0


@pytest.mark.parametrize(
    "change",
    [
        {"rank": 0},
        {"alpha": 0.0},
        {"alpha": float("nan")},
        {"base_hash": "xyz"},
        {"base_ref": "/home/someone/model"},
        {"base_ref": "../model"},
        {"base_ref": "C:\\model"},
        {"targets": ()},
        {"targets": ("a b",)},
    ],
    ids=str,
)
def test_contradictory_specs_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="adapter spec"):
        make_spec(**change)


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {NAME: (4, 32)},
        {NAME: (3, 32), NAME.replace("_A", "_B"): (32, 4)},
        {NAME: (4, 0), NAME.replace("_A", "_B"): (32, 4)},
        {NAME.replace("lora_A", "base_layer"): (4, 32)},
    ],
    ids=["none", "no partner", "other rank", "empty", "base layer"],
)
def test_impossible_shapes_are_refused(shapes: dict[str, tuple[int, int]]) -> None:
    with pytest.raises(FormatError, match="adapter spec"):
        AdapterSpec("ab" * 32, "semilla", 4, 16.0, False, ("q_proj",), shapes)


@pytest.mark.parametrize(
    "change", [{"rank": "4"}, {"rank": True}, {"shapes": {NAME: [4]}}, {"more": 1}], ids=str
)
def test_json_that_is_no_spec_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="adapter spec"):
        AdapterSpec.from_json(make_spec().to_json() | change)


def test_initial_arrays_change_nothing_and_depend_on_the_seed_alone() -> None:
    spec = make_spec()

    arrays = initial_arrays(spec, 5)

    assert all(array.dtype == np.float32 for array in arrays.values())
    assert all(not arrays[name].any() for name in arrays if name.endswith("lora_B.weight"))
    assert 0.15 < np.abs(arrays[NAME]).max() <= 1 / np.sqrt(32)
    np.testing.assert_array_equal(arrays[NAME], initial_arrays(spec, 5)[NAME])
    assert (arrays[NAME] != initial_arrays(spec, 6)[NAME]).any()


def test_folder_gives_back_arrays_and_spec(tmp_path: Path) -> None:
    spec = make_spec()
    arrays = random_arrays(spec, 1)
    manifest = manifest_of(spec, arrays)

    write_adapter_folder(tmp_path / "v0", arrays, spec, manifest)
    read, read_spec, read_manifest = read_adapter_folder(tmp_path / "v0")

    assert (read_spec, read_manifest) == (spec, manifest)
    assert all((read[name] == arrays[name]).all() for name in spec.shapes)
    assert sorted(path.name for path in tmp_path.glob("v0/*")) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    ]
    assert not list(tmp_path.glob(".*.tmp"))


def test_opened_folder_reads_each_tensor_anew_and_notices_a_file_cut_short(tmp_path: Path) -> None:
    spec = make_spec()
    arrays = random_arrays(spec, 1)
    write_adapter_folder(tmp_path / "v0", arrays, spec, manifest_of(spec, arrays))

    stored = open_adapter_folder(tmp_path / "v0")[0]

    assert list(stored) == sorted(spec.shapes)
    assert all((stored[name] == arrays[name]).all() for name in stored)
    stored[NAME][:] = 7.0
    assert (stored[NAME] == arrays[NAME]).all()
    path = tmp_path / "v0" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(FormatError, match="cut short"):
        dict(stored)


def test_folder_without_manifest_takes_its_spec_from_the_config(tmp_path: Path) -> None:
    spec = make_spec(base_hash="")
    write_adapter_folder(tmp_path / "bare", random_arrays(spec, 1), spec, None)

    assert read_adapter_folder(tmp_path / "bare")[1:] == (spec, None)


def test_folder_is_never_overwritten_nor_left_half_written(tmp_path: Path) -> None:
    spec = make_spec()
    arrays = random_arrays(spec, 1)
    write_adapter_folder(tmp_path / "v0", arrays, spec, None)

    with pytest.raises(AdapterError, match="exists already"):
        write_adapter_folder(tmp_path / "v0", arrays, spec, None)
    with pytest.raises(FormatError, match="missing"):
        write_adapter_folder(tmp_path / "v1", {}, spec, None)
    assert [path.name for path in tmp_path.glob("*v1*")] == []


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_tampered_file_in_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    spec = make_spec()
    arrays = random_arrays(spec, 1)
    write_adapter_folder(tmp_path / "v0", arrays, spec, manifest_of(spec, arrays))
    path = tmp_path / "v0" / name
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)

    with pytest.raises(SignatureError, match=name):
        read_adapter_folder(tmp_path / "v0")


def test_folder_with_a_file_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"adapter_config\.json does not exist"):
        read_adapter_folder(tmp_path)


def manifest_of(spec: AdapterSpec, arrays: Any) -> GlobalManifest:
    return GlobalManifest(
        version=0,
        spec=spec.to_json(),
        tensors_sha256=TensorFile.from_bytes(save_tensors(arrays)).sha256(),
        config_sha256=sha256_of(json.loads(config_bytes(spec))),
        strategy="fedit",
        created_at="2026-01-01T00:00:00Z",
    )


# peft 0.21 asks transformers 5 for an attribute under its old name
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("rslora", [False, True])
def test_stock_peft_loads_the_folder_and_computes_what_we_mean(
    tmp_path: Path, rslora: bool
) -> None:
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    from tests.tiny_model import make_tiny_llama

    folder = make_tiny_llama(tmp_path / "base")
    linears = {
        "self_attn.q_proj": (32, 32),
        "self_attn.k_proj": (32, 16),
        "self_attn.v_proj": (32, 16),
        "self_attn.o_proj": (32, 32),
        "mlp.gate_proj": (32, 64),
        "mlp.up_proj": (32, 64),
        "mlp.down_proj": (64, 32),
    }
    spec = make_spec(linears=linears, rslora=rslora, alpha=12.0)
    arrays = random_arrays(spec, 9, scale=0.2)
    write_adapter_folder(tmp_path / "adapter", arrays, spec, None)
    tokens = torch.tensor([[1, 5, 9, 33, 7, 2]])

    by_hand = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    plain = by_hand(tokens).logits
    with torch.no_grad():
        for module in spec.modules():
            change = (
                spec.scale * arrays[module + ".lora_B.weight"] @ arrays[module + ".lora_A.weight"]
            )
            by_hand.get_submodule(
                module.removeprefix("base_model.model.")
            ).weight += torch.from_numpy(change)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()

    expected, got = by_hand(tokens).logits, loaded(tokens).logits
    assert (expected - plain).abs().max() > 0.1
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert loaded.peft_config["default"].base_model_name_or_path == "semilla"
    assert peft_config(spec)["base_model_name_or_path"] == "semilla"
