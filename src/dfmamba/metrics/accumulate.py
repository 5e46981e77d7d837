"""Metrics over a whole data set, gathered batch by batch in constant memory."""

from __future__ import annotations

import torch
from torch import Tensor

from dfmamba.metrics.pose import (
    ArrayLike,
    area,
    as_pair,
    as_valid,
    handedness_accuracy,
    joint_errors,
    mrrpe,
    procrustes_aligned,
    root_aligned,
    root_scale_aligned,
    rooted,
    share,
)

_WIDE = torch.linspace(0.0, 50.0, 100, dtype=torch.float64)
_NARROW = torch.linspace(20.0, 50.0, 15, dtype=torch.float64)

PROTOCOLS: dict[str, str] = {
    "mpjpe_mm": "mean over all valid joints but the wrist, each hand relative to its wrist",
    "mpjpe_interhand_mm": "InterHand2.6M: mean per joint, then over joints, wrists counted as 0",
    "mpjpe_single_mm": "mpjpe_interhand_mm over samples with one hand",
    "mpjpe_two_mm": "mpjpe_interhand_mm over samples with two hands",
    "mpjpe_visible_mm": "mpjpe_mm over joints marked visible",
    "mpjpe_occluded_mm": "mpjpe_mm over joints marked not visible",
    "mpjpe_absolute_mm": "mean over all valid joints in the camera frame, nothing aligned",
    "mpjpe_scaled_mm": "as mpjpe_mm, after alignment of the scale about the wrist by least squares",
    "mpjpe_bone_scaled_mm": "DetNet: wrist and length of the bone wrist-middle_mcp aligned; wrist counted",
    "pa_mpjpe_mm": "mean over all valid joints after Procrustes alignment without reflection",
    "epe_mm": "RHD, DexYCB: mean per joint, right and left together, then over 21 joints, wrist counted as 0",
    "epe_absolute_mm": "DexYCB: as epe_mm, in the camera frame, nothing aligned",
    "epe_pa_mm": "DexYCB, FreiHAND: as epe_mm, after Procrustes alignment that may mirror as theirs does",
    "auc_0_50": "area under the root-relative PCK curve, 0-50 mm, 100 thresholds, wrist counted",
    "auc_20_50": "area under the root-relative PCK curve, 20-50 mm, 15 thresholds, wrist counted",
    "auc_absolute_0_50": "as auc_0_50, of the errors of epe_absolute_mm",
    "auc_pa_0_50": "as auc_0_50, of the errors of epe_pa_mm",
    "auc_bone_scaled_20_50": "DetNet: as auc_20_50, after the alignment of mpjpe_bone_scaled_mm",
    "mrrpe_mm": "left wrist relative to the right one, samples of two hands with both wrists",
    "handedness_accuracy": "share of samples with both hands rightly called present or absent",
    "samples": "number of samples",
}
"""What each value of `HandMetrics.compute` is. Lengths in mm, areas and accuracy 0 to 1.

Means per joint are over the samples in which the joint counts, and joints that never count are left out.
Curves are per joint too, right and left hands together, and averaged over the 21 joints.
"""


class _Sums:
    """Per joint: sum of errors, their number, and how many are within each threshold."""

    def __init__(self, joints: int, curves: bool) -> None:
        self.total = torch.zeros(joints, dtype=torch.float64)
        self.count = torch.zeros(joints, dtype=torch.int64)
        self.below = [torch.zeros(joints, len(t), dtype=torch.int64) for t in (_WIDE, _NARROW) if curves]

    def add(self, errors: Tensor, mask: Tensor) -> None:
        """Errors and mask (N, J)."""
        errors, mask = errors.cpu(), mask.cpu()
        self.total += errors.where(mask, torch.zeros_like(errors)).sum(0)
        self.count += mask.sum(0)
        if self.below:
            # Errors that don't count are beyond every threshold.
            ordered = errors.where(mask, torch.full_like(errors, torch.inf)).T.contiguous().sort(-1).values
            for below, thresholds in zip(self.below, (_WIDE, _NARROW), strict=True):
                each = thresholds.expand(len(ordered), -1).contiguous()
                below += torch.searchsorted(ordered, each, right=True)

    def pooled(self, skip: tuple[int, ...] = ()) -> float:
        keep = [joint for joint in range(len(self.total)) if joint not in skip]
        return float(self.total[keep].sum() / self.count[keep].sum())

    def per_joint(self, sides: bool = True) -> float:
        """Mean over joints of their means; without `sides` both hands go into the same 21 joints."""
        total, count = (self.total, self.count) if sides else (_folded(self.total), _folded(self.count))
        seen = count > 0
        return float((total[seen] / count[seen]).mean())

    def auc(self, which: int) -> float:
        thresholds = (_WIDE, _NARROW)[which]
        return float(area(share(_folded(self.below[which]), _folded(self.count)), thresholds))


