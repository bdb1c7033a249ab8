"""Server optimisers against the formulas written down plainly, and against Flower's own."""

from __future__ import annotations

import numpy as np
import pytest

from strategies.optimiser import OPTIMISERS, Optimiser, StepPolicy, find_optimiser, take_step

pytestmark = pytest.mark.strategies
EACH = pytest.mark.parametrize("optimiser", OPTIMISERS, ids=lambda found: found.name)
NAME = "layer.lora_A.weight"


def run(name: str, changes: list[float], policy: StepPolicy) -> list[float]:
    """Positions of one number that starts at 0 and is proposed to move by each of `changes`."""
    optimiser = find_optimiser(name)
    assert optimiser is not None
    place, state = {NAME: np.zeros((1, 1), np.float32)}, {}
    found = []
    for change in changes:
        proposed = {NAME: place[NAME] + np.float32(change)}
        stepped = take_step(optimiser, place, proposed, state, policy)
        place, state = stepped.adapter, stepped.state
        found.append(float(place[NAME][0, 0]))
    return found


def test_lr_1_is_the_merge_itself_and_half_is_half() -> None:
    np.testing.assert_allclose(run("lr", [1, -2], StepPolicy()), [1, -1])
    np.testing.assert_allclose(run("lr", [1, -2], StepPolicy(lr=0.5)), [0.5, -0.5])


def test_momentum_keeps_going() -> None:
    np.testing.assert_allclose(run("momentum", [1, 0, 0], StepPolicy(beta=0.5)), [1, 1.5, 1.75])


def test_nesterov_looks_one_step_ahead() -> None:
    np.testing.assert_allclose(run("nesterov", [1, 0], StepPolicy(beta=0.5)), [1.5, 1.75])


def test_adam_and_yogi_follow_their_paper() -> None:
    policy = StepPolicy(lr=0.1, beta=0.9, beta2=0.99, tau=1e-3)
    m, v, x, expected = 0.0, 0.0, 0.0, []
    for change in (1.0, -0.5, 2.0):
        m = 0.9 * m + 0.1 * change
        v = 0.99 * v + 0.01 * change**2
        x += 0.1 * m / (v**0.5 + 1e-3)
        expected.append(x)
    np.testing.assert_allclose(run("adam", [1.0, -0.5, 2.0], policy), expected, rtol=1e-5)
    m, v, x, expected = 0.0, 0.0, 0.0, []
    for change in (1.0, -0.5, 2.0):
        m = 0.9 * m + 0.1 * change
        v = v - 0.01 * np.sign(v - change**2) * change**2
        x += 0.1 * m / (v**0.5 + 1e-3)
        expected.append(x)
    np.testing.assert_allclose(run("yogi", [1.0, -0.5, 2.0], policy), expected, rtol=1e-5)


@EACH
def test_no_change_moves_nothing_at_rest_and_no_input_is_modified(optimiser: Optimiser) -> None:
    rng = np.random.default_rng(0)
    current = {NAME: rng.normal(size=(3, 4)).astype(np.float32)}
    proposed = {NAME: rng.normal(size=(3, 4)).astype(np.float32)}
    still = take_step(optimiser, current, current, {}, StepPolicy())
    np.testing.assert_array_equal(still.adapter[NAME], current[NAME])
    first = take_step(optimiser, current, proposed, {}, StepPolicy(lr=0.1))
    for arrays in (current, proposed, *first.state.values()):
        for value in arrays.values():
            value.flags.writeable = False
    take_step(optimiser, current, proposed, first.state, StepPolicy(lr=0.1))


@EACH
def test_18_a_step_from_a_kept_state_has_the_same_bits(optimiser: Optimiser) -> None:
    rng = np.random.default_rng(1)
    places = [{NAME: rng.normal(size=(3, 4)).astype(np.float32)} for _ in range(3)]
    first = take_step(optimiser, places[0], places[1], {}, StepPolicy(lr=0.1))
    kept = {
        n: {k: np.frombuffer(v.tobytes(), np.float32).reshape(v.shape) for k, v in s.items()}
        for n, s in first.state.items()
    }
    one = take_step(optimiser, first.adapter, places[2], first.state, StepPolicy(lr=0.1))
    other = take_step(optimiser, first.adapter, places[2], kept, StepPolicy(lr=0.1))
    np.testing.assert_array_equal(one.adapter[NAME], other.adapter[NAME])
