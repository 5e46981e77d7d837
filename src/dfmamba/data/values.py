"""Numbers out of files that other people wrote."""

from __future__ import annotations

from typing import Any

import numpy as np


def numbers(value: Any, shape: tuple[int, ...] | None = None) -> np.ndarray | None:
    """Nested lists of numbers as float64, nan and infinity among them; None for anything else.

    Args:
        value: as a JSON file holds it.
        shape: that is expected; None takes any.
    """
    try:
        array = np.array(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if array.dtype.kind not in "iuf" or (shape is not None and array.shape != shape):
        return None
    return array.astype(np.float64)
