"""Losses of the anchor-to-joint heads, in 256ths of the picture whatever the size of the crop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from dfmamba.heads.config import BINS, HandPoseOutput

CONFIDENT_FRACTION = 0.1
"""A joint counts as found if its 2D error is below this fraction of the side of its hand's box."""


@dataclass(frozen=True)
class LossConfig:
    """Weights and thresholds of `pose_loss`.

    Attributes:
        image_size: side of the crop in pixels; errors are scaled by 256 / image_size.
        depth_range: extent of depth that stands for 256 bins; None means `image_size` (depth in crop pixels),
            400 suits depth in millimetres. Take it from `HeadConfig.depth_extent`.
        joint: weight of the joint estimation term.
        anchor: weight of the anchor surrounding term.
        confidence: weight of the joint confidence term.
        presence: weight of the hand presence term.
        vote: weight of the vote term, which tells heads that offer their anchor weights where to vote; the
            paper has none, but small networks localise sooner with it.
        vote_sigma: standard deviation of the vote term's target, in 256ths of the picture.
        z: weight of the depth part inside the joint term.
        anchor_z: weight of the depth part inside the anchor term; 0 suits heads with a single depth of
            anchors, for which that part is constant.
        tau_xy: threshold of the smooth L1 loss in the picture plane, in 256ths of the picture.
        tau_z: its threshold in depth, in 256ths of the depth range.
        anchor_tau_z: the same for the anchor term: 3 in the paper, 1 in the released code.
        anchor_target: what the anchors shall surround: the labelled joint ("truth") or the estimate
            ("prediction").
    """

    image_size: float = 256.0
    depth_range: float | None = None
    joint: float = 3.0
    anchor: float = 1.0
    confidence: float = 1.0
    presence: float = 1.0
    vote: float = 0.0
    vote_sigma: float = 12.0
    z: float = 1.0
    anchor_z: float = 1.0
    tau_xy: float = 1.0
    tau_z: float = 3.0
    anchor_tau_z: float = 3.0
    anchor_target: Literal["truth", "prediction"] = "truth"

    def __post_init__(self) -> None:
        for name in ("image_size", "tau_xy", "tau_z", "anchor_tau_z", "vote_sigma"):
            if not getattr(self, name) > 0:
                raise ValueError(f"LossConfig.{name} is {getattr(self, name)}; it must be positive")
        if self.depth_range is not None and not self.depth_range > 0:
            raise ValueError(f"LossConfig.depth_range is {self.depth_range}; it must be positive, or None")
        for name in ("joint", "anchor", "confidence", "presence", "vote", "z", "anchor_z"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"LossConfig.{name} is {getattr(self, name)}; a weight must not be negative")
        if self.anchor_target not in ("truth", "prediction"):
            raise ValueError(
                f"LossConfig.anchor_target is {self.anchor_target!r}; use 'truth' or 'prediction'"
            )


def smooth_l1(difference: Tensor, tau: float) -> Tensor:
    """L_tau(x) = x^2 / (2 tau) where |x| < tau, else |x| - tau / 2, element by element."""
    return F.huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=tau) / tau


