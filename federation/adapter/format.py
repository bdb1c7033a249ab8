"""What an adapter is: its spec, its tensor names and shapes, and its folder on disk."""

from __future__ import annotations

import hashlib
import math
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from federation import durable
from federation.adapter.manifest import (
    GlobalManifest,
    canonical,
    parse_object,
    read_global,
    sha256_of,
)
from federation.adapter.tensors import Arrays, RawTensor, StoredArrays, TensorFile, save_tensors
from federation.errors import AdapterError, FormatError, SignatureError

__all__ = [
    "AdapterSpec",
    "Arrays",
    "RawTensor",
    "TensorFile",
    "config_bytes",
    "initial_arrays",
    "open_adapter_folder",
    "peft_config",
    "read_adapter_folder",
    "save_tensors",
    "write_adapter_folder",
]

TENSORS, CONFIG, MANIFEST = "adapter_model.safetensors", "adapter_config.json", "manifest.json"
PREFIX = "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"
MAX_CONFIG_BYTES = 64 * 2**10
MAX_RANK = 4096

_NAME = re.compile(r"base_model\.model\.[A-Za-z0-9_.]+\.lora_[AB]\.weight")
_REF = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?", re.ASCII)
_TARGET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*")
_HASH = re.compile(r"([0-9a-f]{64})?")


