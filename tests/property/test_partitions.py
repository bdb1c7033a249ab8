"""Every partition gives each document to exactly one client, and nobody nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.compare.partitions import share_out

pytestmark = pytest.mark.strategies
KINDS = ("iid", "dirichlet:0.1", "dirichlet:100", "domain", "language", "quantity:0.3")


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(KINDS), st.integers(8, 60), st.integers(1, 8), st.integers(0, 1000))
def test_each_document_has_one_owner_and_each_client_a_document(
    kind: str, count: int, clients: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    fields = [f"field {n}" for n in rng.integers(0, 5, count)]
    languages = ["es" if n else "en" for n in rng.integers(0, 2, count)]
    shares = share_out(kind, fields, languages, clients, seed)
    assert sorted(at for share in shares for at in share) == list(range(count))
    assert len(shares) == clients
    assert all(shares)
    assert shares == share_out(kind, fields, languages, clients, seed)


def test_a_small_alpha_gives_a_client_few_fields_and_a_large_one_all() -> None:
    fields = [f"field {n % 6}" for n in range(600)]

    def spread(kind: str) -> float:
        shares = share_out(kind, fields, fields, 6, 1)
        tops = [max(np.unique([fields[at] for at in s], return_counts=True)[1]) for s in shares]
        return float(np.mean([top / len(s) for top, s in zip(tops, shares, strict=True)]))

    assert spread("dirichlet:100") < 0.25 < 0.6 < spread("dirichlet:0.1")


def test_domains_and_languages_stay_whole_where_there_are_enough() -> None:
    fields = [f"field {n % 6}" for n in range(60)]
    shares = share_out("domain", fields, fields, 3, 0)
    owners = {
        field: {k for k, s in enumerate(shares) for at in s if fields[at] == field}
        for field in set(fields)
    }
    assert all(len(owner) == 1 for owner in owners.values())
    languages = ["es"] * 40 + ["en"] * 20
    shares = share_out("language", fields, languages, 5, 0)
    assert all(len({languages[at] for at in share}) == 1 for share in shares)


def test_sizes_are_equal_for_iid_and_not_for_quantity() -> None:
    fields = ["a"] * 101
    assert {len(share) for share in share_out("iid", fields, fields, 4, 0)} == {25, 26}
    sizes = [len(share) for share in share_out("quantity:0.3", fields, fields, 4, 0)]
    assert max(sizes) > 3 * min(sizes)
