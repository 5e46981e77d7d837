"""Blocks of the tribrid backbone: convolution, gated convolution, Mamba, DF-Mamba and the FFN around them.

All blocks map (B, C, H, W) to the same shape. Sources: DF-Mamba (arXiv 2512.02727), Fig. 3; Mamba (Gu & Dao
2024); MambaOut (Yu & Wang 2025) for the gated convolution block, which is the Mamba block without its scan;
Vim (Zhu et al. 2024) for the bidirectional mixer, which DF-Mamba's is compared with.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from dfmamba.backbones.dssm import DSSM, DSSMConfig
from dfmamba.layers import DropPath, NormFactory, Pointwise


class ConvNorm(nn.Sequential):
    """Convolution without bias, then a norm (BatchNorm folds into the convolution), then an activation."""

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        norm: NormFactory = nn.BatchNorm2d,
        act: bool = False,
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(in_chs, out_chs, kernel, stride, kernel // 2, groups=groups, bias=False),
            norm(out_chs),
        ]
        if act:
            layers.append(nn.SiLU(inplace=True))
        super().__init__(*layers)


class ConvBlock(nn.Module):
    """Residual pair of 3x3 convolutions: the cheapest way to early features on any machine."""

    def __init__(self, dim: int, drop_path: float = 0.0, norm: NormFactory = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim, dim, norm=norm, act=True)
        self.conv2 = ConvNorm(dim, dim, norm=norm)
        self.drop_path = DropPath(drop_path)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.drop_path(self.conv2(self.conv1(x))))


class GatedConvBlock(nn.Module):
    """Gated convolution block: the Mamba block without its SSM; mixer and channel mixer in one.

    Args:
        dim: channels.
        expand: width of the gated middle relative to `dim`; rounded to a multiple of 16, which vector units
            and matrix products need.
        kernel: side of the depthwise kernel, which sees `dim` of the middle channels (MambaOut's ratio 1).
    """

    def __init__(
        self,
        dim: int,
        expand: float = 8 / 3,
        kernel: int = 7,
        drop_path: float = 0.0,
        norm: NormFactory = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        hidden = max(dim, 16 * round(expand * dim / 16))
        self.split = (hidden, hidden - dim, dim)
        self.norm = norm(dim)
        self.in_proj = Pointwise(dim, 2 * hidden)
        self.conv = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.act = nn.GELU()
        self.out_proj = Pointwise(hidden, dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        gate, keep, mixed = self.in_proj(self.norm(x)).split(self.split, dim=1)
        mixed = torch.cat((keep, self.conv(mixed)), dim=1)
        return x + self.drop_path(self.out_proj(self.act(gate) * mixed))


class MambaMixer(nn.Module):
    """Mamba's token mixer on a map: projection, depthwise convolution, SiLU, scan, gate, projection.

    With `deformable=True` in the configuration of the scan it is the DF-Mamba mixer (Fig. 3d), else Mamba's
    with a two-dimensional depthwise convolution (Fig. 3a).

    Args:
        dim: channels.
        scan: configuration of the (deformable) state-space layer.
        expand: inner width relative to `dim`.
        kernel: side of the depthwise kernel before the scan.
    """

    def __init__(
        self,
        dim: int,
        scan: DSSMConfig,
        expand: float = 1.0,
        kernel: int = 3,
        norm: NormFactory = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        inner = int(expand * dim)
        self.in_proj = Pointwise(dim, 2 * inner, bias=False)
        self.conv = nn.Conv2d(inner, inner, kernel, padding=kernel // 2, groups=inner)
        self.act = nn.SiLU()
        self.dssm = DSSM(inner, scan, norm(inner) if scan.deformable and scan.norm else None)
        self.out_proj = Pointwise(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x, z = self.in_proj(x).chunk(2, dim=1)
        y = self.dssm(self.act(self.conv(x)))
        return self.out_proj(y * self.act(z))


class VimMixer(nn.Module):
    """Vim's token mixer on a map: Mamba's, in raster order from either end, with one gate for both.

    Each direction has a causal depthwise convolution along its sequence, SiLU and a selective scan of its
    own; the sum is gated and projected (Vim, algorithm 1).

    Args:
        dim: channels.
        scan: configuration of the scans, which are undeformed; `reverse` has no effect.
        expand: inner width relative to `dim`.
        kernel: width of the convolutions along the sequence.
    """

    def __init__(self, dim: int, scan: DSSMConfig, expand: float = 1.0, kernel: int = 4) -> None:
        super().__init__()
        inner = int(expand * dim)
        scan = replace(scan, deformable=False, reverse=False)
        self.in_proj = Pointwise(dim, 2 * inner, bias=False)
        self.convs = nn.ModuleList(
            nn.Conv2d(inner, inner, (1, kernel), padding=(0, kernel - 1), groups=inner) for _ in range(2)
        )
        self.act = nn.SiLU()
        self.scans = nn.ModuleList(DSSM(inner, scan) for _ in range(2))
        self.out_proj = Pointwise(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        x, z = self.in_proj(x).chunk(2, dim=1)
        tokens = x.flatten(2).unsqueeze(2)
        there, back = (
            scan(self.act(conv(sequence)[..., : sequence.shape[3]]))  # causal: what lies beyond is cut off
            for conv, scan, sequence in zip(self.convs, self.scans, (tokens, tokens.flip(3)), strict=True)
        )
        y = (there + back.flip(3)).squeeze(2).unflatten(2, size)
        return self.out_proj(y * self.act(z))


class FFN(nn.Sequential):
    """Two 1x1 convolutions with a GELU between them."""

    def __init__(self, dim: int, ratio: float) -> None:
        hidden = int(ratio * dim)
        super().__init__(Pointwise(dim, hidden), nn.GELU(), Pointwise(hidden, dim))


class MixerBlock(nn.Module):
    """Transformer-like block (Fig. 3e): a token mixer, then an FFN, each with pre-norm and residual.

    `ffn_ratio=0` leaves the FFN out, which gives the plain Mamba or DF-Mamba block.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        ffn_ratio: float = 3.0,
        drop_path: float = 0.0,
        norm: NormFactory = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.norm1 = norm(dim)
        self.mixer = mixer
        self.drop_path1 = DropPath(drop_path)
        self.norm2 = norm(dim) if ffn_ratio else None
        self.ffn = FFN(dim, ffn_ratio) if ffn_ratio else None
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.mixer(self.norm1(x)))
        if self.ffn is not None and self.norm2 is not None:
            x = x + self.drop_path2(self.ffn(self.norm2(x)))
        return x
