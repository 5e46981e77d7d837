"""Which old thing is which new one: pairs of least total cost."""

from __future__ import annotations

import numpy as np

EXACT = 10
"""Up to so many columns the best assignment is searched for; beyond, the cheapest pairs go first."""


def assign(costs: np.ndarray, most: float) -> dict[int, int]:
    """As many pairs as possible, and of those choices the one of least total cost.

    Args:
        costs: (n, m) of row i with column j.
        most: pairs that cost more are not made.

    Returns:
        The column of each paired row.
    """
    costs = np.asarray(costs, dtype=np.float64)
    if costs.size == 0:
        return {}
    if costs.shape[1] > EXACT:
        if costs.shape[0] <= EXACT:
            return {i: j for j, i in assign(costs.T, most).items()}
        return _cheapest_first(costs, most)
    # Best choice for the rows so far, by the set of columns that they use.
    best: dict[int, tuple[int, float, tuple[tuple[int, int], ...]]] = {0: (0, 0.0, ())}
    for i, row in enumerate(costs):
        grown = dict(best)
        for used, (unpaired, total, pairs) in best.items():
            for j, cost in enumerate(row.tolist()):
                if used >> j & 1 or not cost <= most:
                    continue
                choice = (unpaired - 1, total + cost, (*pairs, (i, j)))
                key = used | 1 << j
                if key not in grown or choice < grown[key]:
                    grown[key] = choice
        best = grown
    return dict(min(best.values())[2])


def _cheapest_first(costs: np.ndarray, most: float) -> dict[int, int]:
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for flat in np.argsort(costs, axis=None):
        i, j = divmod(int(flat), costs.shape[1])
        if costs[i, j] <= most and i not in pairs and j not in taken:
            pairs[i] = j
            taken.add(j)
    return pairs
