"""What hostile clients do to their update or to their data, by name: "sign:0.25:3".

sign     -strength times the honest change
scale    strength times the honest change
noise    a normal change of strength times the honest length, factor by factor
inverse  all of them send -strength times the mean of the honest changes (collusion)
copies   all of them send one and the same reversed change (one person, many names)
gauge    B strength, A / strength: the same product, other factors
flip     honest training on false data (the task knows which)
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from federation.adapter.format import A
from federation.adapter.tensors import Arrays
from federation.errors import ConfigError
from strategies.compare.partitions import positive

KINDS = ("sign", "scale", "noise", "inverse", "copies", "gauge", "flip")
SHARE, STRENGTH = 0.25, 1.0


@dataclass(frozen=True)
class Attack:
    """A kind, the share of clients that take part, and how hard they push."""

    kind: str = "none"
    share: float = 0.0
    strength: float = STRENGTH

    def hostile(self, clients: int, seed: int) -> frozenset[int]:
        """Return who is hostile: drawn by the seed, fewer than half, at least one."""
        if self.kind == "none":
            return frozenset()
        count = min(max(1, round(self.share * clients)), max(1, (clients - 1) // 2))
        drawn = np.random.default_rng([seed, 13]).permutation(clients)[:count]
        return frozenset(int(client) for client in drawn)


def parse(text: str) -> Attack:
    """Read "none", or KIND[:SHARE[:STRENGTH]].

    Raises:
        ConfigError: an unknown kind, or a number out of range.
    """
    kind, *numbers = text.split(":")
    if text == "none":
        return Attack()
    if kind not in KINDS or len(numbers) > 2:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        raise ConfigError(
            f"there is no attack called '{text[:40]}'",
            hint=f"Did you mean {near[0]}?"
            if near
            else f"Choose one of: none, {', '.join(KINDS)}.",
        )
    values = [positive(number, text) for number in numbers]
    share, strength = (values + [SHARE, STRENGTH][len(values) :])[:2]
    if share >= 0.5:
        raise ConfigError(f"'{text}': fewer than half of the clients can be hostile")
    return Attack(kind, share, strength)


def corrupt(
    attack: Attack,
    deltas: Sequence[Arrays],
    starts: Sequence[Mapping[str, np.ndarray]],
    hostile: frozenset[int],
    rng: np.random.Generator,
) -> list[Arrays]:
    """Return the changes that are sent: those of hostile clients made into the attack.

    Args:
        attack: what they do; "flip" and "none" leave changes alone.
        deltas: honest changes, one per client, f32; not modified.
        starts: the adapter each began with.
        hostile: places of the attackers.
        rng: of noise.
    """
    sent = list(deltas)
    honest = [delta for client, delta in enumerate(deltas) if client not in hostile]
    first = min(hostile, default=0)
    for client in sorted(hostile):
        own, strength = deltas[client], np.float32(attack.strength)
        if attack.kind == "sign":
            sent[client] = {name: -strength * value for name, value in own.items()}
        elif attack.kind == "scale":
            sent[client] = {name: strength * value for name, value in own.items()}
        elif attack.kind == "noise":
            sent[client] = {name: _noise(value, strength, rng) for name, value in own.items()}
        elif attack.kind == "copies":
            sent[client] = {name: -strength * value for name, value in deltas[first].items()}
        elif attack.kind == "inverse" and honest:
            sent[client] = {
                name: (-strength * np.mean([each[name] for each in honest], axis=0)).astype("f4")
                for name in own
            }
        elif attack.kind == "gauge":
            sent[client] = _stretched(own, starts[client], strength)
    return sent


def _noise(value: np.ndarray, strength: np.float32, rng: np.random.Generator) -> np.ndarray:
    drawn = rng.standard_normal(value.shape).astype(np.float32)
    length = float(np.linalg.norm(drawn)) or 1.0
    return drawn * np.float32(strength * float(np.linalg.norm(value)) / length)


def _stretched(own: Arrays, start: Mapping[str, np.ndarray], strength: np.float32) -> Arrays:
    found: Arrays = {}
    for name, value in own.items():
        factor = 1 / strength if name.endswith(A) else strength
        found[name] = (factor * (start[name] + value) - start[name]).astype(np.float32)
    return found
