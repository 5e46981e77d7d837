"""Pairs of least cost, against all permutations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfmamba.predict.track import assign


def best(costs: np.ndarray, most: float) -> tuple[int, float]:
    """Number of pairs and their cost, by trying everything."""
    n, m = costs.shape
    found = (0, 0.0)
    for size in range(1, min(n, m) + 1):
        for rows in itertools.combinations(range(n), size):
            for columns in itertools.permutations(range(m), size):
                chosen = [costs[i, j] for i, j in zip(rows, columns, strict=True)]
                if max(chosen) <= most and (-size, sum(chosen)) < (-found[0], found[1]):
                    found = (size, sum(chosen))
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 2**32 - 1), st.floats(0.1, 1.0))
def test_the_best_pairs(n: int, m: int, seed: int, most: float) -> None:
    costs = np.random.default_rng(seed).uniform(0, 1, (n, m))
    pairs = assign(costs, most)
    assert len(set(pairs.values())) == len(pairs)
    cost = sum(costs[i, j] for i, j in pairs.items())
    assert (len(pairs), cost) == pytest.approx(best(costs, most))


@pytest.mark.parametrize("shape", [(3, 40), (40, 3), (40, 40)])
def test_many_at_once(shape: tuple[int, int]) -> None:
    places = np.random.default_rng(0).uniform(0, 1000, (max(shape), 2))
    costs = np.linalg.norm(places[: shape[0], None] - places[None, : shape[1]] + 0.01, axis=-1)
    assert assign(costs, 5.0) == {i: i for i in range(min(shape))}


def test_nothing_to_pair() -> None:
    assert assign(np.zeros((0, 3)), 1.0) == assign(np.zeros((3, 0)), 1.0) == {}
    assert assign(np.array([[np.nan, 2.0]]), 1.0) == {}