def _folded(values: Tensor) -> Tensor:
    """Sums of both hands: (21 or 42, ...) -> (21, ...)."""
    return values.unflatten(0, (-1, 21)).sum(0)


def _similar(pred: Tensor, gt: Tensor, mask: Tensor) -> Tensor:
    """Errors (..., J) after the best similarity, mirrored or not, over the joints of the mask.

    DexYCB's and FreiHAND's evaluation take SciPy's `orthogonal_procrustes`, which may mirror. A flat hand is
    often nearer when it does.
    """
    mirror = pred.new_tensor((-1.0, 1.0, 1.0))
    plain, mirrored = (joint_errors(procrustes_aligned(p, gt, mask), gt) for p in (pred, pred * mirror))
    off = [(e**2).where(mask, torch.zeros_like(e)).sum(-1, keepdim=True) for e in (plain, mirrored)]
    return torch.where(off[1] < off[0], mirrored, plain)


class HandMetrics:
    """Gathers predictions and truths, then computes the values of `PROTOCOLS`.

    Examples:
        >>> metrics = HandMetrics()
        >>> metrics.update(pred_mm, gt_mm, valid)  # doctest: +SKIP
        >>> metrics.compute()["mpjpe_mm"]  # doctest: +SKIP
    """

    _CURVES = ("root", "bone", "absolute", "similar")

    def __init__(self) -> None:
        self.hands = 0
        self.samples = 0
        self._sums: dict[str, _Sums] = {}
        self._mrrpe = [0.0, 0.0]
        self._handedness = [0.0, 0.0]

    def update(
        self,
        pred_mm: ArrayLike,
        gt_mm: ArrayLike,
        valid: ArrayLike | None = None,
        visible: ArrayLike | None = None,
        pred_present: ArrayLike | None = None,
        gt_present: ArrayLike | None = None,
        interacting: ArrayLike | None = None,
    ) -> None:
        """Add a batch.

        Args:
            pred_mm: (N, 2, 21, 3) right hand then left, or (N, 21, 3) one hand; camera frame. Where only
                root-relative predictions exist, the absolute error and MRRPE mean nothing.
            gt_mm: like `pred_mm`.
            valid: (N, 2, 21) or (N, 21) bool. Root-relative errors count hands whose wrist is valid.
            visible: like `valid`; gives the split into visible and occluded joints.
            pred_present: (N, 2) bool or probability; with `gt_present` gives the handedness accuracy.
            gt_present: (N, 2) bool.
            interacting: (N,) bool, the samples of the figures for two hands, MRRPE among them; the others
                are single. None takes those with valid joints on both hands. InterHand2.6M goes by the
                labelled hand type, also where only one of two hands has joints.

        Raises:
            ValueError: on wrong shapes, one hand after two, or `interacting` for one hand.
        """
        pred, gt = as_pair(pred_mm, gt_mm)
        if pred.ndim == 3 and pred.shape[1:] == (21, 3):
            hands = 1
        elif pred.ndim == 4 and pred.shape[1:] == (2, 21, 3):
            hands = 2
        else:
            raise ValueError(f"joints have shape {tuple(pred.shape)}; expected (N, 2, 21, 3) or (N, 21, 3)")
        if self.hands not in (0, hands):
            raise ValueError(
                f"this batch has {hands} hand(s) per sample, earlier ones {self.hands}; use two HandMetrics"
            )
        mask = as_valid(valid, pred[..., 0])
        seen = None if visible is None else as_valid(visible, pred[..., 0])
        if (pred_present is None) != (gt_present is None):
            raise ValueError("pred_present and gt_present go together; one of them is missing")
        both = mask.reshape(len(pred), hands, 21).any(-1).all(-1) if hands == 2 else None
        if interacting is not None:
            if both is None or tuple(interacting.shape) != both.shape:
                raise ValueError(
                    f"interacting has shape {tuple(interacting.shape)} beside joints {tuple(pred.shape)}; "
                    "expected (N,) beside (N, 2, 21, 3)"
                )
            both = as_valid(interacting, both)
        presence = None
        if pred_present is not None and gt_present is not None:
            presence = float(handedness_accuracy(pred_present, gt_present))
        self.hands = hands
        self.samples += len(pred)
        if len(pred) == 0:
            return
        if presence is not None:
            self._handedness[0] += presence * len(pred)
            self._handedness[1] += len(pred)

        root_mask = rooted(mask, pred[..., 0], 0)
        root = joint_errors(root_aligned(pred, gt), gt)
        self._add("absolute", joint_errors(pred, gt), mask)
        self._add("root", root, root_mask)
        if both is not None:
            self._add("single", root[~both], root_mask[~both])
            self._add("two", root[both], root_mask[both])
        if seen is not None:
            self._add("visible", root, root_mask & seen)
            self._add("occluded", root, root_mask & ~seen)
        self._add("scaled", joint_errors(root_scale_aligned(pred, gt, mask), gt), root_mask)
        bone_mask = root_mask & root_mask[..., 9:10]
        self._add("bone", joint_errors(root_scale_aligned(pred, gt, bone=(0, 9)), gt), bone_mask)
        self._add("procrustes", joint_errors(procrustes_aligned(pred, gt, mask), gt), mask)
        self._add("similar", _similar(pred, gt, mask), mask)
        if both is not None:
            count = int((mask[:, :, 0].all(-1) & both).sum())
            if count:
                self._mrrpe[0] += float(mrrpe(pred[both], gt[both], mask[both])) * count
                self._mrrpe[1] += count

    def _add(self, name: str, errors: Tensor, mask: Tensor) -> None:
        joints = self.hands * 21
        if name not in self._sums:
            self._sums[name] = _Sums(joints, curves=name in self._CURVES)
        self._sums[name].add(errors.reshape(-1, joints), mask.reshape(-1, joints))

    def compute(self) -> dict[str, float]:
        """The values of `PROTOCOLS` for which there is data, by name."""
        wrists = tuple(21 * hand for hand in range(self.hands))
        found = {name: sums for name, sums in self._sums.items() if sums.count.any()}
        values: dict[str, float] = {}
        for key, name in (
            ("mpjpe_mm", "root"),
            ("mpjpe_visible_mm", "visible"),
            ("mpjpe_occluded_mm", "occluded"),
            ("mpjpe_scaled_mm", "scaled"),
        ):
            if name in found:
                values[key] = found[name].pooled(skip=wrists)
        for key, name in (
            ("mpjpe_interhand_mm", "root"),
            ("mpjpe_single_mm", "single"),
            ("mpjpe_two_mm", "two"),
        ):
            if name in found:
                values[key] = found[name].per_joint()
        for key, name in (
            ("mpjpe_bone_scaled_mm", "bone"),
            ("epe_mm", "root"),
            ("epe_absolute_mm", "absolute"),
            ("epe_pa_mm", "similar"),
        ):
            if name in found:
                values[key] = found[name].per_joint(sides=False)
        for key, name in (("mpjpe_absolute_mm", "absolute"), ("pa_mpjpe_mm", "procrustes")):
            if name in found:
                values[key] = found[name].pooled()
        if "root" in found:
            values["auc_0_50"], values["auc_20_50"] = found["root"].auc(0), found["root"].auc(1)
        if "bone" in found:
            values["auc_bone_scaled_20_50"] = found["bone"].auc(1)
        for key, name in (("auc_absolute_0_50", "absolute"), ("auc_pa_0_50", "similar")):
            if name in found:
                values[key] = found[name].auc(0)
        for key, (total, count) in (("mrrpe_mm", self._mrrpe), ("handedness_accuracy", self._handedness)):
            if count:
                values[key] = total / count
        values["samples"] = float(self.samples)
        return {key: values[key] for key in PROTOCOLS if key in values and values[key] == values[key]}

    def per_joint_mm(self) -> Tensor:
        """Root-relative error of each joint, (hands, 21) float64 mm; nan where a joint never counted."""
        if "root" not in self._sums:
            return torch.full((max(self.hands, 1), 21), float("nan"), dtype=torch.float64)
        sums = self._sums["root"]
        return (sums.total / sums.count).reshape(self.hands, 21)
