"""The transformer of A2J-Transformer (Jiang et al., CVPR 2023): anchors as queries of a deformable decoder.

Its attention is that of Deformable DETR (Zhu et al., ICLR 2021), over several maps, in plain PyTorch.

Differences to the published model, all deliberate: the anchors are constants (`learned_anchors`), offsets
start at zero (`offset_bias`) and no network is idle (`box_heads`), unless the named options of `HeadConfig`
say otherwise; positions are normalised by the input's true size, with pixel centres at half cells; each
hand's depth is relative to its wrist (`root_joint`); joint confidences and presence are estimated as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfmamba.heads.config import (
    HandPoseOutput,
    HeadConfig,
    LayerOutput,
    aggregate,
    anchor_grid,
    anchor_weights,
    by_hand,
)
from dfmamba.layers import Pointwise


def deformable_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sums of bilinear samples from several maps.

    Args:
        value: (B, tokens, heads, channels); the tokens of all maps one after the other, each in raster order.
        shapes: (height, width) of each map.
        locations: (B, queries, heads, levels, points, 2) = (x, y) where a map extends over [0, 1]; beyond it
            the maps are 0. They must have the type of `value`.
        weights: (B, queries, heads, levels, points).

    Returns:
        (B, queries, heads * channels).
    """
    batch, _, heads, channels = value.shape
    queries = locations.shape[1]
    # (B, heads, ...) become the batch of grid_sample
    grids = (2.0 * locations - 1.0).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
    mixing = weights.permute(3, 0, 2, 1, 4).flatten(1, 2).unsqueeze(2)
    maps = value.permute(0, 2, 3, 1).flatten(0, 1).split([height * width for height, width in shapes], dim=-1)
    total: Tensor | None = None
    for level, shape in enumerate(shapes):
        picture = maps[level].unflatten(-1, shape)
        samples = F.grid_sample(picture, grids[level], "bilinear", "zeros", align_corners=False)
        part = (samples * mixing[level]).sum(dim=-1)
        total = part if total is None else total + part
    assert total is not None
    return total.view(batch, heads * channels, queries).transpose(1, 2)


class DeformableAttention(nn.Module):
    """Each query samples a few points around its reference point on every map.

    Args:
        dim: channels of queries and values.
        levels: number of maps.
        heads: attention heads; they must divide `dim`.
        points: samples per head and map.
    """

    def __init__(self, dim: int, levels: int, heads: int = 8, points: int = 4) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of the number of heads, {heads}")
        self.levels, self.heads, self.points = levels, heads, points
        self.offsets = nn.Linear(dim, heads * levels * points * 2)
        self.weights = nn.Linear(dim, heads * levels * points)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each head looks in its own compass direction, its points 1, 2, ... cells away, weights equal."""
        for linear in (self.offsets, self.weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        angle = torch.arange(self.heads) * (2.0 * math.pi / self.heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.points + 1)
        start = direction[:, None, None, :] * steps[:, None]
        with torch.no_grad():
            self.offsets.bias.copy_(start.expand(-1, self.levels, -1, -1).flatten())
        for linear in (self.value, self.output):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, query: Tensor, reference: Tensor, tokens: Tensor, shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, queries, dim).
            reference: (queries, 2) = (x, y), where the maps extend over [0, 1].
            tokens: (B, tokens, dim) of all maps.
            shapes: (height, width) of each map.

        Returns:
            (B, queries, dim).
        """
        # Half precision cannot address the cells of a map: sampling runs in single precision at least.
        dtype = torch.promote_types(query.dtype, torch.float32)
        split = (self.heads, self.levels, self.points)
        offsets = self.offsets(query).to(dtype).unflatten(-1, (*split, 2))
        size = offsets.new_tensor([(width, height) for height, width in shapes])
        locations = reference.to(dtype)[:, None, None, None, :] + offsets / size[:, None, :]
        weights = self.weights(query).unflatten(-1, (self.heads, -1)).softmax(dim=-1, dtype=dtype)
        value = self.value(tokens).to(dtype).unflatten(-1, (self.heads, -1))
        mixed = deformable_attention(value, shapes, locations, weights.unflatten(-1, split[1:]))
        return self.output(mixed.to(query.dtype))


TEMPERATURE = 10000.0


