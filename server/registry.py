"""Signed versions of the global adapter, in one linear chain; `current` is the newest.

    registry/v0/ … vN/   a PEFT folder and manifest.json each
    registry/current     text file holding "vN"

A version is written aside, synced and renamed into place, then `current` is replaced. Killed
between any two steps, the old or the new version is current, and the next opening with a key
finishes or clears what was left. Going back publishes old weights again under a new number, so no
node ever sees a version number fall.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from federation import durable
from federation.adapter import checks, signing
from federation.adapter.base_chain import lacking, next_base
from federation.adapter.base_delta import files_of, read_base
from federation.adapter.format import (
    AdapterSpec,
    Arrays,
    config_bytes,
    open_adapter_folder,
    read_adapter_folder,
)
from federation.adapter.instructions import AS_BEFORE, Instructions, Terms
from federation.adapter.manifest import (
    GlobalManifest,
    InputRecord,
    canonical,
    read_global,
    sha256_of,
)
from federation.adapter.package import PACKAGE_MEMBERS, build_package, open_package
from federation.adapter.tensors import StoredArrays, save_tensors
from federation.errors import FormatError

TENSORS, CONFIG, MANIFEST = PACKAGE_MEMBERS
_VERSION = re.compile(r"^v(0|[1-9][0-9]{0,8})$")
CANDIDATE = re.compile(r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}$")
_PARTIAL = ".partial-"


@dataclass(frozen=True)
class _Origin:
    """How a version came about."""

    strategy: str
    inputs: tuple[InputRecord, ...]
    gate: dict[str, Any]


class Registry:
    """Versions below one folder.

    Args:
        folder: the registry's folder; made if missing when a key is given.
        key: the operator's key; None reads only, and nothing on disk is touched.
        public_key: the operator's public key, hex.
        candidates: where refused candidates are kept; default beside `folder`.
        now: current time with zone.
    """

    def __init__(
        self,
        folder: Path,
        key: signing.SigningKey | None,
        public_key: str,
        *,
        candidates: Path | None = None,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self.folder = folder
        self.candidates = candidates or folder.parent / "candidates"
        self.public_key = public_key
        self._key = key
        self._now = now or _utc_now
        if key is not None:
            durable.make_folder(folder)
            with self._lock():
                self._recover()

    def versions(self) -> list[int]:
        """Numbers of all complete versions, ascending."""
        if not self.folder.is_dir():
            return []
        found = (_VERSION.match(path.name) for path in self.folder.iterdir())
        return sorted(int(match.group(1)) for match in found if match)

    @property
    def current(self) -> int:
        """The version that is served.

        Raises:
            FormatError: the registry is empty, or `current` names no version.
        """
        try:
            text = (self.folder / "current").read_text(encoding="ascii").strip()
        except FileNotFoundError as err:
            raise _empty(self.folder) from err
        match = _VERSION.match(text)
        if match is None or not self.path(int(match.group(1))).is_dir():
            raise FormatError(f"{self.folder / 'current'} names no version of this registry")
        return int(match.group(1))

    @property
    def spec(self) -> AdapterSpec:
        """What every version of this registry looks like."""
        return AdapterSpec.from_json(self.manifest(0).spec)

    def path(self, version: int) -> Path:
        """Folder of `version`, whether it exists or not."""
        return self.folder / f"v{int(version)}"

    def manifest(self, version: int) -> GlobalManifest:
        """Manifest of `version`, as stored; `verify` checks signatures."""
        return read_global((self._existing(version) / MANIFEST).read_bytes())

    def arrays(self, version: int) -> Arrays:
        """Weights of `version`, f32 copies in memory."""
        return read_adapter_folder(self._existing(version))[0]

    def stored(self, version: int) -> StoredArrays:
        """Weights of `version`, f32; each tensor is read when asked for, and not kept."""
        return open_adapter_folder(self._existing(version))[0]

    def base(self, version: int) -> Arrays:
        """What `version` adds to the base model, f32 factors of scale 1; empty is nothing."""
        manifest = self.manifest(version)
        return read_base(self.path(version), manifest.base, AdapterSpec.from_json(manifest.spec))

    def base_since(self, after: int) -> bytes:
        """What a node that holds version `after` (-1: none) lacks of the current base delta."""
        record = self.manifest(self.current).base
        held = self.manifest(after) if 0 <= after <= self.current else None
        return lacking(self.base(self.current), record, held) if record else b""

    def package(self, version: int) -> bytes:
        """The three-member zip of `version`, the form in which it travels."""
        folder = self._existing(version)
        tensors, config, manifest = ((folder / name).read_bytes() for name in PACKAGE_MEMBERS)
        return build_package(tensors, config, manifest)

    def chain(self, after: int) -> tuple[str, ...]:
        """Manifest texts of all versions above `after` (-1: all), oldest first."""
        return tuple(
            (self.path(n) / MANIFEST).read_text(encoding="utf-8")
            for n in self.versions()
            if n > after
        )

    def manifest_hashes(self) -> dict[int, str]:
        """Version -> sha256 of its canonical manifest: what packages name as their origin."""
        return {version: sha256_of(self.manifest(version)) for version in self.versions()}

    def instructions(self) -> dict[int, Instructions]:
        """Version -> what it asks of the nodes that train from it."""
        return {version: self.manifest(version).instructions for version in self.versions()}

    def merged_inputs(self) -> dict[str, int]:
        """Package sha256 -> the version it was merged into, over all versions."""
        return {
            record.sha256: version
            for version in self.versions()
            for record in self.manifest(version).inputs
        }

    def publish(
        self,
        arrays: Arrays,
        *,
        strategy: str,
        inputs: Sequence[InputRecord] = (),
        gate: Mapping[str, Any] | None = None,
        spec: AdapterSpec | None = None,
        terms: Terms = AS_BEFORE,
    ) -> GlobalManifest:
        """Make `arrays` the next version and current.

        Args:
            arrays: the new weights; not modified.
            strategy: how they came about ("fedit", "initial", "rollback", …).
            inputs: packages that went in.
            gate: the gate's verdict as JSON.
            spec: only for version 0; later ones have the registry's.
            terms: what is asked of nodes, and what goes into the base model.

        Raises:
            FormatError: not finite, not of the spec, or an input was merged before.
        """
        with self._lock():
            self._recover()
            origin = _Origin(strategy, tuple(inputs), dict(gate or {}))
            manifest, files = self._compose(arrays, origin, spec, terms)
            self._write(manifest.version, files)
            self._point_to(manifest.version)
        return manifest

    def republish(
        self, version: int, *, strategy: str, instructions: Instructions | None = None
    ) -> GlobalManifest:
        """Publish the weights of `version` again as a new version (rollback, deploy)."""
        gate, terms = {"republished": version}, Terms(instructions, self.base(version))
        return self.publish(self.arrays(version), strategy=strategy, gate=gate, terms=terms)

    def keep_candidate(
        self,
        arrays: Arrays,
        report: Mapping[str, Any],
        *,
        keep: int | None = None,
        base: Arrays | None = None,
    ) -> Path:
        """Keep a refused candidate for study.

        Args:
            arrays: its weights.
            report: JSON, why it was refused; stored as report.json beside the PEFT files.
            keep: how many candidates stay, this one among them; the oldest go. None keeps all.
            base: what it would have added to the base model.

        Returns:
            The folder, named by time and content.
        """
        tensors = save_tensors(arrays)
        stamp = self._now().strftime("%Y%m%dT%H%M%SZ")
        folder = self.candidates / f"{stamp}-{hashlib.sha256(tensors).hexdigest()[:8]}"
        text = json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False)
        durable.write_bytes(folder / TENSORS, tensors)
        durable.write_bytes(folder / CONFIG, config_bytes(self.spec))
        for name, data in files_of(base, self.spec).items() if base else ():
            durable.write_bytes(folder / name, data)
        durable.write_text(folder / "report.json", text + "\n")
        if keep is not None:
            self._forget_candidates(keep, but=folder)
        return folder

    def verify(self) -> None:
        """Check every version: numbering, signatures, parent hashes, one spec, file hashes.

        Raises:
            FormatError: a version is missing or a file is not what its manifest says.
            SignatureError: a signature or a parent hash does not match.
        """
        versions = self.versions()
        if not versions:
            raise _empty(self.folder)
        if versions != list(range(len(versions))):
            raise FormatError(f"{self.folder}: a version is missing among {versions}")
        manifests = [self.manifest(n) for n in versions]
        signing.verify_chain(manifests, public_key=self.public_key, after=None)
        for version in versions:
            data = self.package(version)
            package = open_package(data, max_bytes=len(data))
            checks.check_global(package, self.spec, public_key=self.public_key)
            self.base(version)

    def _lock(self) -> Any:  # noqa: ANN401 (contextlib's own generic type says no more)
        return durable.locked(self.folder / ".lock", busy="the registry is busy")

    def _forget_candidates(self, keep: int, *, but: Path) -> None:
        # their names begin with their time; whatever else lies there is the operator's
        found = (path for path in self.candidates.iterdir() if CANDIDATE.match(path.name))
        older = sorted(path for path in found if path != but)
        for path in older[: max(0, len(older) - (keep - 1))]:
            shutil.rmtree(path)

    def _existing(self, version: int) -> Path:
        folder = self.path(version)
        if not folder.is_dir():
            raise FormatError(f"there is no version v{int(version)} in {self.folder}")
        return folder

    def _recover(self) -> None:
        """Clear half-written folders; finish a publication whose folder is already in place."""
        for path in self.folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(path)
        versions = self.versions()
        if versions and self._pointer() != f"v{versions[-1]}":
            self._point_to(versions[-1])

    def _pointer(self) -> str:
        try:
            return (self.folder / "current").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return ""

    def _compose(
        self,
        arrays: Arrays,
        origin: _Origin,
        spec: AdapterSpec | None,
        terms: Terms,
    ) -> tuple[GlobalManifest, dict[str, bytes]]:
        """Signed manifest and file contents of the next version, checked as a node would."""
        key = self._key
        if key is None:
            raise FormatError(f"{self.folder} is open for reading only")
        versions = self.versions()
        parent = self.manifest(versions[-1]) if versions else None
        spec = self._spec_for(parent, spec)
        self._refuse_merged(origin.inputs)
        earlier = parent.instructions if parent else Instructions()
        before = self.base(parent.version) if parent else {}
        base = before if terms.base is None else terms.base
        record, files = next_base(base, spec, parent, before)
        tensors, config = save_tensors(arrays), config_bytes(spec)
        manifest = signing.sign(
            GlobalManifest(
                version=parent.version + 1 if parent else 0,
                parent_sha256=sha256_of(parent) if parent else "",
                spec=spec.to_json(),
                tensors_sha256=hashlib.sha256(tensors).hexdigest(),
                config_sha256=hashlib.sha256(config).hexdigest(),
                strategy=origin.strategy,
                inputs=origin.inputs,
                gate=origin.gate,
                instructions=terms.instructions or earlier,
                base=record,
                created_at=self._now().isoformat(timespec="seconds"),
            ),
            key,
        )
        files |= {TENSORS: tensors, CONFIG: config, MANIFEST: canonical(manifest)}
        data = build_package(tensors, config, files[MANIFEST])
        package = open_package(data, max_bytes=len(data))
        checks.check_global(package, spec, public_key=self.public_key)
        return manifest, files

    def _spec_for(self, parent: GlobalManifest | None, spec: AdapterSpec | None) -> AdapterSpec:
        if parent is None:
            if spec is None:
                raise _empty(self.folder)
            return spec
        held = AdapterSpec.from_json(parent.spec)
        if spec is not None and spec.spec_hash != held.spec_hash:
            raise FormatError("the adapter's shape cannot change within one registry")
        return held

    def _refuse_merged(self, inputs: Sequence[InputRecord]) -> None:
        merged = self.merged_inputs()
        for record in inputs:
            if record.sha256 in merged:
                raise FormatError(
                    f"package {record.sha256[:12]} was merged before, in v{merged[record.sha256]}"
                )

    def _write(self, version: int, files: Mapping[str, bytes]) -> None:
        target = self.path(version)
        aside = self.folder / f"{_PARTIAL}{target.name}"
        for name, data in files.items():
            durable.write_bytes(aside / name, data)
        aside.rename(target)
        durable.sync_folder(self.folder)

    def _point_to(self, version: int) -> None:
        durable.write_text(self.folder / "current", f"v{version}\n")


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _empty(folder: Path) -> FormatError:
    return FormatError(f"{folder} holds no version yet", hint="Run: flower-server init")
