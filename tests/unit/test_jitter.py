"""The wait before a node's first contact."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from client import jitter, launcher
from client.config import NodeConfig, find_home
from tests.adapter_samples import make_spec
from tests.fake_gateway import serve_gateway
from tests.global_samples import Chain, joined_home


def waits(longest_s: float, seed: int | None = None) -> tuple[float, list[str], list[float]]:
    said: list[str] = []
    slept: list[float] = []
    rng = None if seed is None else random.Random(seed)
    return jitter.wait(longest_s, said.append, rng=rng, sleep=slept.append), said, slept


@pytest.mark.privacy
def test_starts_are_spread_over_the_whole_time() -> None:
    pauses = [waits(20.0, seed)[0] for seed in range(500)]
    assert all(0 <= pause <= 20 for pause in pauses)
    assert [sum(low <= pause < low + 5 for pause in pauses) > 90 for low in (0, 5, 10, 15)] == (
        [True] * 4
    )


@pytest.mark.privacy
def test_the_wait_is_of_the_systems_own_randomness_and_not_of_a_seed() -> None:
    random.seed(7)
    first = waits(20.0)[0]
    random.seed(7)
    assert waits(20.0)[0] != first


def test_the_owner_is_told_and_the_wait_is_as_long_as_said() -> None:
    pause, said, slept = waits(20.0, seed=3)
    assert slept == [pause]
    assert said == [f"Starting in {round(pause)} s: a random moment tells less (start_jitter_s)."]


def test_with_zero_there_is_no_wait_and_no_word() -> None:
    assert waits(0.0) == (0.0, [], [])


class EnoughError(Exception):
    """What a node said first."""


@pytest.mark.privacy
def test_a_run_waits_before_anything_is_dialled(tmp_path: Path) -> None:
    def say(line: str) -> None:
        raise EnoughError(line)

    home = joined_home(find_home().root, Chain(make_spec(layers=1)))
    with serve_gateway(tmp_path / "tls") as gateway:
        config = NodeConfig(start_jitter_s=7200, server_url=f"https://{gateway.address}")
        with pytest.raises(EnoughError, match="Starting in"):
            launcher.run(home, config, say)
        assert gateway.asked == []
