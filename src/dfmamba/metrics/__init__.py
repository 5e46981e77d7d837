"""Errors of hand poses: alignment, means, curves, and their accumulation over a data set."""

from dfmamba.metrics.accumulate import PROTOCOLS, HandMetrics
from dfmamba.metrics.pose import (
    auc,
    handedness_accuracy,
    interhand_mpjpe,
    joint_errors,
    mean_error,
    mpjpe,
    mrrpe,
    pa_mpjpe,
    pck,
    procrustes_aligned,
    root_aligned,
    root_scale_aligned,
)

__all__ = [
    "PROTOCOLS",
    "HandMetrics",
    "auc",
    "handedness_accuracy",
    "interhand_mpjpe",
    "joint_errors",
    "mean_error",
    "mpjpe",
    "mrrpe",
    "pa_mpjpe",
    "pck",
    "procrustes_aligned",
    "root_aligned",
    "root_scale_aligned",
]
