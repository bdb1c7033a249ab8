"""The global adapters this node received: verified, stored, and verified again when loaded.

`models/global/v<N>/` is a PEFT folder with the operator's signed manifest; `models/current` names
the one in use. Trust is the operator's key, pinned when the node joined: every version must be
signed by it and continue the chain of the version held, and a version is never exchanged for an
older one.
"""

from __future__ import annotations

import io
import logging
import re
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from client import own
from client.config import Federation, NodeHome
from federation import durable
from federation.adapter.base_chain import completed
from federation.adapter.base_delta import files_of, largest_bytes, parse_base, read_base
from federation.adapter.checks import check_global
from federation.adapter.format import AdapterSpec, Arrays, read_adapter_folder
from federation.adapter.instructions import Instructions
from federation.adapter.manifest import (
    MAX_MANIFEST_BYTES,
    GlobalManifest,
    read_global,
    sha256_of,
)
from federation.adapter.package import PACKAGE_MEMBERS, open_package
from federation.adapter.signing import verify, verify_chain
from federation.errors import AdapterError, BaseMismatchError, DowngradeError, FormatError
from federation.language import _

logger = logging.getLogger(__name__)

KEPT_VERSIONS = 3
_VERSION = re.compile(r"v(\d{1,9})")


@dataclass(frozen=True)
class Global:
    """A global adapter in memory.

    Attributes:
        sha256: of the canonical manifest; what a package names as its origin.
        arrays: f32, exactly the tensors of the federation's spec; a factor that stays with each
            node is this node's own.
        folder: where it lies, a PEFT folder.
        instructions: what is asked of whoever trains from it.
        base: what it adds to the base model, f32 factors of scale 1; empty is nothing.
    """

    version: int
    sha256: str
    arrays: Arrays
    folder: Path
    instructions: Instructions
    base: Arrays


