"""Who has which documents: equal shares, skewed fields, one field or language each, unequal sizes.

Every function returns one sorted list of places per client; each place is in exactly one list.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from federation.errors import ConfigError

TRIES = 200
KINDS = ("iid", "dirichlet:ALPHA", "domain", "language", "quantity:ALPHA")
Shares = list[list[int]]


def share_out(
    kind: str, fields: Sequence[str], languages: Sequence[str], clients: int, seed: int
) -> Shares:
    """Share documents out as `kind` says.

    Args:
        kind: "iid", "dirichlet:0.1" (over fields), "domain" (whole fields), "language", or
            "quantity:0.5" (iid in content, sizes by a Dirichlet draw).
        fields: field of each document.
        languages: language of each.
        clients: at least 1, at most as many as there are documents.
        seed: equal seeds give equal shares.

    Raises:
        ConfigError: an unknown kind, a number that is none, or too few documents.
    """
    if not 1 <= clients <= len(fields):
        raise ConfigError(f"{len(fields)} documents cannot be shared out to {clients} clients")
    rng = np.random.default_rng([seed, 11])
    name, _, number = kind.partition(":")
    if kind == "iid":
        return iid(len(fields), clients, rng)
    if name == "dirichlet":
        return dirichlet(fields, clients, positive(number or "0.5", kind), rng)
    if name == "quantity":
        return quantity(len(fields), clients, positive(number or "0.5", kind), rng)
    if kind == "domain":
        return by_label(fields, clients, rng)
    if kind == "language":
        return by_label(languages, clients, rng)
    raise ConfigError(
        f"there is no partition called '{kind[:40]}'", hint=f"Choose one of: {', '.join(KINDS)}."
    )


def iid(count: int, clients: int, rng: np.random.Generator) -> Shares:
    """Deal shuffled places in turn: sizes differ by one at most."""
    order = rng.permutation(count)
    return [sorted(order[client::clients].tolist()) for client in range(clients)]


def dirichlet(
    labels: Sequence[str], clients: int, alpha: float, rng: np.random.Generator
) -> Shares:
    """Cut each label at shares drawn from Dir(alpha), as Hsu et al. do (arXiv 1909.06335).

    Drawn again until nobody is left with nothing; a client that is so after all tries gets one
    document of the largest share.
    """
    shares: Shares = []
    for _ in range(TRIES):
        shares = [[] for _ in range(clients)]
        for label in sorted(set(labels)):
            places = rng.permutation([at for at, each in enumerate(labels) if each == label])
            for client, part in enumerate(_cut(places, rng.dirichlet([alpha] * clients))):
                shares[client] += part
        if all(shares):
            break
    return _none_empty(shares)


def quantity(count: int, clients: int, alpha: float, rng: np.random.Generator) -> Shares:
    """Cut shuffled places at shares drawn from Dir(alpha): like content, unlike sizes."""
    return _none_empty(_cut(rng.permutation(count), rng.dirichlet([alpha] * clients)))


def by_label(labels: Sequence[str], clients: int, rng: np.random.Generator) -> Shares:
    """Give whole labels, the largest first, each to the client that has least so far.

    With fewer labels than clients several clients share one, in equal parts.
    """
    places = {
        label: rng.permutation([at for at, each in enumerate(labels) if each == label])
        for label in sorted(set(labels))
    }
    ordered = sorted(places, key=lambda label: (-len(places[label]), label))
    shares: Shares = [[] for _ in range(clients)]
    if len(ordered) >= clients:
        for label in ordered:
            min(shares, key=len).extend(places[label].tolist())
        return _none_empty(shares)
    for client in range(clients):
        label = ordered[client % len(ordered)]
        mates = range(client % len(ordered), clients, len(ordered))
        shares[client] = places[label][mates.index(client) :: len(mates)].tolist()
    return _none_empty(shares)


def positive(number: str, what: str) -> float:
    """Read a number above 0.

    Raises:
        ConfigError: it is none.
    """
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise ConfigError(f"'{what[:40]}' needs a number above 0")
    return value


def _cut(places: npt.NDArray[np.intp], parts: npt.NDArray[np.float64]) -> Shares:
    ends = np.floor(np.cumsum(parts)[:-1] * len(places) + 0.5).astype(int)
    return [part.tolist() for part in np.split(places, ends)]


def _none_empty(shares: Shares) -> Shares:
    for share in shares:
        if not share:
            share.append(max(shares, key=len).pop())
    return [sorted(share) for share in shares]
