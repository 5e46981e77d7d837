"""A head that finds hands in a whole picture, a score and a box at each cell of one map, and its losses.

Hands are points with a size (Zhou, Wang, Kraehenbuehl, "Objects as Points", 2019); coarser maps are added to
the finest one as in feature pyramids (Lin et al., CVPR 2017).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfmamba.heads.config import LARGEST_CROP
from dfmamba.layers import Pointwise
from dfmamba.settings import from_values

CHANNELS = 5
"""Of the map: score logit, centre x and y relative to the cell's, logarithms of width and height (cells)."""

FIRST_SCORE = 0.01
"""Score that an untrained head gives everywhere, so that the many empty cells do not drown the few hands."""


@dataclass(frozen=True)
class DetectorConfig:
    """Settings of `DetectorHead`.

    Attributes:
        image_size: side of the square picture in pixels.
        width: channels of the head.

    Raises:
        ValueError: a value is below 1.
    """

    image_size: int = 256
    width: int = 64

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or not 1 <= value <= LARGEST_CROP:
                raise ValueError(
                    f"DetectorConfig.{field.name} is {value!r}; expected 1 to {LARGEST_CROP}, whole"
                )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DetectorConfig:
        """Builds from plain values, as `to_dict` gives them, without "kind".

        Raises:
            ValueError: an unknown key or an unusable value.
        """
        return from_values(cls, values, "head")

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold, with the kind of head."""
        return {"kind": "detector", **asdict(self)}


class DetectorHead(nn.Module):
    """Feature maps to one map (B, `CHANNELS`, H, W) at the finest map's stride.

    Args:
        feature_channels: channels of the backbone's maps, finest first.
        feature_strides: their strides in pixels, each a multiple of the one before.
        config: settings; None takes the defaults.

    Raises:
        ValueError: the lists do not belong together, or the picture can't be divided into such cells.
    """

    def __init__(
        self,
        feature_channels: Sequence[int],
        feature_strides: Sequence[int],
        config: DetectorConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config = config or DetectorConfig()
        if not feature_channels or len(feature_channels) != len(feature_strides):
            raise ValueError(
                f"got {len(feature_channels)} feature channels and {len(feature_strides)} strides; "
                "give one of each per feature map"
            )
        if any(config.image_size % stride for stride in feature_strides):
            raise ValueError(
                f"a picture of {config.image_size} pixels can't be divided by the strides "
                f"{tuple(feature_strides)} of the maps"
            )
        self.stride = int(feature_strides[0])
        width = config.width
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
            for channels in feature_channels
        )
        self.mix = nn.Sequential(*(_separable(width) for _ in range(2)))
        self.out = Pointwise(width, CHANNELS)
        nn.init.normal_(self.out.weight, std=0.01)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)
        with torch.no_grad():
            self.out.bias[0] = torch.logit(torch.tensor(FIRST_SCORE))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The map of a batch.

        Args:
            features: the backbone's maps (B, C, H, W), finest first.

        Raises:
            ValueError: their number is not that of the configuration.
        """
        if len(features) != len(self.lateral):
            raise ValueError(f"got {len(features)} feature maps; expected {len(self.lateral)}")
        x: Tensor | None = None
        for lateral, feature in zip(reversed(self.lateral), reversed(list(features)), strict=True):
            level = lateral(feature)
            x = level if x is None else level + F.interpolate(x, size=level.shape[-2:], mode="nearest")
        assert x is not None
        return self.out(self.mix(F.relu(x)))


def _separable(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 5, padding=2, groups=width, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


IGNORED, HAND = 2, 1
"""Kinds of box in a target; 0 is no box."""

SPREAD = 0.12
"""Standard deviation of a hand's Gaussian relative to the shorter side of its box; at least `LEAST` cells."""

LEAST = 0.7
NEAR = 0.4
"""Cells whose target is above this learn the box."""


@dataclass(frozen=True)
class DetectorLossConfig:
    """Weights of `detector_loss`.

    Attributes:
        box: weight of the boxes' generalised IoU (Rezatofighi et al., CVPR 2019).
        size: weight of the error of the centre and of the logarithms of width and height.
    """

    box: float = 1.0
    size: float = 0.5


def cell_centres(height: int, width: int, stride: int, like: Tensor) -> Tensor:
    """(2, H, W) pixels x, y of the cells' centres, pixel centres at integers."""
    y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) * stride - 0.5
    x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) * stride - 0.5
    return torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)))


