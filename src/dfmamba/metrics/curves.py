"""Share of correct key points (PCK) and the area under its curve.

As in the evaluation code of Zimmermann and Brox (2017): a joint is correct at threshold t if its error is at
most t; the curve is taken per joint over the samples, the area by the trapezoid rule, divided by the range;
joints are averaged last. With `per_joint_first=False` all errors are pooled instead.

Values depend on the range: 20-50 mm (the DetNet line of work, 15 thresholds) gives much larger areas than
0-50 mm (DexYCB, 100 thresholds). Never compare one with the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dfmamba.metrics.pose import ArrayLike, as_valid


def pck(
    errors_mm: ArrayLike,
    thresholds_mm: Sequence[float] | ArrayLike,
    valid: ArrayLike | None = None,
    per_joint_first: bool = True,
) -> Tensor:
    """Share of errors at or below each threshold.

    Args:
        errors_mm: (..., J).
        thresholds_mm: (T,).
        valid: (..., J) bool.
        per_joint_first: average over the joints last.

    Returns:
        (T,) float64, 0 to 1; nan if nothing counts.

    Raises:
        ValueError: if shapes are wrong.
    """
    errors = torch.as_tensor(
        np.asarray(errors_mm) if not isinstance(errors_mm, Tensor) else errors_mm
    ).double()
    thresholds = torch.as_tensor(thresholds_mm, dtype=torch.float64, device=errors.device)
    if errors.ndim == 0 or thresholds.ndim != 1 or len(thresholds) == 0:
        raise ValueError(
            f"errors {tuple(errors.shape)}, thresholds {tuple(thresholds.shape)}; expected (..., J) and (T,)"
        )
    mask = as_valid(valid, errors)
    joints = errors.shape[-1] if per_joint_first else 1
    errors, mask = errors.reshape(-1, joints), mask.reshape(-1, joints)
    below = torch.stack([((errors <= t) & mask).sum(0) for t in thresholds])
    return share(below.T, mask.sum(0))


def share(below: Tensor, count: Tensor) -> Tensor:
    """Counts (J, T) within thresholds, counts (J,) of all -> (T,), mean over joints that occur; else nan."""
    if not bool(count.any()):
        return below.new_full((below.shape[1],), float("nan"), dtype=torch.float64)
    seen = count > 0
    return (below[seen].double() / count[seen, None]).mean(0)


def area(curve: Tensor, thresholds_mm: Tensor) -> Tensor:
    """Area under a curve (T,) by the trapezoid rule, divided by the range of the thresholds."""
    return torch.trapezoid(curve, thresholds_mm) / (thresholds_mm[-1] - thresholds_mm[0])


def auc(
    errors_mm: ArrayLike,
    valid: ArrayLike | None = None,
    low_mm: float = 0.0,
    high_mm: float = 50.0,
    steps: int = 100,
    per_joint_first: bool = True,
) -> Tensor:
    """Area under the PCK curve between two thresholds.

    Args:
        errors_mm: (..., J).
        valid: (..., J) bool.
        low_mm: first threshold.
        high_mm: last threshold.
        steps: number of thresholds, evenly spaced.
        per_joint_first: average over the joints last.

    Returns:
        Scalar float64, 0 to 1; nan if nothing counts.

    Raises:
        ValueError: if the range is empty or shapes are wrong.
    """
    if not low_mm < high_mm or steps < 2:
        raise ValueError(
            f"range {low_mm}-{high_mm} mm in {steps} steps; expected low < high and at least 2 steps"
        )
    thresholds = torch.linspace(low_mm, high_mm, steps, dtype=torch.float64)
    curve = pck(errors_mm, thresholds, valid, per_joint_first)
    return area(curve, thresholds.to(curve.device))
