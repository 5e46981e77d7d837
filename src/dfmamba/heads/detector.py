"""A head that finds hands in a whole picture: a score and a box at each cell of one map.

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
