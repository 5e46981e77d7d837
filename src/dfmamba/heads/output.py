"""What a head returns: two hands in 2.5D with confidences, as one plain tuple of tensors."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class LayerOutput(NamedTuple):
    """One decoder layer's estimate, as the losses need it.

    Attributes:
        joints_25d: (B, hands, joints, 3), see `HandPoseOutput.joints_25d`.
        anchors_25d: (B, hands, joints, 3): the weighted mean of the anchors themselves (without their
            offsets), in the same frame and units; its depth is that of the anchors, not wrist-relative.
        log_weights: (B, hands, joints, anchors), logarithms of the weights; None outside of training and for
            heads that don't offer them.
        grid: (anchors, 3), the anchors that `log_weights` belong to.
    """

    joints_25d: Tensor
    anchors_25d: Tensor
    log_weights: Tensor | None = None
    grid: Tensor | None = None


class HandPoseOutput(NamedTuple):
    """Estimate for a batch of crops. Hand 0 is the right one, hand 1 the left one.

    Attributes:
        joints_25d: (B, hands, joints, 3) = (u, v, d). u and v are crop pixels with pixel centres at integers;
            d is the depth relative to the same hand's wrist, in crop pixels at the wrist's depth (or in
            millimetres, if the head was configured so). Joints in OpenPose order.
        joint_logits: (B, hands, joints); its sigmoid estimates the probability that the joint's 2D error is
            below 10 % of the side of the hand's box.
        present_logits: (B, hands); its sigmoid estimates the probability that the hand is in the crop.
        layers: one `LayerOutput` per decoder layer for the losses; the last belongs to `joints_25d`.
    """

    joints_25d: Tensor
    joint_logits: Tensor
    present_logits: Tensor
    layers: tuple[LayerOutput, ...]
