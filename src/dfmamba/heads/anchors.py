"""Anchors and their aggregation into joints."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .output import LayerOutput


def anchor_grid(
    height: int,
    width: int,
    stride: float,
    depths: Sequence[float] = (0.0,),
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Anchors at the centres of the cells of a grid, repeated at each depth.

    Args:
        height: rows of cells.
        width: columns of cells.
        stride: side of a cell in pixels; pixel centres are at integers, so the first is at (stride - 1) / 2.
        depths: depths of the layers, in the unit of the output's depth.
        device: device of the result.
        dtype: type of the result.

    Returns:
        (height * width * len(depths), 3) points (x, y, z); y varies slowest, then x, then z.
    """
    ys = (torch.arange(height, device=device, dtype=dtype) + 0.5) * stride - 0.5
    xs = (torch.arange(width, device=device, dtype=dtype) + 0.5) * stride - 0.5
    zs = torch.tensor(list(depths), device=device, dtype=dtype)
    y, x, z = torch.meshgrid(ys, xs, zs, indexing="ij")
    return torch.stack((x, y, z), dim=-1).reshape(-1, 3)


def anchor_weights(logits: Tensor) -> Tensor:
    """Softmax over the anchors, in single precision or better.

    Args:
        logits: (B, joints, anchors).

    Returns:
        (B, joints, anchors) weights that sum to 1 over the anchors.
    """
    return torch.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))


def aggregate(weights: Tensor, offsets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Joints as weighted means of anchors plus offsets: T = sum_a w_a (C_a + O_a).

    The anchors' part is summed on its own, as the anchor surrounding loss needs it too. No matrix product is
    used, because autocast would round pixel coordinates to half precision.

    Args:
        weights: (B, joints, anchors), summing to 1 over the anchors.
        offsets: (B, 3, joints, anchors) in the anchors' units.
        anchors: (anchors, 3).

    Returns:
        The joints (B, joints, 3), and the weighted means of the anchors alone (B, joints, 3).
    """
    centroid = torch.stack([(weights * axis).sum(dim=-1) for axis in anchors.unbind(dim=-1)], dim=-1)
    offset = (weights.unsqueeze(1) * offsets).sum(dim=-1).transpose(1, 2)
    return centroid + offset, centroid


def by_hand(joints: Tensor, centroid: Tensor, num_hands: int, root_joint: int | None) -> LayerOutput:
    """Split joints by hand and refer each hand's depth to its root joint.

    Args:
        joints: (B, num_hands * joints, 3).
        centroid: as `joints`; its depth is left as it is.
        num_hands: number of hands.
        root_joint: index of the joint whose depth becomes 0, or None to leave the depths.

    Returns:
        Both as (B, num_hands, joints, 3).
    """
    joints = joints.unflatten(1, (num_hands, -1))
    if root_joint is not None:
        depth = joints[..., 2:]
        joints = torch.cat((joints[..., :2], depth - depth[:, :, root_joint : root_joint + 1]), dim=-1)
    return LayerOutput(joints, centroid.unflatten(1, (num_hands, -1)))
