"""The regression lab: one LoRA layer, no language model, a result in milliseconds.

Client k has the loss 1/2 tr((M - T_k) C_k (M - T_k)^T) with M = base + s B A, full gradients, and
Adam begun anew each round. The partition says how clients differ:

    shift:h     T_k = T + 2h L(4), T = 2 L(12), C_k = X X^T / 72 with row scales exp(h n / 2)
    aligned:h   T_k = U (diag(4, 3, 2, 1) + h Z_k) V, C_k = I: one adapter of rank 4 can hold T

L(k) is a product of normal (32 × k) and (k × 24) over sqrt(24 k). Reported is (L - L*) / (L_0 - L*)
over honest clients, L* at the best unconstrained M: 1 is untrained, 0 optimal. A client's own part
is the share of its untrained loss that is left.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from federation.adapter.format import A, AdapterSpec, B, initial_arrays
from federation.adapter.tensors import Arrays
from federation.errors import ConfigError
from strategies.compare.attacks import parse
from strategies.compare.federate import Job, Measured
from strategies.compare.setting import Setting

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
D_OUT, D_IN, SAMPLES, SCALE = 32, 24, 72, 2.0
MODULE = "base_model.model.lab"
KINDS = ("shift", "aligned")
BETA, BETA2, TINY = 0.9, 0.99, 1e-8


class Lab:
    """Regression clients of one seed (a `federate.Task`)."""

    def __init__(self, setting: Setting) -> None:
        rank = max(setting.ranks, default=setting.rank)
        self._setting = setting
        self._spec = lab_spec(rank)
        attack = parse(setting.attack)
        self._hostile = attack.hostile(setting.clients, setting.seed)
        kind, h = read_partition(setting.partition)
        rng = np.random.default_rng([setting.seed, 1])
        self._targets, self._weights = _problem(kind, h, setting.clients, rng)
        self._taught = self._targets.copy()
        if attack.kind == "flip":
            for client in self._hostile:
                self._taught[client] *= -attack.strength
        self._honest = [k for k in range(setting.clients) if k not in self._hostile]
        self._base = np.zeros((D_OUT, D_IN))
        targets, weights = self._targets[self._honest], self._weights[self._honest]
        best = np.linalg.solve(weights.sum(0).T, (targets @ weights).sum(0).T).T
        self._best, self._zero = self._mean_loss(best), self._mean_loss(self._base)
        self._untrained = {k: self._loss(k, self._base) for k in self._honest}

    @property
    def spec(self) -> AdapterSpec:
        """One module of 32 × 24."""
        return self._spec

    def initial(self) -> Arrays:
        """A uniform in ±1/sqrt(24), B zero."""
        return initial_arrays(self._spec, self._setting.seed)

    def examples(self, client: int) -> int:
        """The same for all."""
        _ = client
        return SAMPLES

    def train(self, jobs: Sequence[Job]) -> Iterator[Arrays]:
        """Adam on all clients of the round at once."""
        rank = self._spec.rank
        a, b = np.zeros((len(jobs), rank, D_IN)), np.zeros((len(jobs), D_OUT, rank))
        for place, job in enumerate(jobs):
            own = job.start[MODULE + A].shape[0]
            a[place, :own], b[place, :, :own] = job.start[MODULE + A], job.start[MODULE + B]
        clients = [job.client for job in jobs]
        a, b = self._descend(a, b, clients, jobs[0].trains)
        for place, job in enumerate(jobs):
            own = job.start[MODULE + A].shape[0]
            yield {
                MODULE + A: a[place, :own].astype(np.float32),
                MODULE + B: b[place, :, :own].astype(np.float32),
            }

    def measure(self, adapters: Sequence[Mapping[str, F32]]) -> Measured:
        """The score, and what is left of each honest client's own loss."""
        made = [
            self._base + SCALE * each[MODULE + B].astype(np.float64) @ each[MODULE + A]
            for each in adapters
        ]
        one = len(made) == 1
        losses = {k: self._loss(k, made[0 if one else k]) for k in self._honest}
        mean = math.fsum(losses.values()) / len(losses)
        left = {f"client {k}": loss / self._untrained[k] for k, loss in losses.items()}
        return Measured((mean - self._best) / (self._zero - self._best), left)

    def add_base(self, delta: Arrays) -> None:
        """Add to the frozen matrix."""
        self._base = self._base + delta[MODULE + B].astype(np.float64) @ delta[MODULE + A]

    def facts(self) -> dict[str, str]:
        """Hash of all targets and inputs."""
        content = self._targets.tobytes() + self._weights.tobytes() + self._taught.tobytes()
        return {"data": hashlib.sha256(content).hexdigest()}

    def _descend(
        self, a: F64, b: F64, clients: list[int], trains: frozenset[str]
    ) -> tuple[F64, F64]:
        """Take all local steps of all clients at once; A and B lie side by side in one array."""
        targets, weights = self._taught[clients], self._weights[clients]
        count, length = len(clients), a[0].size
        values = np.concatenate([a.reshape(count, -1), b.reshape(count, -1)], axis=1)
        slopes = np.zeros_like(values)
        a, b = values[:, :length].reshape(a.shape), values[:, length:].reshape(b.shape)
        slope_a = slopes[:, :length].reshape(a.shape)
        slope_b = slopes[:, length:].reshape(b.shape)
        made, slope = np.empty_like(targets), np.empty_like(targets)
        begin, pull = values.copy(), self._setting.proximal_mu
        adam, offset = _Adam(values, self._setting.lr), self._base - targets
        for _ in range(self._setting.steps):
            np.matmul(b, a, out=made)
            made *= SCALE
            made += offset
            np.matmul(made, weights, out=slope)
            slope *= SCALE
            if "A" in trains:
                np.matmul(b.transpose(0, 2, 1), slope, out=slope_a)
            if "B" in trains:
                np.matmul(slope, a.transpose(0, 2, 1), out=slope_b)
            adam.step(slopes + pull * (values - begin) if pull else slopes)
        return a, b

    def _mean_loss(self, made: F64) -> float:
        return math.fsum(self._loss(k, made) for k in self._honest) / len(self._honest)

    def _loss(self, client: int, made: F64) -> float:
        gap = made - self._targets[client]
        return 0.5 * float(((gap @ self._weights[client]) * gap).sum())