class AdapterStore:
    """The node's global adapters.

    Args:
        home: the node's home.
        federation: what this node joined; its operator key and spec are the trust.
    """

    def __init__(self, home: NodeHome, federation: Federation) -> None:
        self._home = home
        self._folder = home.adapters
        self._pointer = home.current_adapter
        self._federation = federation
        self.spec = AdapterSpec.from_json(federation.spec)

    def held(self) -> GlobalManifest | None:
        """Manifest of the version in use; None if there is none or it is damaged on disk."""
        return self._usable()[0]

    def held_version(self) -> int:
        """Version of `held`, -1 for none."""
        held = self.held()
        return -1 if held is None else held.version

    def current(self) -> Global | None:
        """Load the version in use; None if none was received yet.

        Raises:
            AdapterError: the files on disk are not what the operator signed.
        """
        arrays, manifest, base = self._load()
        return None if manifest is None else self._global(arrays, manifest, base)

    def load(self, version: int) -> Global:
        """Load one of `versions`, verified as the one in use is.

        Raises:
            AdapterError: the files on disk are not what the operator signed.
        """
        return self._global(*self._read(version))

    def previous(self) -> Global | None:
        """The newest sound version on disk before the one in use; None if none was kept."""
        mark = self._mark()
        for version in reversed([kept for kept in self.versions() if kept < mark]):
            try:
                return self.load(version)
            except AdapterError as err:
                logger.warning("global v%d on disk is not usable: %s", version, err)
        return None

    def install(self, package: bytes, chain: Sequence[str] = (), rows: bytes = b"") -> int:
        """Verify a received global adapter, store it and make it the one in use.

        Args:
            package: the three-member zip (`federation.adapter.package`).
            chain: manifests (JSON texts) after the version held, oldest first. A node that holds
                nothing accepts any first one that the operator signed.
            rows: what this node lacks of the base delta (`federation.adapter.base_chain`).

        Returns:
            The version now in use. Installing it again changes nothing.

        Raises:
            SignatureError: another signer, changed content, or a gap or fork in the chain.
            DowngradeError: older than the version in use.
            BaseMismatchError: made for another base model or adapter spec.
            FormatError: unreadable.
        """
        opened = open_package(package, max_bytes=self.spec.tensor_bytes + MAX_MANIFEST_BYTES)
        manifest = opened.manifest
        if not isinstance(manifest, GlobalManifest):
            raise FormatError(_("The server sent something that is not a global adapter."))
        self._require_spec(manifest)
        held, base = self._usable()
        if held is not None and sha256_of(held) == sha256_of(manifest):
            return manifest.version
        self._require_newer(manifest, held)
        self._verify_chain(manifest, chain, held)
        check_global(opened, self.spec, public_key=self._federation.operator_key)
        self._require_size(rows, manifest)
        whole = completed(rows, manifest.base, held, base, self.spec)
        self._write(package, manifest.version, whole)
        return manifest.version

    def versions(self) -> list[int]:
        """Versions on disk, ascending."""
        if not self._folder.is_dir():
            return []
        found = (_VERSION.fullmatch(path.name) for path in self._folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def _usable(self) -> tuple[GlobalManifest | None, Arrays]:
        """Manifest and base delta of the version in use; nothing if damaged on disk."""
        try:
            _arrays, manifest, base = self._load()
        except AdapterError as err:
            logger.warning("the global adapter on disk is not usable: %s", err)
            return None, {}
        return manifest, base

    def _require_size(self, rows: bytes, manifest: GlobalManifest) -> None:
        record = manifest.base
        if len(rows) > (largest_bytes(record, self.spec) if record else 0):
            raise FormatError(_("The server sent a base delta that is larger than it says."))

    def _load(self) -> tuple[Arrays, GlobalManifest | None, Arrays]:
        version = self._pointed()
        return ({}, None, {}) if version < 0 else self._read(version)

    def _global(self, arrays: Arrays, manifest: GlobalManifest, base: Arrays) -> Global:
        folder = self._folder / f"v{manifest.version}"
        asked = manifest.instructions
        arrays = own.with_own(self._home, arrays, self.spec, asked)
        return Global(manifest.version, sha256_of(manifest), arrays, folder, asked, base)

    def _read(self, version: int) -> tuple[Arrays, GlobalManifest, Arrays]:
        folder = self._folder / f"v{version}"
        arrays, _spec, manifest = read_adapter_folder(folder)
        if manifest is None or manifest.version != version:
            raise FormatError(_("{folder} has no valid manifest.").format(folder=folder))
        verify(manifest, public_key=self._federation.operator_key)
        self._require_spec(manifest)
        return arrays, manifest, read_base(folder, manifest.base, self.spec)

    def _pointed(self) -> int:
        """Number in `current`, -1 without one: also the mark that nothing may fall below."""
        if not self._pointer.is_file():
            return -1
        match = _VERSION.fullmatch(self._pointer.read_text(encoding="utf-8").strip())
        if match is None:
            raise FormatError(_("{path} is damaged.").format(path=self._pointer))
        return int(match[1])

    def _require_spec(self, manifest: GlobalManifest) -> None:
        if sha256_of(manifest.spec) == self.spec.spec_hash:
            return
        raise BaseMismatchError(
            _("Global version {version} was made for another base model or adapter size.").format(
                version=manifest.version
            ),
            hint=_("Ask the operator whether the federation has changed, and join again."),
        )

    def _require_newer(self, manifest: GlobalManifest, held: GlobalManifest | None) -> None:
        # A damaged copy of the version in use may be replaced by the same version, never by less.
        lowest = self._mark() if held is None else held.version + 1
        if manifest.version >= lowest:
            return
        raise DowngradeError(
            _("The server offers version {offered}; this node already had version {held}.").format(
                offered=manifest.version, held=self._mark()
            ),
            hint=_("Tell the operator: a newer version was published before."),
        )

    def _mark(self) -> int:
        try:
            return self._pointed()
        except FormatError:
            return max(self.versions(), default=-1)

    def _verify_chain(
        self, manifest: GlobalManifest, chain: Sequence[str], held: GlobalManifest | None
    ) -> None:
        key = self._federation.operator_key
        read = [read_global(text) for text in chain]
        manifests = [entry for entry in read if entry.version < manifest.version] + [manifest]
        if held is not None:
            newer = [entry for entry in manifests if entry.version > held.version]
            verify_chain(newer, public_key=key, after=held)
            return
        verify(manifests[0], public_key=key)
        verify_chain(manifests[1:], public_key=key, after=manifests[0])

    def _write(self, package: bytes, version: int, base: bytes) -> None:
        durable.make_folder(self._folder)
        target = self._folder / f"v{version}"
        aside = Path(tempfile.mkdtemp(prefix=f".v{version}.", suffix=".tmp", dir=self._folder))
        try:
            with zipfile.ZipFile(io.BytesIO(package)) as archive:
                for name in PACKAGE_MEMBERS:
                    durable.write_bytes(aside / name, archive.read(name))
            if base:
                for name, data in files_of(parse_base(base, self.spec), self.spec).items():
                    durable.write_bytes(aside / name, data)
            if target.exists():
                shutil.rmtree(target)
            aside.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        durable.sync_folder(self._folder)
        durable.write_text(self._pointer, f"v{version}\n")
        self._forget_old(version)

    def _forget_old(self, current: int) -> None:
        older = [version for version in self.versions() if version != current]
        for version in older[: max(0, len(older) - (KEPT_VERSIONS - 1))]:
            shutil.rmtree(self._folder / f"v{version}", ignore_errors=True)
        for leftover in self._folder.glob(".v*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
