"""From a trained adapter to the package that leaves this machine, every byte of it explained."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from client.noise import Blur
from federation.adapter import checks
from federation.adapter.delta import coded_names, decode_tensor, encode, subtract
from federation.adapter.format import (
    CONFIG,
    MANIFEST,
    TENSORS,
    AdapterSpec,
    config_bytes,
)
from federation.adapter.instructions import Factors, Instructions
from federation.adapter.manifest import Coding, PackageManifest, canonical
from federation.adapter.package import Package, build_package, open_package
from federation.adapter.parts import only
from federation.adapter.signing import SigningKey, pseudonym, sign
from federation.adapter.tensors import Arrays, TensorFile, save_tensors
from federation.errors import FormatError, SignatureError
from federation.language import _

MAX_PACKAGE_BYTES = 2**32 - 1
FRAMING = "zip"


@dataclass(frozen=True)
class PackageFacts:
    """What the manifest says beside the tensors.

    Attributes:
        global_version: version of the global adapter that training started from.
        global_sha256: sha256 of that version's canonical manifest.
        examples: training examples used.
        loss_before: held-out loss in nats per token, before training.
        coding: how the delta travels.
        factors: those that are sent.
        blur: clipping and noise on what is sent.
    """

    global_version: int
    global_sha256: str
    examples: int
    tokens: int
    steps: int
    loss_before: float
    loss_after: float
    coding: Coding = "bf16"
    factors: Factors = "AB"
    blur: Blur = field(default_factory=Blur)


class Part(NamedTuple):
    """Some bytes of a package: `what` says what they are and what they can reveal."""

    member: str
    field: str
    size_bytes: int
    what: str


def make_package(
    trained: Arrays,
    start: Arrays,
    spec: AdapterSpec,
    facts: PackageFacts,
    key: SigningKey,
    residual: Arrays | None = None,
) -> tuple[bytes, Arrays]:
    """Pack what training changed.

    Args:
        trained: adapter after training; not modified.
        start: the global adapter it was trained from; not modified.
        spec: what the federation agreed on, at the rank of `trained`.
        facts: for the manifest.
        key: the node's signing key.
        residual: what earlier codings of the same factors lost (error feedback); None counts as
            zero.

    Returns:
        The package, and what its coding lost: keep that for the next package, never send it.

    Raises:
        FormatError: the delta is not one that the server would take.
    """
    change = only(subtract(trained, start), facts.factors)
    coded, lost = encode(facts.blur.apply(change), facts.coding, residual)
    tensors = save_tensors(coded)
    file = TensorFile.from_bytes(tensors)
    config = config_bytes(spec)
    manifest = PackageManifest(
        node=pseudonym(key.public_hex),
        base_hash=spec.base_hash,
        spec_hash=spec.spec_hash,
        global_version=facts.global_version,
        global_sha256=facts.global_sha256,
        rank=spec.rank,
        alpha=spec.alpha,
        rslora=spec.rslora,
        targets=spec.targets,
        coding=facts.coding,
        examples=facts.examples,
        tokens=facts.tokens,
        steps=facts.steps,
        loss_before=facts.loss_before,
        loss_after=facts.loss_after,
        tensors={name: file.tensor_sha256(name) for name in file.names()},
        config_sha256=hashlib.sha256(config).hexdigest(),
        nonce=secrets.token_hex(16),
        factors=facts.factors,
    )
    data = build_package(tensors, config, canonical(sign(manifest, key)))
    verify(data, spec, key.public_hex)
    return data, lost


def verify(source: Path | bytes, spec: AdapterSpec, public_key: str | None = None) -> list[str]:
    """Check a package as the server will, and say what was found, a line each.

    Which factors and rank it may hold depends on the version that it was trained from, so that is
    left to the server.

    Args:
        source: the package.
        spec: what the federation agreed on.
        public_key: key it must be signed with; None: the one the package names.

    Raises:
        SignatureError: signature, identity or a hash does not match.
        FormatError: any other fault.
    """
    package = open_package(source, max_bytes=MAX_PACKAGE_BYTES)
    manifest = _delta_manifest(package)
    expected = public_key or manifest.public_key
    claimed = Instructions(sends=manifest.factors, any_rank=True)
    node = pseudonym(expected)
    refusal = checks.check_update(package, spec, node=node, public_key=expected, asked=claimed)
    if refusal is not None:
        kind = SignatureError if refusal.code in ("signature", "identity") else FormatError
        raise kind(
            _("this package would be refused ({code}): {detail}").format(
                code=refusal.code, detail=refusal.detail
            )
        )
    return [
        _("signature ok: node {node}").format(node=manifest.node),
        _("sha256 ok: {sha}").format(sha=package.sha256),
        _("rank {rank}, alpha {alpha}, {coding}").format(
            rank=manifest.rank, alpha=f"{manifest.alpha:g}", coding=manifest.coding
        ),
        _("{count} modules in {layers} layers").format(
            count=len(spec.modules()), layers=_count_layers(spec)
        ),
        *([] if manifest.factors == "AB" else [_one_factor(manifest.factors)]),
        _("norm of the change {norm}").format(norm=f"{_norm(package, manifest.coding):.4g}"),
        _("trained from global version {version} on {examples} examples").format(
            version=manifest.global_version, examples=manifest.examples
        ),
    ]


def load_feedback(
    path: Path | None, spec: AdapterSpec, asked: Instructions = checks.BOTH
) -> Arrays | None:
    """Read a residual kept by the outbox; None if there is none, or it means nothing now.

    Args:
        path: `Outbox.feedback_for_next()`; its content is `save_tensors(residual)`.
        spec: what is trained now.
        asked: which factors are sent now, and whether residuals outlive a version.
    """
    if path is None or not asked.feedback:
        return None
    try:
        file = TensorFile.open(path)
        raw = {name: file.array(name) for name in file.names()}
    except FormatError:
        return None
    wanted = only(spec.shapes, asked.sends)
    fits = {name: value.shape for name, value in raw.items()} == wanted
    if not fits or any(value.dtype != np.float32 for value in raw.values()):
        return None
    residual = {name: np.array(value, np.float32) for name, value in raw.items()}
    return residual if all(np.isfinite(value).all() for value in residual.values()) else None


def explain(source: Path | bytes) -> list[Part]:
    """Account for every byte of a package; the sizes add up to the size of the file.

    Raises:
        FormatError: not a package of ours.
    """
    package = open_package(source, max_bytes=MAX_PACKAGE_BYTES)
    manifest = _delta_manifest(package)
    parts: list[Part] = []
    for member in package.members:
        what = _("zip header: the name, size and checksum of the file; a fixed date")
        parts.append(Part(member.name, FRAMING, member.header_bytes, what))
        parts += _explain_member(member.name, package, manifest)
    rest = package.size_bytes - sum(part.size_bytes for part in parts)
    what = _("zip directory: the three names, sizes and checksums again; a fixed date")
    return [*parts, Part("", FRAMING, rest, what)]


def _explain_member(name: str, package: Package, manifest: PackageManifest) -> list[Part]:
    if name == TENSORS:
        return _explain_tensors(package.tensors)
    if name == CONFIG:
        meaning = _("setting of the adapter, the same at every node: reveals nothing")
        return _explain_json(CONFIG, package.config, lambda _field: meaning)
    return _explain_json(MANIFEST, manifest.model_dump(mode="json"), _manifest_meaning)


def _explain_tensors(file: TensorFile) -> list[Part]:
    header = _("names, types and shapes of the tensors, the same at every node")
    weights = _(
        "what training changed in this tensor: no text, but text can in part be inferred from it"
    )
    parts = [Part(TENSORS, "header", 8 + file.header_bytes, header)]
    parts += [Part(TENSORS, name, file.raw(name).size, weights) for name in file.names()]
    return parts


def _explain_json(
    member: str, content: Mapping[str, Any], meaning: Callable[[str], str]
) -> list[Part]:
    """One part a field; braces and commas are a part of their own."""
    parts = [
        Part(member, field, len(canonical({field: value})) - 2, meaning(field))
        for field, value in sorted(content.items())
    ]
    rest = len(canonical(content)) - sum(part.size_bytes for part in parts)
    return [*parts, Part(member, "{,}", rest, _("punctuation"))]


def _manifest_meaning(field: str) -> str:
    shared = _("agreed by all nodes of the federation: reveals nothing about you")
    meanings = {
        "node": _("your node's pseudonym: links your packages to each other, not to a name"),
        "public_key": _("the key behind the pseudonym"),
        "signature": _("proves that your node made this package"),
        "nonce": _("random digits that make this package unique"),
        "examples": _("how many examples were trained on: reveals how much text there was"),
        "tokens": _("how many tokens were trained on: reveals how much text there was"),
        "steps": _("how many steps training took"),
        "loss_before": _("held-out loss before training: hints at how unusual your texts are"),
        "loss_after": _("held-out loss after training: hints at how unusual your texts are"),
        "global_version": _("the global adapter that training started from"),
        "global_sha256": _("hash of the global adapter that training started from"),
        "tensors": _("hashes of the tensors in this package"),
        "rank": _("rows of the adapter: fewer than other nodes' only if you set `max_rank`"),
    }
    return meanings.get(field, shared)


def _delta_manifest(package: Package) -> PackageManifest:
    if not isinstance(package.manifest, PackageManifest):
        raise FormatError(_("this is a global adapter, not a node's package"))
    return package.manifest


def _count_layers(spec: AdapterSpec) -> int:
    parts = (module.split(".") for module in spec.modules())
    return len({number for names in parts for number in names if number.isdigit()})


def _one_factor(factor: str) -> str:
    return _("one factor of each module: {factor}").format(factor=factor)


def _norm(package: Package, coding: str) -> float:
    total = 0.0
    for name in coded_names(package.tensors, coding):
        flat = decode_tensor(package.tensors, name, coding).reshape(-1)
        total += float(np.dot(flat, flat))
    return math.sqrt(total)
