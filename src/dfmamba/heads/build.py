"""The public head, its dense decoder, and heads by the kind that their settings name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfmamba.heads.config import HandPoseOutput, HeadConfig, aggregate, anchor_grid, anchor_weights, by_hand
from dfmamba.heads.detector import DetectorConfig, DetectorHead
from dfmamba.heads.detnet import DetNetConfig, DetNetHead
from dfmamba.heads.transformer import TransformerDecoder
from dfmamba.layers import Pointwise

OFFSET_CELLS = 2.0
"""Cells that an offset of 1 stands for. In units of the whole picture one optimiser step would move joints by
many pixels and training would start slowly."""


class SeparableBlock(nn.Module):
    """Depthwise 3x3 and pointwise convolution, each with batch norm, then ReLU; optionally residual.

    Convolutions are followed directly by their norms, so that the norms can be folded for inference.
    """

    def __init__(self, dim: int, *, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        self.layers = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False),
            nn.BatchNorm2d(dim),
            Pointwise(dim, dim, bias=False),
            nn.BatchNorm2d(dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return F.relu(x + y if self.residual else y)


class DenseDecoder(nn.Module):
    """Merges feature maps top-down at the anchors' stride and lets each cell vote for every joint.

    The coarsest map, plus a linear code of its mean as global context, is repeatedly enlarged (nearest
    neighbour), added to the next finer one and mixed. Maps finer than the anchors' stride are mean-pooled to
    it. A 1x1 convolution then gives per cell and joint three offsets (in units of `OFFSET_CELLS` cells), a
    weight logit and a confidence.

    Args:
        channels: channels of the maps, finest first.
        strides: their strides in pixels, not decreasing; one must be at most `config.anchor_stride`.
        config: the head's settings.

    Raises:
        ValueError: if no map is at least as fine as the anchors.
    """

    offset_scale: Tensor
    anchors: Tensor

    def __init__(self, channels: Sequence[int], strides: Sequence[int], config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.joints = config.num_hands * config.num_joints
        if strides[0] > config.anchor_stride:
            raise ValueError(
                f"the finest feature map has stride {strides[0]}, but the anchors have "
                f"{config.anchor_stride}; use a finer map or set anchor_stride to at least that"
            )
        self.pooling = []
        for stride in strides:
            if stride < config.anchor_stride and config.anchor_stride % stride:
                raise ValueError(
                    f"anchor_stride {config.anchor_stride} is not a multiple of the stride {stride}"
                )
            self.pooling.append(max(config.anchor_stride // stride, 1))
        dim = config.dim
        self.laterals = nn.ModuleList(
            nn.Sequential(Pointwise(width, dim, bias=False), nn.BatchNorm2d(dim)) for width in channels
        )
        self.context = nn.Linear(channels[-1], dim)
        self.merges = nn.ModuleList(SeparableBlock(dim) for _ in channels[1:])
        self.mixers = nn.Sequential(*(SeparableBlock(dim, residual=True) for _ in range(2)))
        self.votes = Pointwise(dim, 5 * self.joints)
        self.presence = nn.Linear(channels[-1] + dim, config.num_hands)

        cells = config.image_size // config.anchor_stride
        self.grid_size = (cells, cells)
        for name, value in self.constants().items():
            self.register_buffer(name, value, persistent=False)
        self.reset_parameters()

    def constants(self) -> dict[str, Tensor]:
        """The buffers that weights don't hold: units of the offsets, and the anchors."""
        config = self.config
        unit = OFFSET_CELLS * config.anchor_stride
        extent = (unit, unit, unit * config.depth_extent / config.image_size)
        return {
            "offset_scale": torch.tensor(extent, dtype=torch.float32).view(3, 1, 1),
            "anchors": anchor_grid(*self.grid_size, config.anchor_stride, config.depths),
        }

    def reset_parameters(self) -> None:
        """Start with nearly even weights and small offsets: every joint near the middle of the picture."""
        nn.init.normal_(self.votes.weight, std=0.01)
        with torch.no_grad():
            self.votes.weight[: 3 * self.joints] *= 0.1
            if self.votes.bias is not None:
                self.votes.bias.zero_()

    def merge(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Merge the maps.

        Args:
            features: maps (B, C, H, W), finest first.

        Returns:
            The merged map (B, dim, h, w) and the mean of the last map (B, C).
        """
        pooled = features[-1].mean(dim=(2, 3))
        x: Tensor | None = None
        for level in reversed(range(len(features))):
            feature, pooling = features[level], self.pooling[level]
            if pooling > 1:
                feature = F.avg_pool2d(feature, pooling)
            lateral = self.laterals[level](feature)
            if x is None:
                x = lateral + self.context(pooled)[:, :, None, None]
                continue
            if x.shape[-2:] != lateral.shape[-2:]:
                x = F.interpolate(x, size=lateral.shape[-2:], mode="nearest")
            x = self.merges[level](x + lateral)
        assert x is not None
        return self.mixers(x), pooled

    def forward(self, features: Sequence[Tensor]) -> HandPoseOutput:
        merged, pooled = self.merge(features)
        presence = self.presence(torch.cat((pooled, merged.mean(dim=(2, 3))), dim=-1))
        grid, size = self.anchors, (merged.shape[-2], merged.shape[-1])
        if size != self.grid_size:
            grid = anchor_grid(*size, self.config.anchor_stride, self.config.depths, device=merged.device)
        return self.readout(self.votes(merged), presence, grid, self.offset_scale, self.config, self.training)

    @staticmethod
    def readout(
        maps: Tensor,
        presence: Tensor,
        grid: Tensor,
        offset_scale: Tensor,
        config: HeadConfig,
        training: bool = False,
    ) -> HandPoseOutput:
        """What the cells' votes make of the joints.

        Args:
            maps: (B, 5 joints, h, w): offsets in x, y and z, weights, confidences, each of all joints.
            presence: logits (B, hands).
            grid: anchors (h w, 3).
            offset_scale: (3, 1, 1), units of the offsets.
            config: the head's settings.
            training: give the losses the logarithms of the weights, too.
        """
        joints = config.num_hands * config.num_joints
        votes = maps.flatten(2).unflatten(1, (5, joints))
        weights = anchor_weights(votes[:, 3])
        offsets = votes[:, :3].to(weights.dtype) * offset_scale
        points, centroid = aggregate(weights, offsets, grid)
        layer = by_hand(points, centroid, config.num_hands, config.root_joint)
        if training:
            log_weights = votes[:, 3].to(weights.dtype).log_softmax(-1)
            layer = layer._replace(log_weights=log_weights.unflatten(1, (config.num_hands, -1)), grid=grid)
        # The confidence must not pull on where the joints are looked for.
        confidence = (weights.detach() * votes[:, 4]).sum(dim=-1)
        return HandPoseOutput(
            joints_25d=layer.joints_25d,
            joint_logits=confidence.unflatten(1, (config.num_hands, -1)),
            present_logits=presence.to(weights.dtype),
            layers=(layer,),
        )


class AnchorToJoint(nn.Module):
    """Feature maps to two hands in 2.5D, by anchors that vote for joints.

    `config.num_layers = 0` gives the light dense head, more layers the deformable transformer of
    A2J-Transformer (Jiang et al., CVPR 2023). Both give the same `HandPoseOutput`.

    Args:
        feature_channels: channels of the backbone's maps, finest first.
        feature_strides: their strides in pixels of the crop.
        config: settings; None takes the defaults.

    Raises:
        ValueError: if the lists do not belong together or do not suit the configuration.
    """

    def __init__(
        self,
        feature_channels: Sequence[int],
        feature_strides: Sequence[int],
        config: HeadConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config = config or HeadConfig()
        if not feature_channels or len(feature_channels) != len(feature_strides):
            raise ValueError(
                f"got {len(feature_channels)} feature channels and {len(feature_strides)} strides; "
                "give one of each per feature map"
            )
        count = len(feature_channels)
        self.num_features = count
        self.levels = tuple(range(count)) if config.feature_levels is None else config.feature_levels
        if any(not -count <= level < count for level in self.levels):
            raise ValueError(f"feature_levels {self.levels} reach outside the {count} maps of the backbone")
        self.channels = tuple(int(feature_channels[level]) for level in self.levels)
        self.strides = tuple(int(feature_strides[level]) for level in self.levels)
        if list(self.strides) != sorted(self.strides):
            raise ValueError(f"feature strides {self.strides} must not decrease; list the finest map first")
        self.decoder: nn.Module
        if config.num_layers == 0:
            self.decoder = DenseDecoder(self.channels, self.strides, config)
        else:
            self.decoder = TransformerDecoder(self.channels, self.strides, config)

    def forward(self, features: Sequence[Tensor]) -> HandPoseOutput:
        """Estimate both hands.

        Args:
            features: the backbone's maps (B, C, H, W), all of them, finest first.

        Raises:
            ValueError: if their number or channels are not those given at construction.
        """
        if len(features) != self.num_features:
            raise ValueError(f"got {len(features)} feature maps, expected {self.num_features}")
        chosen = [features[level] for level in self.levels]
        found = tuple(feature.shape[1] for feature in chosen)
        if found != self.channels:
            raise ValueError(f"feature maps have {found} channels, expected {self.channels}")
        return self.decoder(chosen)


AnyHeadConfig: TypeAlias = HeadConfig | DetNetConfig | DetectorConfig

HEADS: dict[str, tuple[Any, Callable[..., nn.Module]]] = {
    "anchor": (HeadConfig, AnchorToJoint),
    "detnet": (DetNetConfig, DetNetHead),
    "detector": (DetectorConfig, DetectorHead),
}
"""Kind -> class of the settings, and what makes the head of channels, strides and settings.

Settings are frozen dataclasses with `image_size`, `from_dict` and `to_dict`, which names the kind under
"kind"; "anchor" is meant where it doesn't."""


def register_head(kind: str, config: type, head: Callable[..., nn.Module]) -> None:
    """Gives a head a name, in this process; see `HEADS`.

    Args:
        kind: what configurations call it.
        config: class of its settings.
        head: makes it of the maps' channels and strides (finest first) and of the settings.

    Raises:
        ValueError: there is another head of this kind.
    """
    if HEADS.get(kind, (config, head)) != (config, head):
        raise ValueError(f"there is a head of kind {kind!r} already; take another name")
    HEADS[kind] = (config, head)


def head_config(values: Mapping[str, Any]) -> AnyHeadConfig:
    """Settings from plain values, as a configuration's `to_dict` gives them; "kind" names other heads.

    Raises:
        ValueError: unknown kind or setting, or an unusable value.
    """
    rest = dict(values)
    kind = rest.pop("kind", "anchor")
    if not isinstance(kind, str) or kind not in HEADS:
        raise ValueError(f"unknown kind of head {kind!r}; known: {', '.join(sorted(HEADS))}")
    return HEADS[kind][0].from_dict(rest)


def build_head(
    feature_channels: Sequence[int], feature_strides: Sequence[int], config: AnyHeadConfig
) -> nn.Module:
    """The head of a configuration, for the maps of a backbone (finest first).

    Raises:
        ValueError: the maps don't suit the configuration, or no head has such a one.
    """
    for settings, head in HEADS.values():
        if type(config) is settings:
            return head(feature_channels, feature_strides, config)
    raise ValueError(f"{type(config).__name__} are settings of no head; see dfmamba.heads.register_head")