def boxes_of_map(maps: Tensor, stride: int) -> Tensor:
    """Boxes (B, 4, H, W) xyxy in pixels that a head's map (B, 5, H, W) says at each cell."""
    centre = cell_centres(maps.shape[-2], maps.shape[-1], stride, maps) + maps[:, 1:3] * stride
    half = maps[:, 3:5].clamp(max=8).exp() * (stride / 2)
    return torch.cat((centre - half, centre + half), dim=1)


def heat_target(boxes: Tensor, kinds: Tensor, height: int, width: int, stride: int) -> tuple[Tensor, Tensor]:
    """What the scores should be.

    Args:
        boxes: (B, M, 4) xyxy in pixels.
        kinds: (B, M) `HAND`, `IGNORED` or 0.
        height: of the map in cells.
        width: likewise.
        stride: pixels of a cell.

    Returns:
        (B, M, H, W) a Gaussian for each hand, exactly 1 at the cell that holds its centre, 0 for other kinds;
        and (B, H, W) bool, cells inside boxes that are ignored.
    """
    cells = cell_centres(height, width, stride, boxes)
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    size = (boxes[..., 2:] - boxes[..., :2]).clamp_min(1e-3)
    spread = (SPREAD * size.amin(-1)).clamp_min(LEAST * stride)[..., None, None]
    middle = ((centre + 0.5) / stride).floor() * stride + 0.5 * stride - 0.5
    away = (cells - middle[..., None, None]).square().sum(2)
    hand = (kinds == HAND)[..., None, None]
    heat = torch.exp(-0.5 * away / spread.square()) * hand
    inside = ((cells >= boxes[..., :2, None, None]) & (cells <= boxes[..., 2:, None, None])).all(2)
    ignored = (inside & (kinds == IGNORED)[..., None, None]).any(1)
    return heat, ignored


def detector_loss(
    maps: Tensor, target: Mapping[str, Tensor], stride: int, config: DetectorLossConfig | None = None
) -> dict[str, Tensor]:
    """All terms; "total" is minimised.

    The scores have the focal loss for points of Law and Deng ("CornerNet", ECCV 2018, eq. 1) with alpha 2 and
    beta 4.

    Args:
        maps: (B, 5, H, W) of `DetectorHead`.
        target: "boxes" (B, M, 4) and "kinds" (B, M), see `heat_target`.
        stride: pixels of a cell.
        config: weights.
    """
    config = config or DetectorLossConfig()
    each, ignored = heat_target(target["boxes"], target["kinds"], maps.shape[-2], maps.shape[-1], stride)
    heat, owner = each.max(1)
    logits = maps[:, 0]
    score = logits.sigmoid()
    hit = -((1 - score) ** 2) * F.logsigmoid(logits)
    miss = -((1 - heat) ** 4) * score**2 * F.logsigmoid(-logits)
    terms = torch.where(heat >= 1.0, hit, miss) * ~ignored
    count = (target["kinds"] == HAND).sum().clamp_min(1)
    losses = {"score": terms.sum() / count}

    weight = heat * (heat > NEAR)
    total = weight.sum().clamp_min(1e-6)
    wanted = target["boxes"].gather(1, owner.flatten(1)[..., None].expand(-1, -1, 4))
    wanted = wanted.transpose(1, 2).unflatten(2, owner.shape[-2:])
    found = boxes_of_map(maps, stride)
    losses["box"] = ((1 - generalised_iou(found, wanted)) * weight).sum() / total
    size = (wanted[:, 2:] - wanted[:, :2]).clamp_min(1.0)
    centre = (wanted[:, :2] + wanted[:, 2:] - found[:, :2] - found[:, 2:]).abs() / (2 * size)
    sides = (maps[:, 3:5] - (size / stride).log()).abs()
    losses["size"] = ((centre + sides).sum(1) * weight).sum() / total
    losses["total"] = losses["score"] + config.box * losses["box"] + config.size * losses["size"]
    return losses


def generalised_iou(first: Tensor, second: Tensor) -> Tensor:
    """GIoU (B, ...) of boxes (B, 4, ...) xyxy, from -1 to 1."""
    a0, a1, b0, b1 = first[:, :2], first[:, 2:], second[:, :2], second[:, 2:]
    shared = (torch.minimum(a1, b1) - torch.maximum(a0, b0)).clamp_min(0).prod(1)
    union = (a1 - a0).clamp_min(0).prod(1) + (b1 - b0).clamp_min(0).prod(1) - shared
    hull = (torch.maximum(a1, b1) - torch.minimum(a0, b0)).clamp_min(0).prod(1)
    return shared / union.clamp_min(1e-6) - (hull - union) / hull.clamp_min(1e-6)