@dataclass(frozen=True)
class AdapterSpec:
    """What all nodes of a federation agree on.

    Attributes:
        base_hash: identity of the base model, sha256 hex; "" when unknown (a bare PEFT folder).
        base_ref: a person's name for it ("semilla", "Qwen/…"); never a path.
        targets: sorted suffixes of the target modules.
        shapes: tensor name -> shape, sorted by name; A is (rank, d_in), B is (d_out, rank).

    Raises:
        FormatError: the values contradict each other or are out of range.
    """

    base_hash: str
    base_ref: str
    rank: int
    alpha: float
    rslora: bool
    targets: tuple[str, ...]
    shapes: Mapping[str, tuple[int, int]] = field(hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha", float(self.alpha))
        object.__setattr__(self, "targets", tuple(sorted(self.targets)))
        ordered = {name: tuple(self.shapes[name]) for name in sorted(self.shapes)}
        object.__setattr__(self, "shapes", ordered)
        _require_sane(self)

    @property
    def scale(self) -> float:
        """Factor of B @ A: alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @property
    def spec_hash(self) -> str:
        """Sha256 hex of the canonical JSON form."""
        return sha256_of(self.to_json())

    @property
    def tensor_bytes(self) -> int:
        """Size of all tensors in f32."""
        return 4 * sum(rows * columns for rows, columns in self.shapes.values())

    def modules(self) -> tuple[str, ...]:
        """Module paths, sorted: tensor names without ".lora_A.weight" / ".lora_B.weight"."""
        return tuple(name.removesuffix(A) for name in self.shapes if name.endswith(A))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON content; `from_json` reads it back."""
        return {
            "base_hash": self.base_hash,
            "base_ref": self.base_ref,
            "rank": self.rank,
            "alpha": self.alpha,
            "rslora": self.rslora,
            "targets": list(self.targets),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> AdapterSpec:
        """Read what `to_json` wrote.

        Raises:
            FormatError: a key is missing, unknown, or of the wrong kind.
        """
        try:
            model = _SpecModel.model_validate(dict(content))
        except ValidationError as err:
            first = err.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise FormatError(f"adapter spec: '{place}': {first['msg']}") from err
        return cls(**dict(model))


class _SpecModel(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    base_hash: str
    base_ref: str
    rank: Annotated[int, Field(strict=True)]
    alpha: float
    rslora: Annotated[bool, Field(strict=True)]
    targets: tuple[str, ...]
    shapes: dict[str, tuple[Annotated[int, Field(strict=True)], Annotated[int, Field(strict=True)]]]


def initial_arrays(spec: AdapterSpec, seed: int) -> Arrays:
    """Begin as PEFT does: A uniform in ±1/sqrt(d_in) (kaiming, a = sqrt(5)), B zero; f32."""
    rng = np.random.default_rng(seed)
    arrays: Arrays = {}
    for name, shape in spec.shapes.items():
        if name.endswith(B):
            arrays[name] = np.zeros(shape, np.float32)
        else:
            bound = 1.0 / math.sqrt(shape[1])
            arrays[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
    return arrays


def peft_config(spec: AdapterSpec) -> dict[str, Any]:
    """Content of the `adapter_config.json` that stock `PeftModel.from_pretrained` loads."""
    alpha = int(spec.alpha) if spec.alpha.is_integer() else spec.alpha
    return {
        "base_model_name_or_path": spec.base_ref,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": spec.rank,
        "target_modules": list(spec.targets),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": spec.rslora,
    }


def config_bytes(spec: AdapterSpec) -> bytes:
    """The one form of `adapter_config.json` that belongs to `spec`."""
    return canonical(peft_config(spec))


def write_adapter_folder(
    folder: Path,
    arrays: Mapping[str, RawTensor],
    spec: AdapterSpec,
    manifest: GlobalManifest | None,
) -> None:
    """Write a PEFT folder beside `folder` and rename it into place.

    Args:
        folder: must not exist yet.
        arrays: f32 tensors, exactly those of `spec`.
        spec: written as `adapter_config.json`.
        manifest: written as `manifest.json` unless None.

    Raises:
        AdapterError: `folder` exists, or `arrays` are not those of `spec`.
    """
    if folder.exists():
        raise AdapterError(f"{folder} exists already; adapter folders are never overwritten")
    require_shapes(arrays, spec)
    durable.make_folder(folder.parent)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        durable.write_bytes(aside / TENSORS, save_tensors(arrays))
        durable.write_bytes(aside / CONFIG, config_bytes(spec))
        if manifest is not None:
            durable.write_bytes(aside / MANIFEST, canonical(manifest))
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    durable.sync_folder(folder.parent)


def read_adapter_folder(folder: Path) -> tuple[Arrays, AdapterSpec, GlobalManifest | None]:
    """Read an adapter folder into memory; checks and errors as `open_adapter_folder`."""
    stored, spec, manifest = open_adapter_folder(folder)
    return dict(stored), spec, manifest


def open_adapter_folder(
    folder: Path,
) -> tuple[StoredArrays, AdapterSpec, GlobalManifest | None]:
    """Open an adapter folder; with a manifest, both files must have the hashes it names.

    The manifest's own signature is not checked here (`federation.adapter.signing.verify`).
    Without a manifest the spec comes from `adapter_config.json`, with an empty `base_hash`.

    Raises:
        FormatError: a file is missing or malformed, or the tensors are not those of the spec.
        SignatureError: a file is not the one that the manifest names.
    """
    config = _read_small(folder / CONFIG, MAX_CONFIG_BYTES)
    tensors_path = _require_file(folder / TENSORS)
    file = TensorFile.open(tensors_path)
    manifest = None
    if (folder / MANIFEST).is_file():
        manifest = read_global((folder / MANIFEST).read_bytes())
        spec = AdapterSpec.from_json(manifest.spec)
        if hashlib.sha256(config).hexdigest() != manifest.config_sha256:
            raise SignatureError(f"{folder / CONFIG} is not the file that was signed")
        if _hash_of(tensors_path) != manifest.tensors_sha256:
            raise SignatureError(f"{tensors_path} is not the file that was signed")
    else:
        spec = _spec_of_config(parse_object(config, CONFIG), file)
    require_shapes({name: file.array(name) for name in file.names()}, spec)
    return StoredArrays(tensors_path, file), spec, manifest


def _hash_of(path: Path) -> str:
    """Sha256 of a file, read in pieces: hashing the map would put all of it in memory."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def require_shapes(arrays: Mapping[str, RawTensor], spec: AdapterSpec) -> None:
    """Refuse anything but exactly the f32 tensors of `spec`.

    Raises:
        FormatError: names the first tensor that is missing, extra, or of another shape or dtype.
    """
    for name in sorted(set(arrays) ^ set(spec.shapes)):
        fault = "is missing from the adapter" if name in spec.shapes else "is not in the spec"
        raise FormatError(f"tensor {name[:200]} {fault}")
    for name, shape in spec.shapes.items():
        if arrays[name].dtype != np.float32:
            raise FormatError(f"tensor {name} is {arrays[name].dtype}, expected float32")
        if arrays[name].shape != shape:
            raise FormatError(f"tensor {name} has shape {arrays[name].shape}, expected {shape}")


def _require_sane(spec: AdapterSpec) -> None:
    if not _HASH.fullmatch(spec.base_hash):
        raise FormatError("adapter spec: base_hash must be 64 hex digits")
    if not _REF.fullmatch(spec.base_ref) or len(spec.base_ref) > 200:
        raise FormatError("adapter spec: base_ref must be a model's name, never a path")
    if not 1 <= spec.rank <= MAX_RANK:
        raise FormatError(f"adapter spec: rank {spec.rank} is not within 1…{MAX_RANK}")
    if not (math.isfinite(spec.alpha) and spec.alpha > 0):
        raise FormatError(f"adapter spec: alpha {spec.alpha} is not a positive number")
    if not spec.targets or not all(_TARGET.fullmatch(target) for target in spec.targets):
        raise FormatError("adapter spec: targets must be names of modules")
    if not spec.shapes:
        raise FormatError("adapter spec: there are no tensors")
    for name, shape in spec.shapes.items():
        _require_pair(spec, name, shape)


def _require_pair(spec: AdapterSpec, name: str, shape: tuple[int, ...]) -> None:
    if not _NAME.fullmatch(name):
        raise FormatError(f"adapter spec: {name[:200]} is not the name of a LoRA tensor")
    other = name.removesuffix(A) + B if name.endswith(A) else name.removesuffix(B) + A
    if other not in spec.shapes:
        raise FormatError(f"adapter spec: {name} has no partner {other}")
    rank_axis = 0 if name.endswith(A) else 1
    if len(shape) != 2 or min(shape) < 1 or shape[rank_axis] != spec.rank:
        raise FormatError(f"adapter spec: {name} has shape {shape} at rank {spec.rank}")


def _spec_of_config(config: Mapping[str, Any], file: TensorFile) -> AdapterSpec:
    if config.get("peft_type") != "LORA":
        raise FormatError(f"{CONFIG} describes no LoRA adapter")
    return AdapterSpec.from_json(
        {
            "base_hash": "",
            "base_ref": config.get("base_model_name_or_path"),
            "rank": config.get("r"),
            "alpha": config.get("lora_alpha"),
            "rslora": config.get("use_rslora", False),
            "targets": config.get("target_modules"),
            "shapes": {name: list(file.shape(name)) for name in file.names()},
        }
    )


def _require_file(path: Path) -> Path:
    if not path.is_file():
        raise FormatError(f"{path} does not exist")
    return path


def _read_small(path: Path, max_bytes: int) -> bytes:
    with _require_file(path).open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise FormatError(f"{path} is larger than {max_bytes} bytes")
    return data
