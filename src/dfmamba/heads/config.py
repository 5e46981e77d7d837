"""Configuration of the anchor-to-joint heads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

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