def _difference(estimate: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    # Unlabelled joints may hold anything, NaN included: cut them before any arithmetic that keeps a gradient.
    return torch.where(valid, estimate - target, 0.0)


def _per_joint_mean(loss_xy: Tensor, loss_z: Tensor, valid: Tensor) -> Tensor:
    """Sum over joints and coordinates per sample, over 3 times the valid joints; mean over the batch."""
    summed = loss_xy.flatten(1).sum(dim=1) + loss_z.flatten(1).sum(dim=1)
    return (summed / (3 * valid.flatten(1).sum(dim=1)).clamp(min=1)).mean()


def joint_loss(
    joints: Tensor,
    target: Tensor,
    valid: Tensor,
    valid_z: Tensor,
    *,
    tau_xy: float = 1.0,
    tau_z: float = 3.0,
    z: float = 1.0,
) -> Tensor:
    """Joint estimation term: 0.5 L_tau_xy(xy) + z * L_tau_z(z).

    Args:
        joints: (B, hands, joints, 3) estimate, in 256ths.
        target: the same for the labels; anything where not valid.
        valid: (B, hands, joints) bool, labelled joints.
        valid_z: (B, hands, joints) bool, joints whose depth is labelled too.
        tau_xy: threshold in the picture plane.
        tau_z: threshold in depth.
        z: weight of the depth part.

    Returns:
        The mean over the batch; a sample without labels gives 0.
    """
    plane = 0.5 * smooth_l1(_difference(joints[..., :2], target[..., :2], valid[..., None]), tau_xy)
    depth = z * smooth_l1(_difference(joints[..., 2], target[..., 2], valid_z), tau_z)
    return _per_joint_mean(plane, depth, valid)


def anchor_loss(
    anchors: Tensor,
    target: Tensor,
    valid: Tensor,
    valid_z: Tensor,
    *,
    tau_xy: float = 1.0,
    tau_z: float = 3.0,
    z: float = 1.0,
) -> Tensor:
    """Anchor surrounding term: L_tau_xy(xy) + z * L_tau_z(z) of the anchors' mean; see `joint_loss`."""
    plane = smooth_l1(_difference(anchors[..., :2], target[..., :2], valid[..., None]), tau_xy)
    depth = z * smooth_l1(_difference(anchors[..., 2], target[..., 2], valid_z), tau_z)
    return _per_joint_mean(plane, depth, valid)


def vote_loss(log_weights: Tensor, grid: Tensor, target: Tensor, valid: Tensor, sigma: float) -> Tensor:
    """Cross-entropy between the anchors' weights and a Gaussian around each labelled joint.

    Args:
        log_weights: (B, hands, joints, anchors).
        grid: (anchors, 2) positions in the picture plane.
        target: (B, hands, joints, 2) in the same unit; anything where not valid.
        valid: (B, hands, joints) bool.
        sigma: standard deviation of the Gaussian in that unit.

    Returns:
        The mean over the labelled joints of the batch; 0 if there are none.
    """
    distance = torch.where(valid[..., None], target, 0.0)[..., None, :] - grid
    wanted = torch.softmax(distance.square().sum(-1) * (-0.5 / sigma**2), dim=-1)
    loss = -(wanted * log_weights).sum(-1)
    return torch.where(valid, loss, 0.0).sum() / valid.sum().clamp(min=1)


def confidence_loss(
    logits: Tensor, joints: Tensor, target: Tensor, valid: Tensor, box_size: Tensor
) -> Tensor:
    """Binary cross-entropy between the joint confidences and whether the joints have in fact been found.

    Args:
        logits: (B, hands, joints).
        joints: (B, hands, joints, 3) estimate; no gradient flows into it.
        target: the labels, in the same pixels.
        valid: (B, hands, joints) bool.
        box_size: (B, hands) side of the hand's box in the same pixels.

    Returns:
        The mean over the labelled joints of the batch; 0 if there are none.
    """
    error = _difference(joints[..., :2].detach(), target[..., :2], valid[..., None]).norm(dim=-1)
    found = (error < CONFIDENT_FRACTION * box_size[..., None]).to(logits.dtype)
    loss = F.binary_cross_entropy_with_logits(logits, found, reduction="none")
    return torch.where(valid, loss, 0.0).sum() / valid.sum().clamp(min=1)


def pose_loss(
    output: HandPoseOutput, target: Mapping[str, Tensor], config: LossConfig | None = None
) -> dict[str, Tensor]:
    """All terms and their weighted sum.

    Args:
        output: what the head returned.
        target: `joints_25d` (B, hands, joints, 3) in the output's frame and units, `valid` (B, hands, joints)
            bool, `present` (B, hands) bool, `box_size_px` (B, hands); optionally `valid_z` (B, hands, joints)
            bool where a 2D label may lack its depth (default: `valid`), and `present_known` (B, hands) bool
            where a hand may be there without labels (default: `present` is known everywhere).
        config: weights and thresholds; None takes the defaults, which are for 256-pixel crops.

    Returns:
        Scalars "total", "joint", "anchor", "confidence", "presence", "vote"; all but the total without their
        weights.

    Raises:
        ValueError: if a target is missing or has another shape than the output.
    """
    config = config or LossConfig()
    shape = tuple(output.joints_25d.shape)
    expected = {"joints_25d": shape, "valid": shape[:3], "present": shape[:2], "box_size_px": shape[:2]}
    if "valid_z" in target:
        expected["valid_z"] = shape[:3]
    if "present_known" in target:
        expected["present_known"] = shape[:2]
    for name, size in expected.items():
        if name not in target:
            raise ValueError(f"the loss target lacks {name!r}; it needs {', '.join(expected)}")
        if tuple(target[name].shape) != size:
            raise ValueError(
                f"the loss target {name!r} has shape {tuple(target[name].shape)}, expected {size}"
            )

    joints_px = output.joints_25d
    truth_px = target["joints_25d"].to(joints_px.dtype)
    valid = target["valid"].bool()
    valid_z = valid & target["valid_z"].bool() if "valid_z" in target else valid

    plane_scale = BINS / config.image_size
    depth_scale = BINS / (config.depth_range or config.image_size)
    scale = joints_px.new_tensor((plane_scale, plane_scale, depth_scale))
    truth = truth_px * scale
    joint, anchor, vote = (joints_px.new_zeros(()) for _ in range(3))
    for layer in output.layers:
        joints = layer.joints_25d * scale
        joint = joint + joint_loss(
            joints, truth, valid, valid_z, tau_xy=config.tau_xy, tau_z=config.tau_z, z=config.z
        )
        surrounded = truth if config.anchor_target == "truth" else joints
        anchor = anchor + anchor_loss(
            layer.anchors_25d * scale, surrounded, valid, valid_z,
            tau_xy=config.tau_xy, tau_z=config.anchor_tau_z, z=config.anchor_z,
        )  # fmt: skip
        if config.vote and layer.log_weights is not None and layer.grid is not None:
            grid = layer.grid[:, :2] * plane_scale
            vote = vote + vote_loss(layer.log_weights, grid, truth[..., :2], valid, config.vote_sigma)
    joint, anchor, vote = (term / len(output.layers) for term in (joint, anchor, vote))
    confidence = confidence_loss(
        output.joint_logits, joints_px, truth_px, valid, target["box_size_px"].to(joints_px.dtype)
    )
    presence = F.binary_cross_entropy_with_logits(
        output.present_logits, target["present"].to(output.present_logits.dtype), reduction="none"
    )
    if "present_known" in target:
        known = target["present_known"].bool()
        presence = torch.where(known, presence, 0.0).sum() / known.sum().clamp(min=1)
    else:
        presence = presence.mean()
    total = (
        config.joint * joint
        + config.anchor * anchor
        + config.confidence * confidence
        + config.presence * presence
        + config.vote * vote
    )
    return {
        "total": total,
        "joint": joint,
        "anchor": anchor,
        "confidence": confidence,
        "presence": presence,
        "vote": vote,
    }
