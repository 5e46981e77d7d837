"""Multi-scale deformable attention (Zhu et al., Deformable DETR, ICLR 2021) in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
