"""Fusion: a convex combination over one pool, with exact cosines."""

from __future__ import annotations

import numpy as np

from rag.retrieval.fusion import fuse


def test_the_score_is_seven_tenths_words_and_three_tenths_cosine() -> None:
    found = fuse(np.array([4.0, 2.0, 0.0]), np.array([0.25, 0.5, 0.4]))
    assert np.allclose(found, [0.7 + 0.15, 0.35 + 0.3, 0.24])


def test_a_negative_cosine_counts_as_none() -> None:
    assert np.allclose(fuse(np.array([2.0, 1.0]), np.array([-0.9, 0.5])), [0.7, 0.35 + 0.3])


def test_a_member_without_a_vector_is_judged_by_its_words() -> None:
    found = fuse(np.array([2.0, 2.0]), np.array([np.nan, 0.5]))
    assert np.allclose(found, [1.0, 1.0])


def test_a_term_that_is_nothing_for_all_is_left_out() -> None:
    words = np.array([3.0, 1.5])
    assert np.allclose(fuse(words, None), [1.0, 0.5])
    assert np.allclose(fuse(words, np.array([-0.1, 0.0])), [1.0, 0.5])
    assert np.allclose(fuse(np.zeros(2), np.array([0.2, 0.4])), [0.5, 1.0])
    assert fuse(np.zeros(0), None).size == 0


def test_the_weight_decides_between_the_two() -> None:
    words, cosine = np.array([1.0, 0.5]), np.array([0.1, 0.9])
    assert fuse(words, cosine, alpha=0.1).argmax() == 0
    assert fuse(words, cosine, alpha=0.9).argmax() == 1
