"""Spatial-Mamba: one scan in raster order, whose states are fused with those of their neighbours.

Source: Xiao et al., "Spatial-Mamba: Effective Visual State Space Models via Structure-Aware State Fusion",
ICLR 2025 (arXiv 2410.15091). One of the backbones that DF-Mamba is compared with, behind the interface of
our own; strides are 4, 8, 16 and 32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfmamba.backbones.dfmamba import DSSM, FFN, DSSMConfig
from dfmamba.backbones.features import for_channels, read_weights, require_finite
from dfmamba.backbones.staged import StagedConfig, StagedFeatures
from dfmamba.layers import DropPath, LayerNorm2d, Pointwise
from dfmamba.ops import selective_scan

torch.fx.wrap("selective_scan")

DILATIONS = (1, 3, 5)
"""Of the three 3x3 kernels that fuse states."""
WIDENING = 4
"""Width of the stem and of the layers between stages, relative to the channels after them."""


@dataclass(frozen=True, kw_only=True)
class SpatialMambaConfig(StagedConfig):
    """Everything that defines a Spatial-Mamba backbone; see `StagedConfig`.

    Attributes:
        expand: see `StagedConfig`.
        stem_dim: channels of the stem's first half.
    """

    expand: float = 2.0
    stem_dim: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stem_dim < 1:
            raise ValueError(f"stem_dim must be at least 1, got {self.stem_dim}")


SPATIAL_MAMBAS: dict[str, SpatialMambaConfig] = {
    "spatial_mamba_tiny": SpatialMambaConfig(dims=(64, 128, 256, 512), depths=(2, 4, 8, 4), stem_dim=32),
    "spatial_mamba_nano": SpatialMambaConfig(dims=(24, 48, 88, 144), depths=(1, 2, 4, 2), stem_dim=12),
}
"""The published size T, and a small one as large and as costly as `dfmamba_nano`, within 2 %."""


class StateFusion(nn.Module):
    """Structure-aware state fusion: each state plus its neighbours' at three distances.

    For a map h of states, ``f = sum_i alpha_i (K_i * h)`` with depthwise 3x3 kernels K_i of dilation 1, 3 and
    5. Beyond its border the map continues with its nearest cell.

    The kernels stay apart: merged into one of 11x11 they take four times the work and the same time on a CPU.

    Args:
        dim: channels.

    Shape: (B, dim, H, W) -> (B, dim, H, W).
    """

    scaled: Tensor | None

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.kernels = nn.ParameterList(torch.ones(dim, 1, 3, 3) for _ in DILATIONS)
        self.alpha = nn.Parameter(torch.ones(len(DILATIONS)))
        self.register_buffer("scaled", None, persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        fused = None
        kernels = self.scaled_kernels()
        for i, d in enumerate(DILATIONS):
            part = F.conv2d(F.pad(h, (d,) * 4, mode="replicate"), kernels[i], dilation=d, groups=h.shape[1])
            fused = part if fused is None else fused + part
        assert fused is not None
        return fused

    def scaled_kernels(self) -> Tensor:
        """alpha_i K_i, (3, dim, 1, 3, 3)."""
        if self.scaled is not None:
            return self.scaled
        return torch.stack(list(self.kernels)) * self.alpha.view(-1, 1, 1, 1, 1)

    def freeze_constants(self) -> None:
        """Scales the kernels once, for inference."""
        self.scaled = self.scaled_kernels().detach()


class SpatialSSM(DSSM):
    """State-space layer with one state per channel, fused between the state and the output equation.

    ``h[t] = exp(s[t] A) h[t-1] + s[t] B[t] x[t]`` in raster order, ``y = C f(h) + D x`` with `StateFusion` f;
    step, B and C depend on the input as in Mamba.

    Args:
        dim: channels.
        rank: of the step projection.

    Shape: (B, dim, H, W) -> (B, dim, H, W).
    """

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__(dim, DSSMConfig(d_state=1, dt_rank=rank, deformable=False))
        self.fusion = StateFusion(dim)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2)
        delta, B, C = self.step_maps(tokens)
        # with C = 1 and without D the outputs are the states
        scanned = selective_scan(
            tokens,
            delta,
            self.decay_rates(),
            B,
            torch.ones_like(B),
            delta_bias=self.dt_bias,
            delta_softplus=True,
        )
        states = cast(Tensor, scanned)

        def picture(rows: Tensor) -> Tensor:
            # From (B, L, D): reshaping (B, D, L) loses the channels-last order of a single picture.
            return rows.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)

        return (
            self.fusion(picture(states.transpose(1, 2))) * picture(C.transpose(1, 2))
            + self.D.view(-1, 1, 1) * x
        )


class SpatialMixer(nn.Module):
    """Token mixer: projection, depthwise convolution, SiLU, `SpatialSSM`, norm, gate, projection.

    Shape: (B, dim, H, W) -> (B, dim, H, W).
    """

    def __init__(self, dim: int, expand: float) -> None:
        super().__init__()
        inner = int(expand * dim)
        self.in_proj = Pointwise(dim, 2 * inner, bias=False)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.act = nn.SiLU()
        self.ssm = SpatialSSM(inner, math.ceil(dim / 16))
        self.norm = LayerNorm2d(inner)
        self.out_proj = Pointwise(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        u, z = self.in_proj(x).chunk(2, dim=1)
        y = self.norm(self.ssm(self.act(self.conv(u))))
        return self.out_proj(y * self.act(z))


class SpatialMambaBlock(nn.Module):
    """Mixer and FFN, each after a norm, in a residual branch and behind a residual depthwise convolution.

    Shape: (B, dim, H, W) -> (B, dim, H, W).
    """

    def __init__(self, dim: int, expand: float, ffn_ratio: float, drop_path: float = 0.0) -> None:
        super().__init__()
        self.position1 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = LayerNorm2d(dim)
        self.mixer = SpatialMixer(dim, expand)
        self.position2 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm2 = LayerNorm2d(dim)
        self.ffn = FFN(dim, ffn_ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.position1(x)
        x = x + self.drop_path(self.mixer(self.norm1(x)))
        x = x + self.position2(x)
        return x + self.drop_path(self.ffn(self.norm2(x)))


class Stem(nn.Module):
    """3x3 convolutions with batch norm from the picture to a quarter of its size.

    Shape: (B, in_chans, H, W) -> (B, dims[0], H/4, W/4), rounded up.
    """

    def __init__(self, config: SpatialMambaConfig) -> None:
        super().__init__()
        half, dim, wide = config.stem_dim, config.dims[0], WIDENING * config.dims[0]

        def conv(before: int, after: int, stride: int = 1) -> Sequence[nn.Module]:
            return nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)

        self.first = nn.Sequential(*conv(config.in_chans, half, 2), nn.ReLU(inplace=True))
        self.pair = nn.Sequential(*conv(half, half), nn.ReLU(inplace=True), *conv(half, half))
        last = [nn.ReLU(inplace=True), Pointwise(wide, dim, bias=False), nn.BatchNorm2d(dim)]
        self.last = nn.Sequential(*conv(half, wide, 2), *last)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(self.pair(x) + x)


def _down(before: int, after: int) -> nn.Sequential:
    """Between stages: half the size, rounded up, through wide depthwise convolutions."""
    wide = WIDENING * after
    return nn.Sequential(
        Pointwise(before, wide),
        nn.ReLU(inplace=True),
        nn.Conv2d(wide, wide, 3, 2, padding=1, groups=wide),
        nn.ReLU(inplace=True),
        Pointwise(wide, after),
        nn.BatchNorm2d(after),
    )


class SpatialMamba(StagedFeatures):
    """Spatial-Mamba as a feature extractor; see `StagedFeatures`.

    Args:
        config: the architecture.
        out_indices: chosen stages.
    """

    config: SpatialMambaConfig

    def __init__(self, config: SpatialMambaConfig, out_indices: int | Sequence[int] = (0, 1, 2, 3)) -> None:
        def block(dim: int, drop_path: float) -> nn.Module:
            return SpatialMambaBlock(dim, config.expand, config.ffn_ratio, drop_path)

        super().__init__(config, out_indices, Stem(config), _down, block)


_STEM = {"first": ("conv1",), "pair": ("conv2.0", "conv2.1"), "last": ("conv3.0", "conv3.1")}
_DOWN = {"0": "0.conv", "2": "1.conv", "4": "2.conv", "5": "2.norm"}
_BLOCK = {
    "position1": "cpe1", "norm1": "ln_1", "position2": "cpe2", "norm2": "ln_2",
    "ffn.0": "mlp.fc1", "ffn.2": "mlp.fc2",
}  # fmt: skip
_MIXER = {
    "in_proj": "in_proj", "conv": "conv2d", "norm": "out_norm", "out_proj": "out_proj",
    "ssm.x_proj.weight": "x_proj_weight", "ssm.dt_proj.weight": "dt_projs_weight",
    "ssm.dt_bias": "dt_projs_bias", "ssm.A_log": "A_logs", "ssm.D": "Ds",
    "ssm.fusion.kernels.0": "state_fusion.kernel_3", "ssm.fusion.kernels.1": "state_fusion.kernel_3_1",
    "ssm.fusion.kernels.2": "state_fusion.kernel_3_2", "ssm.fusion.alpha": "state_fusion.alpha",
}  # fmt: skip
_BLOCK |= {f"mixer.{ours}": f"self_attention.{theirs}" for ours, theirs in _MIXER.items()}


def _published_name(name: str) -> str:
    """What the published checkpoints call a tensor of `SpatialMamba`."""
    part, rest = name.split(".", 1)
    module, leaf = rest.rsplit(".", 1)
    if part == "stem":
        group, index = module.split(".")
        layer, kind = divmod(int(index), 3)
        return f"patch_embed.{_STEM[group][layer]}.{('conv', 'norm')[kind]}.{leaf}"
    if part == "norms":
        return f"outnorm{module}.{leaf}"
    if part == "downs":
        stage, index = module.split(".")
        return f"layers.{int(stage) - 1}.downsample.conv.{_DOWN[index]}.{leaf}"
    stage, block, inner = rest.split(".", 2)
    known = _BLOCK.get(inner) or f"{_BLOCK[inner.rpartition('.')[0]]}.{leaf}"
    return f"layers.{stage}.blocks.{block}.{known}"


def load_spatial_mamba_weights(backbone: SpatialMamba, path: str | Path) -> None:
    """Fills in the weights of a safetensors file with the names of the published checkpoints.

    Names may start with "backbone.", as in detectors. Classifiers and stages that the backbone lacks are
    ignored; norms of maps that the file lacks keep what they have. The first convolution is adapted to other
    than three channels.

    Raises:
        OSError: no such file.
        ValueError: the file is damaged, or of another network.
    """
    path = Path(path)
    found = {name.removeprefix("backbone."): value for name, value in read_weights(path).items()}
    own = backbone.state_dict()
    names = {name: _published_name(name) for name in own}
    first, chans = names["stem.first.0.weight"], backbone.config.in_chans
    if first in found and found[first].shape[1:] == (3, 3, 3) and chans != 3:
        found[first] = for_channels(found[first], chans)
    state = {}
    for name, wanted in own.items():  # matrices become 1x1 convolutions
        value = found.get(names[name])
        if value is not None and (*value.shape, 1, 1)[: wanted.ndim] == tuple(wanted.shape):
            state[name] = value.reshape(wanted.shape)
    optional = {n for n in own if n.startswith("norms.") or n.endswith("num_batches_tracked")}
    wrong = [n for n in own if n not in state and (n not in optional or names[n] in found)]
    if wrong:
        raise ValueError(
            f"{path}: weights of another network than this one: {len(wrong)} tensors missing or of another "
            f"shape (first: {names[wrong[0]]}, expected {tuple(own[wrong[0]].shape)})"
        )
    require_finite({names[name]: value for name, value in state.items()}, [names[n] for n in state], path)
    backbone.load_state_dict({**own, **state})
