"""What all anchor-to-joint heads share: settings, what they return, anchors and how these are summed up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from dfmamba.settings import from_values

BINS = 256
"""The published model counts in 256 bins: 256 px of the crop, and 400 mm of depth."""

LARGEST_CROP, MOST_LAYERS = 4096, 100
"""Beyond these a configuration is damaged, and its network would not fit into memory."""

DEPTH_RANGE_MM = 400.0
DEPTH_BINS = (63.5, 127.5, 191.5)


@dataclass(frozen=True)
class HeadConfig:
    """Settings of `AnchorToJoint`.

    Attributes:
        image_size: side of the square crop in pixels; the frame of the anchors and of the output.
        num_layers: layers of the encoder and of the decoder; 0 selects the light dense head, which has no
            transformer.
        dim: channels of the merged map or of the tokens.
        heads: attention heads (transformer).
        points: sampling points per head and level (transformer).
        ffn: hidden channels of the feed-forward layers (transformer).
        dropout: dropout probability (transformer).
        anchor_stride: spacing of the in-plane anchors in pixels.
        anchor_depths: depths of the anchors, in `depth_unit`. None: for the dense head a single layer at 0,
            for the transformer the published three, (63.5, 127.5, 191.5) of 256 bins counted from the middle.
        depth_unit: unit of the output's depth d: "px" (crop pixels at the wrist's depth) or "mm".
        depth_range: the extent of depth that counts as 1 in the network's own units: it scales the depth
            offsets and places the anchors' depth in their positional code. None: `image_size` for "px",
            400 for "mm".
        feature_levels: indices of the backbone's maps to use, finest first; None uses all.
        extra_level: add a level by a stride-2 convolution on the last map (transformer).
        num_hands: hands estimated at once.
        num_joints: joints per hand.
        root_joint: joint whose depth is subtracted from that of its hand; None leaves depths as they are.
        learned_anchors: the anchors are parameters that the first layer's loss moves, as in A2J-Transformer's
            release, where a freeze has no effect (transformer).
        offset_bias: bias at the start of the first layer's offsets but the first two, in extents of the crop:
            -2 in that release, which is 512 px (transformer).
        box_heads: keep that release's third network of each layer, dim-dim-dim-2, whose output nothing uses:
            for its count of parameters (transformer).
    """

    image_size: int = 256
    num_layers: int = 6
    dim: int = 256
    heads: int = 8
    points: int = 4
    ffn: int = 1024
    dropout: float = 0.1
    anchor_stride: int = 16
    anchor_depths: tuple[float, ...] | None = None
    depth_unit: Literal["px", "mm"] = "px"
    depth_range: float | None = None
    feature_levels: tuple[int, ...] | None = None
    extra_level: bool = True
    num_hands: int = 2
    num_joints: int = 21
    root_joint: int | None = 0
    learned_anchors: bool = False
    offset_bias: float = 0.0
    box_heads: bool = False

    def __post_init__(self) -> None:
        for name in ("anchor_depths", "feature_levels"):
            value = getattr(self, name)
            if value is not None:  # JSON and YAML give lists
                object.__setattr__(self, name, tuple(value))
        counts = ("image_size", "dim", "heads", "points", "ffn", "anchor_stride", "num_hands", "num_joints")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"HeadConfig.{name} is {getattr(self, name)}; it must be at least 1")
        if self.image_size > LARGEST_CROP:
            raise ValueError(f"HeadConfig.image_size is {self.image_size}; it must be at most {LARGEST_CROP}")
        if self.num_layers > MOST_LAYERS:
            raise ValueError(f"HeadConfig.num_layers is {self.num_layers}; it must be at most {MOST_LAYERS}")
        if self.num_layers < 0:
            raise ValueError(f"HeadConfig.num_layers is {self.num_layers}; use 0 for the dense head, or more")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"HeadConfig.dropout is {self.dropout}; it must be in [0, 1)")
        if self.depth_unit not in ("px", "mm"):
            raise ValueError(f"HeadConfig.depth_unit is {self.depth_unit!r}; use 'px' or 'mm'")
        if self.depth_range is not None and not self.depth_range > 0:
            raise ValueError(f"HeadConfig.depth_range is {self.depth_range}; it must be positive, or None")
        for name in ("anchor_depths", "feature_levels"):
            if getattr(self, name) == ():
                raise ValueError(f"HeadConfig.{name} is empty; give at least one, or None for the default")
        if self.root_joint is not None and not 0 <= self.root_joint < self.num_joints:
            raise ValueError(
                f"HeadConfig.root_joint is {self.root_joint}, but there are {self.num_joints} joints"
            )
        if self.image_size < self.anchor_stride:
            raise ValueError(
                f"HeadConfig.anchor_stride {self.anchor_stride} leaves no anchor in {self.image_size} pixels"
            )
        if self.num_layers == 0 and len(self.depths) != 1:
            raise ValueError(
                "the dense head (num_layers=0) has one anchor per cell, but anchor_depths is "
                f"{self.anchor_depths}; give one depth, or None"
            )
        if self.num_layers == 0 and (self.learned_anchors or self.offset_bias or self.box_heads):
            raise ValueError(
                "learned_anchors, offset_bias and box_heads belong to the transformer: leave them out, or "
                "set num_layers above 0"
            )
        if not math.isfinite(self.offset_bias):
            raise ValueError(f"HeadConfig.offset_bias is {self.offset_bias}; it must be a finite number")
        if self.num_layers > 0 and (self.dim % (2 * self.heads) or self.dim % 32):
            raise ValueError(
                f"HeadConfig.dim is {self.dim}; a transformer head needs a multiple of 32 (group norm) "
                f"and of 2 * heads = {2 * self.heads}"
            )

    @property
    def depth_extent(self) -> float:
        """`depth_range` with its default filled in, in `depth_unit`."""
        if self.depth_range is not None:
            return float(self.depth_range)
        return float(self.image_size) if self.depth_unit == "px" else DEPTH_RANGE_MM

    @property
    def depths(self) -> tuple[float, ...]:
        """`anchor_depths` with its default filled in, in `depth_unit`."""
        if self.anchor_depths is not None:
            return tuple(float(depth) for depth in self.anchor_depths)
        if self.num_layers == 0:
            return (0.0,)
        return tuple((depth / BINS - 0.5) * self.depth_extent for depth in DEPTH_BINS)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HeadConfig:
        """Build from plain values, as `to_dict` gives them.

        Raises:
            ValueError: on an unknown key or an unusable value.
        """
        return from_values(cls, values, "head")

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }


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
