"""Ed25519 keys, signed manifests, and the hash chain of global versions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from federation import durable, settings
from federation.adapter.manifest import (
    GlobalManifest,
    Manifest,
    PackageManifest,
    canonical,
    sha256_of,
)
from federation.errors import ConfigError, DowngradeError, SignatureError

M = TypeVar("M", PackageManifest, GlobalManifest)


class SigningKey:
    """An Ed25519 private key; its repr shows the public half only."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a new random key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read a key written by `save`.

        Raises:
            ConfigError: missing, or not an Ed25519 key.
            PermissionsError: other users can read the file.
        """
        if not path.is_file():
            raise ConfigError(f"the signing key {path} does not exist")
        settings.require_private(path)
        try:
            private = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as err:
            raise ConfigError(f"{path} holds no readable private key") from err
        if not isinstance(private, Ed25519PrivateKey):
            raise ConfigError(f"{path} holds a private key, but not an Ed25519 one")
        return cls(private)

    def save(self, path: Path) -> None:
        """Write the key as unencrypted PKCS#8 PEM, mode 0600, all or nothing."""
        data = self._private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        durable.write_bytes(path, data)

    @property
    def public_hex(self) -> str:
        """The public key, 64 hex digits."""
        return self._private.public_key().public_bytes_raw().hex()

    def sign(self, data: bytes) -> str:
        """Sign `data`; 128 hex digits."""
        return self._private.sign(data).hex()

    def __repr__(self) -> str:
        return f"SigningKey(public_hex={self.public_hex!r})"


def sign(manifest: M, key: SigningKey) -> M:
    """Copy `manifest` with `public_key` and `signature` filled in."""
    unsigned = manifest.model_copy(update={"public_key": key.public_hex, "signature": ""})
    return unsigned.model_copy(update={"signature": key.sign(_signed_bytes(unsigned))})


def verify(manifest: Manifest, *, public_key: str) -> None:
    """Check that `manifest` was signed by the owner of `public_key` (64 hex digits).

    Raises:
        SignatureError: another key, no signature, or changed content.
    """
    if manifest.public_key != public_key:
        raise SignatureError("the manifest was signed with another key than the one expected")
    if not verify_bytes(_signed_bytes(manifest), manifest.signature, public_key=public_key):
        raise SignatureError("the manifest's signature does not match its content")


def verify_bytes(data: bytes, signature: str, *, public_key: str) -> bool:
    """Whether `signature` (hex) over `data` was made by the owner of `public_key` (hex)."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        key.verify(bytes.fromhex(signature), data)
    except (InvalidSignature, ValueError):
        return False
    return True


def verify_chain(
    manifests: Sequence[GlobalManifest], *, public_key: str, after: GlobalManifest | None
) -> None:
    """Check that `manifests`, oldest first, continue the chain `after` with nothing missing.

    Args:
        manifests: consecutive versions; may be empty.
        public_key: the operator's pinned key, 64 hex digits.
        after: the version held, already trusted; None: the chain must begin at version 0.

    Raises:
        DowngradeError: a version is not newer than the one before it.
        SignatureError: a signature, a parent hash, a gap or another adapter spec.
    """
    before = after
    for manifest in manifests:
        verify(manifest, public_key=public_key)
        _require_successor(manifest, before)
        before = manifest


def pseudonym(public_hex: str) -> str:
    """Name a node by its key: the first 16 hex digits of sha256 over the key's bytes.

    Raises:
        SignatureError: not 64 hex digits.
    """
    try:
        raw = bytes.fromhex(public_hex)
    except ValueError as err:
        raise SignatureError("a public key must be 64 hex digits") from err
    if len(raw) != 32:
        raise SignatureError("a public key must be 64 hex digits")
    return hashlib.sha256(raw).hexdigest()[:16]


def _signed_bytes(manifest: Manifest) -> bytes:
    content = manifest.model_dump(mode="json")
    del content["signature"]
    return canonical(content)


def _require_successor(manifest: GlobalManifest, before: GlobalManifest | None) -> None:
    name = f"global version {manifest.version}"
    if before is None:
        if manifest.version != 0 or manifest.parent_sha256:
            raise SignatureError(f"{name} is not the beginning of a chain")
        return
    if manifest.version <= before.version:
        raise DowngradeError(f"{name} is not newer than version {before.version}")
    if manifest.version != before.version + 1:
        raise SignatureError(f"{name} does not follow version {before.version}: one is missing")
    if manifest.parent_sha256 != sha256_of(before):
        raise SignatureError(f"{name} names another parent than version {before.version}")
    if sha256_of(manifest.spec) != sha256_of(before.spec):
        raise SignatureError(f"{name} has another adapter spec than version {before.version}")
