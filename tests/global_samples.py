"""Signed chains of global adapters, and nodes that joined their federation."""

from __future__ import annotations

import hashlib
from pathlib import Path

from client.config import Federation, NodeConfig, NodeHome
from client.outbox import open_outbox
from federation import settings
from federation.adapter.checks import BOTH
from federation.adapter.format import AdapterSpec, Arrays, config_bytes, initial_arrays
from federation.adapter.instructions import Instructions
from federation.adapter.manifest import GlobalManifest, PackageManifest, canonical, sha256_of
from federation.adapter.package import build_package, open_package
from federation.adapter.signing import SigningKey, sign
from federation.adapter.tensors import save_tensors
from tests.adapter_samples import make_sample


class Chain:
    """An operator's published versions, oldest first."""

    def __init__(self, spec: AdapterSpec, key: SigningKey | None = None) -> None:
        self.spec = spec
        self.key = key or SigningKey.generate()
        self.manifests: list[GlobalManifest] = []
        self.packages: list[bytes] = []

    def publish(
        self,
        arrays: Arrays | None = None,
        *,
        key: SigningKey | None = None,
        parent: str | None = None,
        version: int | None = None,
        spec: AdapterSpec | None = None,
        asks: Instructions = BOTH,
    ) -> bytes:
        """Add a version (wrong in what is named) and return its package."""
        chosen = spec or self.spec
        number = len(self.manifests) if version is None else version
        tensors = save_tensors(initial_arrays(chosen, number) if arrays is None else arrays)
        config = config_bytes(chosen)
        last = sha256_of(self.manifests[-1]) if self.manifests else ""
        manifest = sign(
            GlobalManifest(
                version=number,
                parent_sha256=last if parent is None else parent,
                spec=chosen.to_json(),
                tensors_sha256=hashlib.sha256(tensors).hexdigest(),
                config_sha256=hashlib.sha256(config).hexdigest(),
                strategy="test",
                created_at="2026-01-01T00:00:00Z",
                instructions=asks,
            ),
            key or self.key,
        )
        package = build_package(tensors, config, canonical(manifest))
        self.manifests.append(manifest)
        self.packages.append(package)
        return package

    def texts(self, after: int) -> list[str]:
        """Manifests after a version, as they travel."""
        return [canonical(manifest).decode() for manifest in self.manifests[after + 1 :]]


def make_federation(spec: AdapterSpec, operator_key: str, *, node: str = "0" * 16) -> Federation:
    """What a node of this federation has in `federation.json`."""
    return Federation(
        address="127.0.0.1:9",
        base_ref=spec.base_ref,
        base_hash=spec.base_hash,
        spec=spec.to_json(),
        operator_key=operator_key,
        bundle_hash="0" * 64,
        node=node,
        flower_node_id="1",
        joined_at="2026-01-01T00:00:00+00:00",
    )


def joined_home(folder: Path, chain: Chain, *, node: str = "0" * 16) -> NodeHome:
    """A node's home that joined the federation of `chain`."""
    home = NodeHome(folder)
    settings.save(make_federation(chain.spec, chain.key.public_hex, node=node), home.federation)
    return home


def put_package(home: NodeHome, spec: AdapterSpec) -> str:
    """Put a valid package of a node unknown to anybody into the outbox; its hash."""
    data = make_sample(spec, SigningKey.generate())
    manifest = open_package(data, max_bytes=len(data)).manifest
    assert isinstance(manifest, PackageManifest)
    with open_outbox(home, NodeConfig()) as outbox:
        return outbox.put(data, manifest).sha256
