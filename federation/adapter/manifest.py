"""Manifests of packages and global adapters, and the one JSON form that is hashed and signed."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from federation.adapter.instructions import Factors, Instructions
from federation.errors import FormatError

FORMAT_VERSION = 1
MAX_MANIFEST_BYTES = 16 * 2**20
Coding = Literal["bf16", "int8"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
TensorName = Annotated[str, AfterValidator(sys.intern)]  # the same in every package: held once
NodeId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Key = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
Signature = Annotated[str, Field(pattern=r"^([0-9a-f]{128})?$")]
Whole = Annotated[int, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=0)]
M = TypeVar("M", bound="Manifest")


class Manifest(BaseModel):
    """Base of both manifests: frozen, unknown keys refused, no NaN and no infinity.

    Keys in `usual` are left out while they hold their default: what needs none of them stays
    readable to whoever does not know them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    usual: ClassVar[tuple[str, ...]] = ()
    format: Whole = FORMAT_VERSION
    public_key: Key = ""
    signature: Signature = ""

    @model_serializer(mode="wrap")
    def _without_the_usual(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        content: dict[str, Any] = write(self)
        for name in self.usual:
            if getattr(self, name) == fields[name].default:
                content.pop(name, None)
        return content


class PackageManifest(Manifest):
    """What a node says about its delta; signed by the node.

    Attributes:
        node: the node's pseudonym, first 16 hex digits of sha256 of its public key.
        global_version: version of the global adapter that training started from.
        global_sha256: sha256 of that version's canonical manifest.
        examples: as the node counted them; judged by `federation.adapter.checks`.
        loss_before: held-out loss in nats per token, before training.
        loss_after: the same, after training.
        tensors: stored tensor name -> sha256 of its raw bytes.
        config_sha256: sha256 of `adapter_config.json`.
        nonce: 32 random hex digits; makes every package unique.
        factors: those it holds; `rank` may be lower than the federation's.
    """

    usual: ClassVar[tuple[str, ...]] = ("factors",)
    kind: Literal["delta"] = "delta"
    node: NodeId
    base_hash: Sha256
    spec_hash: Sha256
    global_version: Count
    global_sha256: Sha256
    rank: Whole
    alpha: float
    rslora: bool
    targets: tuple[str, ...]
    coding: Coding
    examples: Whole
    tokens: Count
    steps: Count
    loss_before: float
    loss_after: float
    tensors: dict[TensorName, Sha256]
    config_sha256: Sha256
    nonce: Hex32
    factors: Factors = "AB"


class InputRecord(BaseModel):
    """One package that went into a global version, and the share it had.

    Every node reads it, so it does not say whose package it was; the node itself knows its hash.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    sha256: Sha256
    weight: float
    staleness: Count = 0


class BaseRecord(BaseModel):
    """What a version adds to the frozen base model.

    Attributes:
        rank: of the whole base delta.
        sha256: of its `adapter_model.safetensors`.
        begun: from that version on rows were only added.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    rank: Annotated[int, Field(strict=True, ge=1)]
    sha256: Sha256
    begun: Count


class GlobalManifest(Manifest):
    """What the operator says about one global version; signed by the operator.

    Attributes:
        parent_sha256: sha256 of the canonical manifest of the version before; "" for v0.
        spec: `AdapterSpec.to_json()`.
        tensors_sha256: sha256 of `adapter_model.safetensors`.
        config_sha256: sha256 of `adapter_config.json`.
        gate: the gate's findings, plain JSON.
        created_at: UTC, ISO 8601 with seconds.
        instructions: what nodes that train from this version train and send.
        base: what goes into the base model beside the adapter; None is nothing.
    """

    usual: ClassVar[tuple[str, ...]] = ("instructions", "base")
    kind: Literal["global"] = "global"
    version: Count
    parent_sha256: Key = ""
    spec: dict[str, Any]
    tensors_sha256: Sha256
    config_sha256: Sha256
    strategy: str = Field(max_length=100)
    inputs: tuple[InputRecord, ...] = ()
    gate: dict[str, Any] = Field(default_factory=dict)
    created_at: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|\+00:00)$")
    instructions: Instructions = Instructions()
    base: BaseRecord | None = None


def canonical(content: BaseModel | Mapping[str, Any]) -> bytes:
    """Write JSON in its one form: sorted keys, no spaces, UTF-8, floats by repr.

    Raises:
        FormatError: holds NaN, an infinity, or something JSON has no form for.
    """
    plain = content.model_dump(mode="json") if isinstance(content, BaseModel) else content
    try:
        text = json.dumps(
            plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
        return text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as err:
        raise FormatError(f"this content has no canonical JSON form: {err}") from err


def sha256_of(content: BaseModel | Mapping[str, Any]) -> str:
    """Hash the canonical JSON form, signature included; 64 hex digits."""
    return hashlib.sha256(canonical(content)).hexdigest()


def parse_object(data: bytes, what: str, *, max_bytes: int = MAX_MANIFEST_BYTES) -> dict[str, Any]:
    """Read one JSON object, refusing duplicate keys, NaN and deep nesting.

    Args:
        data: UTF-8 JSON.
        what: name of the thing for error messages.
        max_bytes: refuse longer data unread.

    Raises:
        FormatError: not one such object.
    """
    if len(data) > max_bytes:
        raise FormatError(f"{what} is larger than {max_bytes} bytes")
    try:
        content = json.loads(
            data.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as err:
        raise FormatError(f"{what} is not valid JSON: {err}") from err
    if not isinstance(content, dict):
        raise FormatError(f"{what} must hold one JSON object")
    return content


def read_manifest(data: bytes) -> PackageManifest | GlobalManifest:
    """Read either manifest from its canonical JSON.

    Raises:
        FormatError: malformed, not in canonical form, or made by a newer version.
    """
    kind = parse_object(data, "manifest.json").get("kind")
    if kind == "delta":
        return _validated(PackageManifest, data)
    if kind == "global":
        return _validated(GlobalManifest, data)
    raise FormatError("manifest.json names no known kind (delta or global)")


def read_global(data: bytes | str) -> GlobalManifest:
    """Read a global manifest from its canonical JSON.

    Raises:
        FormatError: malformed, not canonical, newer, or the manifest of a delta.
    """
    manifest = read_manifest(data.encode("utf-8", "replace") if isinstance(data, str) else data)
    if not isinstance(manifest, GlobalManifest):
        raise FormatError("this is the manifest of a delta, not of a global adapter")
    return manifest


def _validated(kind: type[M], data: bytes) -> M:
    version = parse_object(data, "manifest.json").get("format")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise FormatError(
            f"manifest.json was made by a newer version (format {version}, known: "
            f"{FORMAT_VERSION})",
            hint="Install the newer version of conscienceai.",
        )
    try:
        manifest = kind.model_validate_json(data)
    except ValidationError as err:
        first = err.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise FormatError(f"manifest.json: '{place}': {first['msg']}") from err
    if manifest.format != FORMAT_VERSION:
        raise FormatError(f"manifest.json has the unknown format {manifest.format}")
    if canonical(manifest) != data:
        raise FormatError("manifest.json is not in canonical form")
    return manifest


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