def lab_spec(rank: int) -> AdapterSpec:
    """The lab's adapter: scale 2 at any rank."""
    shapes = {MODULE + A: (rank, D_IN), MODULE + B: (D_OUT, rank)}
    return AdapterSpec("", "lab", rank, SCALE * rank, False, ("lab",), shapes)


def read_partition(text: str) -> tuple[str, float]:
    """Read "shift:1" or "aligned:2".

    Raises:
        ConfigError: neither.
    """
    kind, _, number = text.partition(":")
    try:
        h = float(number or "1")
    except ValueError:
        h = -1.0
    if kind not in KINDS or not 0.0 <= h < math.inf:
        raise ConfigError(
            f"'{text[:40]}' is no partition of the lab", hint="Write shift:H or aligned:H, H ≥ 0."
        )
    return kind, h


class _Adam:
    """Adam on one array, in place; a value without a slope stays."""

    def __init__(self, values: F64, lr: float) -> None:
        self._values, self._lr, self._steps = values, lr, 0
        self._first, self._second = np.zeros_like(values), np.zeros_like(values)

    def step(self, slopes: F64) -> None:
        self._steps += 1
        self._first *= BETA
        self._first += (1 - BETA) * slopes
        self._second *= BETA2
        self._second += (1 - BETA2) * (slopes * slopes)
        root = np.sqrt(self._second)
        root *= 1 / math.sqrt(1 - BETA2**self._steps)
        root += TINY
        np.divide(self._first, root, out=root)
        root *= self._lr / (1 - BETA**self._steps)
        self._values -= root


def _problem(kind: str, h: float, clients: int, rng: np.random.Generator) -> tuple[F64, F64]:
    """Return targets (clients, 32, 24) and second moments of inputs (clients, 24, 24)."""
    if kind == "aligned":
        left = np.linalg.qr(rng.standard_normal((D_OUT, 4)))[0]
        right = np.linalg.qr(rng.standard_normal((D_IN, 4)))[0].T
        inner = np.diag([4.0, 3.0, 2.0, 1.0]) + h * rng.standard_normal((clients, 4, 4))
        return left @ inner @ right, np.repeat(np.eye(D_IN)[None], clients, axis=0)
    shared = 2 * _low_rank(12, rng)
    targets = np.stack([shared + 2 * h * _low_rank(4, rng) for _ in range(clients)])
    scales = np.exp(h * rng.standard_normal((clients, D_IN, 1)) / 2)
    inputs = rng.standard_normal((clients, D_IN, SAMPLES)) * scales
    return targets, inputs @ inputs.transpose(0, 2, 1) / SAMPLES


def _low_rank(rank: int, rng: np.random.Generator) -> F64:
    left, right = rng.standard_normal((D_OUT, rank)), rng.standard_normal((rank, D_IN))
    return left @ right / math.sqrt(D_IN * rank)
