"""The one definition of a valid update and of a valid global adapter, for node and server alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from federation.adapter.delta import SCALES, STORED, decode_tensor
from federation.adapter.format import AdapterSpec, config_bytes
from federation.adapter.instructions import Factors, Instructions
from federation.adapter.manifest import GlobalManifest, PackageManifest
from federation.adapter.package import Package
from federation.adapter.parts import at_rank, only
from federation.adapter.signing import pseudonym, verify
from federation.adapter.tensors import TensorFile
from federation.errors import BaseMismatchError, ConscienceError, FormatError, SignatureError

MAX_EXAMPLES = 10**9
BLOCK = 2**20
BOTH = Instructions()


@dataclass(frozen=True)
class Refusal:
    """Why an update is not let in.

    Attributes:
        code: schema|shape|dtype|rank|alpha|base|spec|version|finite|examples|signature|identity|
            norm|duplicate|stale|size|format|error
        detail: a sentence for the node's owner; names the tensor or the value.
    """

    code: str
    detail: str


def check_update(
    package: Package,
    spec: AdapterSpec,
    *,
    node: str,
    public_key: str | None,
    asked: Instructions = BOTH,
) -> Refusal | None:
    """Judge a delta by itself: no statistics, no comparison with others, no version rule.

    Args:
        package: opened package; its tensors are read one at a time.
        spec: what the federation agreed on.
        node: pseudonym of the node that handed it over, known from elsewhere.
        public_key: that node's key, 64 hex digits; None skips the signature (simulation only).
        asked: what the version that it was trained from asks of nodes.

    Returns:
        The first fault found, or None. A fault is never raised.
    """
    manifest = package.manifest
    if not isinstance(manifest, PackageManifest):
        return Refusal("format", "this is a global adapter, not an update")
    if asked.any_rank and 1 <= manifest.rank < spec.rank:
        spec = at_rank(spec, manifest.rank)
    factors = manifest.factors
    steps: tuple[Callable[[], Refusal | None], ...] = (
        lambda: _check_identity(manifest, node, public_key),
        lambda: _check_agreement(manifest, spec),
        lambda: _check_factors(manifest, asked),
        lambda: _check_config(package, manifest, spec),
        lambda: _check_examples(manifest),
        lambda: _check_schema(package.tensors, spec, manifest.coding, factors),
        lambda: _check_hashes(package.tensors, manifest),
        lambda: _check_finite(package.tensors, spec, manifest.coding, factors),
    )
    try:
        return next((refusal for step in steps if (refusal := step()) is not None), None)
    except SignatureError as err:
        return Refusal("signature", err.message)
    except ConscienceError as err:
        return Refusal("format", err.message)


def check_global(package: Package, spec: AdapterSpec, *, public_key: str) -> None:
    """Judge a global adapter before anything loads it; its place in the chain is not judged here.

    Raises:
        SignatureError: not signed by `public_key`, or a file that is not the signed one.
        BaseMismatchError: for another base model.
        FormatError: another spec, schema, shape or dtype, or a value that is not finite.
    """
    manifest = package.manifest
    if not isinstance(manifest, GlobalManifest):
        raise FormatError("this is an update, not a global adapter")
    verify(manifest, public_key=public_key)
    if hashlib.sha256(package.config_bytes).hexdigest() != manifest.config_sha256:
        raise SignatureError("adapter_config.json is not the file that was signed")
    if package.tensors.sha256() != manifest.tensors_sha256:
        raise SignatureError("adapter_model.safetensors is not the file that was signed")
    theirs = AdapterSpec.from_json(manifest.spec)
    if theirs.base_hash != spec.base_hash:
        raise BaseMismatchError(
            f"the global adapter is for the base {theirs.base_ref} ({theirs.base_hash[:12]}…), "
            f"this federation uses {spec.base_ref} ({spec.base_hash[:12]}…)"
        )
    if theirs != spec:
        raise FormatError("the global adapter has another spec than this federation")
    if package.config_bytes != config_bytes(spec):
        raise FormatError("adapter_config.json does not say what the federation agreed on")
    refusal = _check_schema(package.tensors, spec, "f32") or _check_finite(
        package.tensors, spec, "f32"
    )
    if refusal is not None:
        raise FormatError(f"the global adapter is not valid: {refusal.detail}")


def _check_identity(manifest: PackageManifest, node: str, public_key: str | None) -> Refusal | None:
    if manifest.node != node:
        return Refusal("identity", f"the package names node {manifest.node}, not {node}")
    if public_key is None:
        return None
    if pseudonym(public_key) != node:
        return Refusal("identity", f"the registered key is not the key of node {node}")
    verify(manifest, public_key=public_key)
    return None


def _check_agreement(manifest: PackageManifest, spec: AdapterSpec) -> Refusal | None:
    if manifest.base_hash != spec.base_hash:
        return Refusal("base", f"made for the base {manifest.base_hash[:12]}…, not {spec.base_ref}")
    if manifest.rank != spec.rank:
        return Refusal("rank", f"rank {manifest.rank}, expected {spec.rank}")
    if manifest.alpha != spec.alpha:
        return Refusal("alpha", f"alpha {manifest.alpha:g}, expected {spec.alpha:g}")
    if manifest.rslora != spec.rslora:
        return Refusal("alpha", f"rsLoRA {manifest.rslora}, expected {spec.rslora}")
    if manifest.targets != spec.targets or manifest.spec_hash != spec.spec_hash:
        return Refusal("spec", "made for another adapter spec than the federation's")
    return None


def _check_factors(manifest: PackageManifest, asked: Instructions) -> Refusal | None:
    if manifest.factors != asked.sends:
        return Refusal("schema", f"holds the factors {manifest.factors}, asked was {asked.sends}")
    return None


def _check_config(package: Package, manifest: PackageManifest, spec: AdapterSpec) -> Refusal | None:
    if hashlib.sha256(package.config_bytes).hexdigest() != manifest.config_sha256:
        return Refusal("signature", "adapter_config.json is not the file that was signed")
    if package.config_bytes != config_bytes(spec):
        return Refusal("spec", "adapter_config.json does not say what the federation agreed on")
    return None


def _check_examples(manifest: PackageManifest) -> Refusal | None:
    if not 1 <= manifest.examples <= MAX_EXAMPLES:
        return Refusal("examples", f"{manifest.examples} examples, allowed are 1…{MAX_EXAMPLES}")
    return None


def _check_schema(
    file: TensorFile, spec: AdapterSpec, coding: str, factors: Factors = "AB"
) -> Refusal | None:
    """Exactly these tensors of `spec`: PEFT itself would ignore missing and load extra ones."""
    expected = _expected(spec, coding, factors)
    for name in sorted(set(file.names()) ^ set(expected)):
        fault = "is missing" if name in expected else "does not belong here"
        return Refusal("schema", f"tensor {name[:200]} {fault}")
    for name, (dtype, shape) in expected.items():
        if file.dtype(name) != dtype:
            return Refusal("dtype", f"tensor {name} is {file.dtype(name)}, expected {dtype}")
        if file.shape(name) != shape:
            return Refusal("shape", f"tensor {name} has {file.shape(name)}, expected {shape}")
    return None


def _expected(
    spec: AdapterSpec, coding: str, factors: Factors
) -> dict[str, tuple[str, tuple[int, ...]]]:
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        name: (STORED[coding], shape) for name, shape in only(spec.shapes, factors).items()
    }
    if coding == "int8":
        expected[SCALES] = ("F32", (len(expected), spec.rank))
    return expected


def _check_hashes(file: TensorFile, manifest: PackageManifest) -> Refusal | None:
    if set(manifest.tensors) != set(file.names()):
        return Refusal("schema", "the manifest lists other tensors than the package holds")
    for name in file.names():
        if file.tensor_sha256(name) != manifest.tensors[name]:
            return Refusal("signature", f"tensor {name} is not the one that was signed")
    return None


def _check_finite(
    file: TensorFile, spec: AdapterSpec, coding: str, factors: Factors = "AB"
) -> Refusal | None:
    for name in only(spec.shapes, factors):
        if not _is_finite(decode_tensor(file, name, coding)):
            return Refusal("finite", f"tensor {name} holds a value that is not finite")
    return None


def _is_finite(values: npt.NDArray[np.float32]) -> bool:
    flat = values.reshape(-1)
    blocks = range(0, flat.size, BLOCK)
    return all(bool(np.isfinite(flat[begin : begin + BLOCK]).all()) for begin in blocks)
