"""Looking at a version or candidate again: chain, hashes, and the gate's losses."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

from federation.adapter.base_delta import FOLDER, parse_base
from federation.adapter.format import (
    TENSORS,
    AdapterSpec,
    Arrays,
    initial_arrays,
    read_adapter_folder,
)
from federation.errors import UsageError
from server.config import ServerHome, load_config
from server.gate import GateRunner
from server.overview import open_registry
from server.registry import CANDIDATE, Registry
from strategies.gate import GatePolicy, decide

_VERSION = re.compile(r"^v?([0-9]{1,9})$")


def parse_version(text: str) -> int:
    """Read "v3" or "3".

    Raises:
        UsageError: neither.
    """
    match = _VERSION.match(text)
    if match is None:
        raise UsageError(f"'{text}' is not a version", hint="Write for example v3.")
    return int(match.group(1))


def version_before(home: ServerHome) -> int:
    """The version whose weights were served before the current ones.

    A version that was itself a way back stands for the weights it brought back, so going back
    twice goes two steps.

    Raises:
        UsageError: there is none.
    """
    registry = open_registry(home)
    held = _weights_of(registry, registry.current)
    if held == 0:
        raise UsageError("there is no version before the current one")
    return _weights_of(registry, held - 1)


def validate(home: ServerHome, which: str, against: str) -> dict[str, Any]:
    """Verify the whole registry and compare two adapters on the gate set.

    Args:
        home: the server.
        which: "v3", a candidate's folder name, or "" for the current version.
        against: "v2", or "" for the version before (for a candidate: the current one).

    Returns:
        The gate's decision as JSON, with what was compared.
    """
    config = load_config(home)
    registry = open_registry(home)
    registry.verify()
    spec = registry.spec
    name, arrays, before = _wanted(home, registry, which)
    other = parse_version(against) if against else before
    runner = GateRunner(home, config, spec)
    base_losses = runner.losses(
        _before(registry, spec, other, config.seed), registry.base(other) if other >= 0 else {}
    )
    losses = runner.losses(arrays, _base_of(home, registry, name))
    decision = decide(
        base_losses[:, 0] / base_losses[:, 1],
        losses[:, 0] / losses[:, 1],
        runner.langs,
        GatePolicy(tolerance=config.gate_tolerance),
        rng_seed=config.seed,
    )
    return {"chain": "verified", "which": name, "against": f"v{max(other, 0)}", **asdict(decision)}


def _wanted(home: ServerHome, registry: Registry, which: str) -> tuple[str, Arrays, int]:
    """Name, weights, and the version to compare with."""
    if CANDIDATE.match(which):
        folder = home.candidates / which
        if not folder.is_dir():
            raise UsageError(f"there is no candidate {which} in {home.candidates}")
        return which, read_adapter_folder(folder)[0], registry.current
    version = parse_version(which) if which else registry.current
    return f"v{version}", registry.arrays(version), version - 1


def _base_of(home: ServerHome, registry: Registry, name: str) -> Arrays:
    """What a version or a candidate adds to the base model."""
    if not CANDIDATE.match(name):
        return registry.base(parse_version(name))
    path = home.candidates / name / FOLDER / TENSORS
    return parse_base(path.read_bytes(), registry.spec) if path.is_file() else {}


def _before(registry: Registry, spec: AdapterSpec, version: int, seed: int) -> Arrays:
    """Weights of a version; version -1 is the bare base, which any B = 0 gives."""
    return registry.arrays(version) if version >= 0 else initial_arrays(spec, seed)


def _weights_of(registry: Registry, version: int) -> int:
    """The version that first had the weights of `version`."""
    while True:
        origin = registry.manifest(version).gate.get("republished")
        if not isinstance(origin, int):
            return version
        version = origin
