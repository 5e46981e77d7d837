"""Alignment of predicted hands with the truth, and errors in mm.

All functions take numpy arrays or torch tensors and compute in float64 torch on the device of the prediction.
Joints are the second last axis, coordinates the last. Aligned predictions are returned in the frame of the
truth, so that the error is always the plain distance.

Share of correct key points (PCK) and the area under its curve are as in the evaluation code of Zimmermann
and Brox (2017): a joint is correct at threshold t if its error is at most t; the curve is taken per joint
over the samples, the area by the trapezoid rule, divided by the range; joints are averaged last. With
`per_joint_first=False` all errors are pooled instead. Values depend on the range: 20-50 mm (the DetNet line
of work, 15 thresholds) gives much larger areas than 0-50 mm (DexYCB, 100 thresholds). Never compare one
with the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

ArrayLike: TypeAlias = np.ndarray | Tensor
_TINY = 1e-12


def as_pair(pred: ArrayLike, gt: ArrayLike) -> tuple[Tensor, Tensor]:
    """Prediction and truth as float64 tensors of one shape (..., J, 2 or 3).

    Raises:
        ValueError: if the shapes differ or are no joints.
    """
    pred_, gt_ = _tensor(pred).double(), _tensor(gt).double()
    if pred_.shape != gt_.shape or pred_.ndim < 2 or pred_.shape[-1] not in (2, 3):
        raise ValueError(
            f"prediction {tuple(pred_.shape)} and truth {tuple(gt_.shape)}; expected twice (..., joints, 3)"
        )
    return pred_, gt_.to(pred_.device)


def as_valid(valid: ArrayLike | None, like: Tensor) -> Tensor:
    """A validity mask as a bool tensor of the shape of `like` (all true for None).

    Raises:
        ValueError: if the shape differs.
    """
    if valid is None:
        return torch.ones(like.shape, dtype=torch.bool, device=like.device)
    mask = _tensor(valid)
    if mask.shape != like.shape:
        raise ValueError(f"valid has shape {tuple(mask.shape)}; expected {tuple(like.shape)}")
    return mask.to(like.device).bool()


def _tensor(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    array = np.asarray(values)
    return torch.from_numpy(np.array(array))


def _masked(values: Tensor, mask: Tensor) -> Tensor:
    """Zeros where the mask is false, whatever stood there (also nan)."""
    return values.where(mask, torch.zeros_like(values))


def joint_errors(pred: ArrayLike, gt: ArrayLike) -> Tensor:
    """Distance of each joint, (..., J, 3) twice -> (..., J) float64, in the unit of the joints."""
    pred_, gt_ = as_pair(pred, gt)
    return (pred_ - gt_).norm(dim=-1)


def mean_error(errors: ArrayLike, valid: ArrayLike | None = None, per_joint_first: bool = False) -> Tensor:
    """Mean of the errors that count.

    Args:
        errors: (..., J).
        valid: (..., J) bool, the errors that count; None counts all.
        per_joint_first: average each joint over the samples and then those means over the joints that occur,
            as InterHand2.6M does. (2, 21) hands that are to count as 42 joints must be reshaped to (..., 42).

    Returns:
        Scalar float64; nan if nothing counts.
    """
    errors_ = _tensor(errors).double()
    mask = as_valid(valid, errors_)
    if not per_joint_first:
        return errors_[mask].mean() if mask.any() else errors_.new_tensor(float("nan"))
    joints = errors_.shape[-1]
    mask = mask.reshape(-1, joints)
    total = _masked(errors_.reshape(-1, joints), mask).sum(0)
    count = mask.sum(0)
    return (total / count)[count > 0].mean() if count.any() else errors_.new_tensor(float("nan"))


def root_aligned(pred: ArrayLike, gt: ArrayLike, root: int = 0) -> Tensor:
    """The prediction moved so that its root joint lies on the true one, (..., J, 3)."""
    pred_, gt_ = as_pair(pred, gt)
    return pred_ - pred_[..., root : root + 1, :] + gt_[..., root : root + 1, :]


def root_scale_aligned(
    pred: ArrayLike,
    gt: ArrayLike,
    valid: ArrayLike | None = None,
    root: int = 0,
    bone: tuple[int, int] | None = None,
) -> Tensor:
    """The prediction moved to the true root and scaled about it.

    Args:
        pred: (..., J, 3).
        gt: (..., J, 3).
        valid: (..., J) bool, the joints that decide the scale.
        root: joint that stays fixed.
        bone: two joints whose distance is made the true one, (0, 9) in the DetNet line of work; None takes
            the least-squares scale over the valid joints (not below 0: a hand is never mirrored).

    Returns:
        (..., J, 3) float64. A prediction without extent stays a point.
    """
    pred_, gt_ = as_pair(pred, gt)
    origin = gt_[..., root : root + 1, :]
    p, g = pred_ - pred_[..., root : root + 1, :], gt_ - origin
    if bone is None:
        mask = as_valid(valid, pred_[..., 0])[..., None]
        fit_p, fit_g = _masked(p, mask), _masked(g, mask)
        scale = (fit_p * fit_g).sum((-2, -1)).clamp_min(0) / (fit_p**2).sum((-2, -1)).clamp_min(_TINY)
    else:
        first, second = bone
        length = (g[..., second, :] - g[..., first, :]).norm(dim=-1)
        scale = length / (p[..., second, :] - p[..., first, :]).norm(dim=-1).clamp_min(_TINY)
    return p * scale[..., None, None] + origin


def procrustes_aligned(pred: ArrayLike, gt: ArrayLike, valid: ArrayLike | None = None) -> Tensor:
    """The prediction after the best rotation, scale and shift onto the truth, without reflection (Umeyama
    1991).

    Args:
        pred: (..., J, 3).
        gt: (..., J, 3).
        valid: (..., J) bool, the joints that decide the fit. All joints are transformed.

    Returns:
        (..., J, 3) float64. With fewer than three valid joints the fit is not unique, and some best one is
        taken.
    """
    pred_, gt_ = as_pair(pred, gt)
    mask = as_valid(valid, pred_[..., 0])[..., None]
    count = mask.sum(-2, keepdim=True).clamp_min(1)
    pred_mean = _masked(pred_, mask).sum(-2, True) / count
    gt_mean = _masked(gt_, mask).sum(-2, True) / count
    p, g = pred_ - pred_mean, gt_ - gt_mean
    fit_p, fit_g = _masked(p, mask), _masked(g, mask)
    u, s, vt = torch.linalg.svd(fit_g.transpose(-1, -2) @ fit_p)
    sign = torch.ones_like(s)
    sign[..., -1] = torch.where(torch.linalg.det(u) * torch.linalg.det(vt) < 0, -1.0, 1.0)
    rotation = (u * sign[..., None, :]) @ vt
    scale = (s * sign).sum(-1) / (fit_p**2).sum((-2, -1)).clamp_min(_TINY)
    return scale[..., None, None] * p @ rotation.transpose(-1, -2) + gt_mean


def rooted(valid: ArrayLike | None, like: Tensor, root: int) -> Tensor:
    """The joints that count in a root-relative error: the valid ones of hands whose root is valid."""
    mask = as_valid(valid, like)
    return mask & mask[..., root : root + 1]


def mpjpe(
    pred_mm: ArrayLike,
    gt_mm: ArrayLike,
    valid: ArrayLike | None = None,
    root: int | None = 0,
    *,
    include_root: bool = True,
    per_joint_first: bool = False,
) -> Tensor:
    """Mean per-joint position error after alignment of the root.

    A hand whose root is not valid does not count. For the figure of InterHand2.6M see `interhand_mpjpe`.

    Args:
        pred_mm: (..., J, 3), or (..., J, 2) pixels.
        gt_mm: like `pred_mm`.
        valid: (..., J) bool.
        root: joint to align; None aligns nothing.
        include_root: count the root, whose error is 0 by construction (InterHand2.6M, DexYCB and RHD do; with
            21 valid joints a mean without it is 21/20 of the one with it).
        per_joint_first: see `mean_error`.

    Returns:
        Scalar float64, mm; nan if nothing counts.
    """
    pred, gt = as_pair(pred_mm, gt_mm)
    if root is None:
        return mean_error(joint_errors(pred, gt), valid, per_joint_first)
    mask = rooted(valid, pred[..., 0], root)
    if not include_root:
        mask = mask.clone()
        mask[..., root] = False
    return mean_error(joint_errors(root_aligned(pred, gt, root), gt), mask, per_joint_first)


def interhand_mpjpe(pred_mm: ArrayLike, gt_mm: ArrayLike, valid: ArrayLike | None = None) -> Tensor:
    """MPJPE as InterHand2.6M reports it: the mean over 42 joints of each joint's mean over the samples.

    Each hand is relative to its own wrist. The two wrists count, with error 0.

    Args:
        pred_mm: (N, 2, 21, 3), right hand then left.
        gt_mm: like `pred_mm`.
        valid: (N, 2, 21) bool.

    Returns:
        Scalar float64, mm; nan if nothing counts.

    Raises:
        ValueError: if the joints are not (N, 2, 21, 3).
    """
    pred, gt = as_pair(pred_mm, gt_mm)
    if pred.ndim != 4 or pred.shape[1:] != (2, 21, 3):
        raise ValueError(f"joints have shape {tuple(pred.shape)}; expected (N, 2, 21, 3)")
    mask = rooted(valid, pred[..., 0], 0)
    errors = joint_errors(root_aligned(pred, gt), gt)
    return mean_error(errors.flatten(1), mask.flatten(1), per_joint_first=True)


def pa_mpjpe(
    pred_mm: ArrayLike, gt_mm: ArrayLike, valid: ArrayLike | None = None, *, per_joint_first: bool = False
) -> Tensor:
    """Mean per-joint error after Procrustes alignment of each hand over its valid joints; see `mpjpe`."""
    pred, gt = as_pair(pred_mm, gt_mm)
    errors = joint_errors(procrustes_aligned(pred, gt, valid), gt)
    return mean_error(errors, valid, per_joint_first)


def mrrpe(pred_mm: ArrayLike, gt_mm: ArrayLike, valid: ArrayLike | None = None, root: int = 0) -> Tensor:
    """Mean relative-root position error: how wrong the left wrist is, seen from the right wrist.

    Args:
        pred_mm: (..., 2, 21, 3) camera frame or any frame common to both hands, right then left.
        gt_mm: like `pred_mm`.
        valid: (..., 2, 21) bool; samples count where both roots are valid.
        root: the wrist.

    Returns:
        Scalar float64, mm; nan if no sample counts.

    Raises:
        ValueError: if there are not two hands.
    """
    pred, gt = as_pair(pred_mm, gt_mm)
    if pred.ndim < 3 or pred.shape[-3] != 2:
        raise ValueError(f"joints have shape {tuple(pred.shape)}; expected two hands, (..., 2, 21, 3)")
    both = as_valid(valid, pred[..., 0])[..., root].all(-1)
    pred_offset = pred[..., 1, root, :] - pred[..., 0, root, :]
    gt_offset = gt[..., 1, root, :] - gt[..., 0, root, :]
    return mean_error((pred_offset - gt_offset).norm(dim=-1)[..., None], both[..., None])


def handedness_accuracy(pred_present: ArrayLike, gt_present: ArrayLike, threshold: float = 0.5) -> Tensor:
    """Share of pictures in which both hands are rightly called present or absent.

    Args:
        pred_present: (..., 2) bool or probability, right then left.
        gt_present: (..., 2) bool.
        threshold: probability from which on a hand counts as present.

    Returns:
        Scalar float64; nan without pictures.

    Raises:
        ValueError: on wrong shapes.
    """
    pred, gt = _tensor(pred_present), _tensor(gt_present)
    if pred.shape != gt.shape or pred.shape[-1:] != (2,):
        raise ValueError(
            f"presence has shapes {tuple(pred.shape)}, {tuple(gt.shape)}; expected (..., 2), right, left"
        )
    right = (pred.double() >= threshold) == gt.to(pred.device).bool()
    return right.all(-1).double().mean()


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
