"""VMamba's token mixer: four selective scans of a map, each along another route.

Source: Liu et al., "VMamba: Visual State Space Model", NeurIPS 2024 (arXiv 2401.10166), SS2D.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from dfmamba.backbones.dssm import DSSM, DSSMConfig
from dfmamba.layers import LayerNorm2d, Pointwise

ROUTES = 4
"""Of the cross-scan: by rows, by columns, and both from the last token to the first."""


class CrossScan(nn.Module):
    """Sum of four selective scans: by rows, by columns, and both backwards, each with its own parameters.

    One call of the operator a route, on tokens whose channels are next to each other, is faster on a CPU than
    the four as groups of one call: the map needn't be copied for the first route, nor any to put the routes
    side by side.

    Args:
        dim: channels.
        scan: configuration of each route; only `d_state` and `dt_rank` are used.

    Shape: (B, dim, H, W) -> (B, dim, H, W).
    """

    def __init__(self, dim: int, scan: DSSMConfig) -> None:
        super().__init__()
        scan = replace(scan, deformable=False, reverse=False)
        self.routes = nn.ModuleList(DSSM(dim, scan) for _ in range(ROUTES))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        by_rows, by_columns, rows_back, columns_back = self.routes
        # (B, dim, 1, H W) with the channels next to each other; of a channels-last x the first is a view
        rows = x.permute(0, 2, 3, 1).flatten(1, 2).transpose(1, 2).unsqueeze(2)
        columns = x.permute(0, 3, 2, 1).flatten(1, 2).transpose(1, 2).unsqueeze(2)
        down = by_rows(rows) + rows_back(rows.flip(3)).flip(3)
        across = by_columns(columns) + columns_back(columns.flip(3)).flip(3)
        across = across.squeeze(2).unflatten(2, (width, height)).transpose(2, 3)
        return down.squeeze(2).unflatten(2, (height, width)) + across


class CrossScanMixer(nn.Module):
    """Projection, depthwise 3x3 convolution, SiLU, cross-scan, norm, projection; there is no gate.

    Args:
        dim: channels.
        scan: configuration of the scans; rank 0 stands for ceil(dim / 16).
        expand: inner width relative to `dim`.

    Shape: (B, dim, H, W) -> (B, dim, H, W).
    """

    def __init__(self, dim: int, scan: DSSMConfig, expand: float = 1.0) -> None:
        super().__init__()
        inner = int(expand * dim)
        self.in_proj = Pointwise(dim, inner, bias=False)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.act = nn.SiLU()
        self.scan = CrossScan(inner, replace(scan, dt_rank=scan.dt_rank or -(-dim // 16)))
        self.norm = LayerNorm2d(inner)
        self.out_proj = Pointwise(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(self.norm(self.scan(self.act(self.conv(self.in_proj(x))))))
