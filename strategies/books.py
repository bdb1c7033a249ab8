"""What a round asks of the operator's books and of the gate: one protocol for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from federation.adapter.instructions import Instructions, Terms
from federation.adapter.manifest import GlobalManifest, InputRecord
from federation.adapter.tensors import Arrays
from strategies.central_noise import Privacy
from strategies.gate import GateDecision
from strategies.optimiser import State

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Member:
    """An admitted node: `node` is its pseudonym, `public_key` its Ed25519 key (hex)."""

    node: str
    public_key: str
    name: str = ""


class Shelf(Protocol):
    """Where global adapters stand: `server.registry.Registry` is one."""

    @property
    def current(self) -> int:
        """Number of the current version."""

    def stored(self, version: int) -> Mapping[str, F32]:
        """Tensors of a version, read one by one as they are asked for."""

    def base(self, version: int) -> Arrays:
        """What a version adds to the base model; empty is nothing."""

    def publish(
        self,
        arrays: Arrays,
        *,
        strategy: str,
        inputs: Sequence[InputRecord],
        gate: dict[str, Any],
        terms: Terms,
    ) -> GlobalManifest:
        """Sign and store the next version and make it current, atomically."""

    def manifest_hashes(self) -> dict[int, str]:
        """Version to the sha256 of its canonical manifest."""

    def instructions(self) -> dict[int, Instructions]:
        """Version to what it asks of nodes."""

    def merged_inputs(self) -> dict[str, int]:
        """Package hash to the version it was merged into, over all versions."""


class Ledger(Protocol):
    """What became of each package: `server.intake.Intake` is one."""

    def settled(self, sha256: str, node: str = "") -> bool:
        """Whether this node's package must not be used again."""

    def record_spooled(self, sha256: str, *, node: str) -> bool:
        """Write down that the package lies in the spool; False if it is settled."""

    def record_merged(self, sha256: str, *, node: str, version: int) -> None:
        """Write down that the package went into `version`."""

    def record_refused(self, sha256: str, *, node: str, code: str, detail: str) -> None:
        """Write down why the package was refused."""


@dataclass(frozen=True)
class Bases:
    """What the current version and the candidate add to the base model; empty is nothing."""

    before: Arrays = field(default_factory=dict)
    after: Arrays = field(default_factory=dict)


NO_BASES = Bases()


class Gate(Protocol):
    """Held-out comparison: `server.gate.GateRunner` is behind one."""

    def decide(
        self, current: Mapping[str, F32], candidate: Arrays, bases: Bases = NO_BASES
    ) -> GateDecision:
        """Compare both on held-out text."""

    def keep(self, candidate: Arrays, decision: GateDecision, bases: Bases = NO_BASES) -> None:
        """Put a refused candidate aside for study."""


class Memory(Protocol):
    """What rounds remember apart from versions: `server.round_memory.RoundMemory` is one."""

    def moments(self, version: int, optimiser: str) -> dict[str, State]:
        """What the server optimiser remembered as `version` was made."""

    def keep_moments(
        self, arrays: Arrays, optimiser: str, state: Mapping[str, Mapping[str, F32]]
    ) -> None:
        """Keep it for the version whose weights `arrays` are."""

    def spend(self, privacy: Privacy) -> dict[str, Any]:
        """Write down one round's noise; what was spent so far, as JSON."""
