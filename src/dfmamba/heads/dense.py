"""The light head: every cell of one merged feature map is an anchor; no transformer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfmamba.layers import Pointwise

from .anchors import aggregate, anchor_grid, anchor_weights, by_hand
from .config import HeadConfig
from .output import HandPoseOutput

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