def sine_code(positions: Tensor, features: int) -> Tensor:
    """Sines and cosines of coordinates at geometrically spaced wavelengths.

    Args:
        positions: (..., axes) in [0, 1].
        features: even number of features per axis.

    Returns:
        (..., axes * features), axis by axis; sine and cosine alternate.
    """
    exponent = torch.arange(features // 2, device=positions.device, dtype=positions.dtype) * (2.0 / features)
    phase = (2.0 * math.pi) * positions[..., None] / TEMPERATURE**exponent
    return torch.stack((phase.sin(), phase.cos()), dim=-1).flatten(-3)


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of the given widths with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class _Layer(nn.Module):
    """What encoder and decoder share: deformable attention, then a feed-forward layer, norm after each."""

    def __init__(self, config: HeadConfig, levels: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(config.dim, levels, config.heads, config.points)
        self.norm1 = nn.LayerNorm(config.dim)
        self.feed = nn.Sequential(
            nn.Linear(config.dim, config.ffn),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.ffn, config.dim),
        )
        self.norm2 = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        reference: Tensor,
        tokens: Tensor,
        shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        attended = self.attention(x + position, reference, tokens, shapes)
        x = self.norm1(x + self.dropout(attended))
        return self.norm2(x + self.dropout(self.feed(x)))


class EncoderLayer(_Layer):
    """Deformable self-attention over the tokens of all maps."""


class DecoderLayer(_Layer):
    """Self-attention among the anchors, then deformable attention from the anchors to the maps."""

    def __init__(self, config: HeadConfig, levels: int) -> None:
        super().__init__(config, levels)
        self.among = nn.MultiheadAttention(config.dim, config.heads, dropout=config.dropout, batch_first=True)
        self.norm0 = nn.LayerNorm(config.dim)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        reference: Tensor,
        tokens: Tensor,
        shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        query = x + position
        mixed, _ = self.among(query, query, x, need_weights=False)
        x = self.norm0(x + self.dropout(mixed))
        return super().forward(x, position, reference, tokens, shapes)


class TransformerDecoder(nn.Module):
    """Projections, encoder, decoder and per-layer votes of the anchors.

    The anchors lie on `config.image_size`; an input of another size is allowed as far as the backbone's
    strides allow it, and positions are then normalised by that size.

    Args:
        channels: channels of the maps, finest first.
        strides: their strides in pixels.
        config: the head's settings, with `num_layers` > 0.
    """

    anchors: Tensor
    offset_scale: Tensor

    def __init__(self, channels: Sequence[int], strides: Sequence[int], config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.joints = config.num_hands * config.num_joints
        self.stride = strides[0]
        dim = config.dim
        self.projections = nn.ModuleList(
            nn.Sequential(Pointwise(width, dim), nn.GroupNorm(32, dim)) for width in channels
        )
        self.extra: nn.Module | None = None
        if config.extra_level:
            self.extra = nn.Sequential(
                nn.Conv2d(channels[-1], dim, 3, stride=2, padding=1), nn.GroupNorm(32, dim)
            )
        levels = len(channels) + config.extra_level
        self.level_codes = nn.Parameter(torch.empty(levels, dim))

        if config.learned_anchors:
            self.anchors = nn.Parameter(self.grid())
        for name, value in self.constants().items():
            self.register_buffer(name, value, persistent=False)
        self.content = nn.Parameter(torch.empty(len(self.anchors), dim))
        self.position = mlp(3 * (dim // 2), dim, dim)
        self.position_scale = mlp(dim, dim, dim)

        layers = range(config.num_layers)
        self.encoder = nn.ModuleList(EncoderLayer(config, levels) for _ in layers)
        self.decoder = nn.ModuleList(DecoderLayer(config, levels) for _ in layers)
        self.offset_votes = nn.ModuleList(mlp(dim, dim, dim, 3 * self.joints) for _ in layers)
        self.weight_votes = nn.ModuleList(mlp(dim, dim, dim, self.joints) for _ in layers)
        if config.box_heads:
            self.box_heads = nn.ModuleList(mlp(dim, dim, dim, 2) for _ in layers)
        self.confidence = nn.Linear(dim, self.joints)
        self.presence = nn.Linear(2 * dim, config.num_hands)
        self.reset_parameters()

    def grid(self) -> Tensor:
        """The anchors at the start."""
        cells = self.config.image_size // self.config.anchor_stride
        return anchor_grid(cells, cells, self.config.anchor_stride, self.config.depths)

    def constants(self) -> dict[str, Tensor]:
        """The buffers that weights don't hold: units of the offsets and, if not learned, the anchors."""
        size = self.config.image_size
        extent = torch.tensor((size, size, self.config.depth_extent), dtype=torch.float32)
        found = {"offset_scale": extent.view(3, 1, 1)}
        return found if self.config.learned_anchors else {**found, "anchors": self.grid()}

    def reset_parameters(self) -> None:
        """Xavier for all matrices, deformable attention as it prescribes, no offsets at the start."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and name != "anchors":
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.reset_parameters()
            elif isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.level_codes)
        nn.init.normal_(self.content)
        for layer, votes in enumerate(self.offset_votes):
            assert isinstance(votes, nn.Sequential)
            last = votes[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            if layer == 0:
                nn.init.constant_(last.bias[2:], self.config.offset_bias)

    def tokenize(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, list[tuple[int, int]]]:
        """Project the maps and lay out their tokens.

        Args:
            features: maps (B, C, H, W), finest first.

        Returns:
            The tokens (B, tokens, dim) of all maps; their positional code (tokens, dim); the cells' centres
            (tokens, 2) = (x, y) where each map extends over [0, 1]; the maps' (height, width).
        """
        maps = [project(feature) for project, feature in zip(self.projections, features, strict=True)]
        if self.extra is not None:
            maps.append(self.extra(features[-1]))
        tokens, codes, centres = [], [], []
        shapes: list[tuple[int, int]] = []
        for level, picture in enumerate(maps):
            height, width = picture.shape[-2:]
            shapes.append((height, width))
            tokens.append(picture.flatten(2).transpose(1, 2))
            cells = anchor_grid(height, width, 1.0, device=picture.device)[:, :2] + 0.5
            centre = cells / cells.new_tensor((width, height))
            centres.append(centre)
            codes.append(sine_code(centre.flip(-1), self.config.dim // 2) + self.level_codes[level])
        return torch.cat(tokens, dim=1), torch.cat(codes), torch.cat(centres), shapes

    def vote(self, layer: int, x: Tensor, anchors: Tensor) -> tuple[LayerOutput, Tensor]:
        """One layer's joints from its anchors' content (B, anchors, dim), and the anchors' weights."""
        weights = anchor_weights(self.weight_votes[layer](x).transpose(1, 2))
        offsets = self.offset_votes[layer](x).unflatten(-1, (self.joints, 3)).permute(0, 3, 2, 1)
        joints, centroid = aggregate(weights, offsets.to(weights.dtype) * self.offset_scale, anchors)
        return by_hand(joints, centroid, self.config.num_hands, self.config.root_joint), weights

    def place(self, anchors: Tensor, true_size: Tensor) -> tuple[Tensor, Tensor]:
        """The anchors' positional code (anchors, dim), and (x, y) (anchors, 2) where maps extend over [0, 1].

        Args:
            anchors: (anchors, 3), pixels and the unit of depth.
            true_size: width and height that the finest map covers, in pixels.
        """
        reference = (anchors[:, :2] + 0.5) / true_size
        depth = anchors[:, 2:] / self.config.depth_extent + 0.5
        code = sine_code(torch.cat((reference.flip(-1), depth), dim=-1), self.config.dim // 2)
        return self.position(code), reference

    def forward(self, features: Sequence[Tensor]) -> HandPoseOutput:
        tokens, code, centres, shapes = self.tokenize(features)
        for layer in self.encoder:
            tokens = layer(tokens, code, centres, tokens, shapes)

        height, width = features[0].shape[-2:]
        true_size = self.anchors.new_tensor((width * self.stride, height * self.stride))
        anchors = self.anchors
        position, reference = self.place(anchors, true_size)

        x = self.content.expand(len(tokens), -1, -1)
        outputs = []
        for index, layer in enumerate(self.decoder):
            if index == 1 and self.config.learned_anchors:  # only the first layer moves them
                anchors = anchors.detach()
                position, reference = self.place(anchors, true_size)
            scaled = position * self.position_scale(x) if index else position
            x = layer(x, scaled, reference, tokens, shapes)
            output, weights = self.vote(index, x, anchors)
            outputs.append(output)

        # The confidence must not pull on where the joints are looked for.
        confidence = (weights.detach() * self.confidence(x).transpose(1, 2)).sum(dim=-1)
        presence = self.presence(torch.cat((tokens.mean(dim=1), x.mean(dim=1)), dim=-1))
        return HandPoseOutput(
            joints_25d=outputs[-1].joints_25d,
            joint_logits=confidence.unflatten(1, (self.config.num_hands, -1)),
            present_logits=presence.to(weights.dtype),
            layers=tuple(outputs),
        )
