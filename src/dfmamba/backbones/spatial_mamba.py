"""Spatial-Mamba: one scan in raster order, whose states are fused with those of their neighbours.

Source: Xiao et al., "Spatial-Mamba: Effective Visual State Space Models via Structure-Aware State Fusion",
ICLR 2025 (arXiv 2410.15091). One of the backbones that DF-Mamba is compared with, behind the interface of
our own; strides are 4, 8, 16 and 32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dfmamba.backbones.blocks import FFN
from dfmamba.backbones.dssm import DSSM, DSSMConfig
from dfmamba.backbones.features import FeatureInfo, chosen_maps
from dfmamba.layers import DropPath, LayerNorm2d, Pointwise
from dfmamba.ops import selective_scan

STRIDES = (4, 8, 16, 32)
DILATIONS = (1, 3, 5)
"""Of the three 3x3 kernels that fuse states."""
WIDENING = 4
"""Width of the stem and of the layers between stages, relative to the channels after them."""


@dataclass(frozen=True)
class SpatialMambaConfig:
    """Everything that defines a Spatial-Mamba backbone.

    Attributes:
        dims: channels of the four stages.
        depths: blocks of the four stages.
        stem_dim: channels of the stem's first half.
        expand: width of the state-space layers relative to their input.
        ffn_ratio: width of the FFN after each of them.
        in_chans: channels of the picture.
        drop_path_rate: stochastic depth of the last block; earlier ones grow linearly from 0.
    """

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    stem_dim: int
    expand: float = 2.0
    ffn_ratio: float = 4.0
    in_chans: int = 3
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("dims", "depths"):
            values = tuple(getattr(self, name))
            if len(values) != 4 or min(values) < 1:
                raise ValueError(f"{name} needs four entries of at least 1, got {values}")
            object.__setattr__(self, name, values)
        if min(self.stem_dim, self.in_chans) < 1 or min(self.expand, self.ffn_ratio) <= 0:
            raise ValueError(f"stem_dim, in_chans, expand and ffn_ratio must be positive, got {self}")
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise ValueError(f"drop_path_rate must lie in [0, 1), got {self.drop_path_rate}")

    def with_overrides(self, **overrides: Any) -> SpatialMambaConfig:
        """A changed copy.

        Raises:
            ValueError: an override is no field of the configuration, or unusable.
        """
        known = [f.name for f in fields(self)]
        unknown = sorted(set(overrides) - set(known))
        if unknown:
            raise ValueError(f"unknown backbone argument {unknown[0]!r}; known: {', '.join(known)}")
        return replace(self, **overrides)


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
        for d, kernel in zip(DILATIONS, self.scaled_kernels().unbind(), strict=True):
            part = F.conv2d(F.pad(h, (d,) * 4, mode="replicate"), kernel, dilation=d, groups=h.shape[1])
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
        projected = F.linear(tokens.transpose(1, 2), self.x_proj.weight.flatten(1))
        dt, B, C = projected.split((self.rank, 1, 1), dim=2)
        states = selective_scan(  # with C = 1 and without D the outputs are the states
            tokens,
            F.linear(dt, self.dt_proj.weight.flatten(1)).transpose(1, 2),
            self.decay_rates(),
            B.transpose(1, 2),
            torch.ones_like(B).transpose(1, 2),
            delta_bias=self.dt_bias,
            delta_softplus=True,
        )
        assert isinstance(states, Tensor)

        def picture(rows: Tensor) -> Tensor:
            # From (B, L, D): reshaping (B, D, L) loses the channels-last order of a single picture.
            return rows.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)

        return self.fusion(picture(states.transpose(1, 2))) * picture(C) + self.D.view(-1, 1, 1) * x


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


class SpatialMamba(nn.Module):
    """Spatial-Mamba as a feature extractor: returns the maps of `out_indices`, finest first.

    Each map goes through a layer norm of its own, as in the paper's detectors.

    Args:
        config: the architecture.
        out_indices: stages (-1 is the last one), or a number of last stages. Stages after the last chosen one
            aren't kept.

    Shape: (B, in_chans, H, W) with H and W at least 32. Sizes that the strides don't divide are rounded up at
    each stage.
    """

    def __init__(self, config: SpatialMambaConfig, out_indices: int | Sequence[int] = (0, 1, 2, 3)) -> None:
        super().__init__()
        self.config = config
        self.out_indices = tuple(chosen_maps(out_indices, 4, "out_indices"))
        info = [
            {"num_chs": dim, "reduction": stride, "module": f"stages.{i}"}
            for i, (dim, stride) in enumerate(zip(config.dims, STRIDES, strict=True))
        ]
        self.feature_info = FeatureInfo(info, self.out_indices)
        self.grad_checkpointing = False
        rates = iter(torch.linspace(0.0, config.drop_path_rate, sum(config.depths)).tolist())
        self.stem = Stem(config)
        self.downs = nn.ModuleList([nn.Identity()])
        self.stages = nn.ModuleList()
        for i in range(self.out_indices[-1] + 1):
            dim = config.dims[i]
            if i:
                self.downs.append(_down(config.dims[i - 1], dim))
            shape = (dim, config.expand, config.ffn_ratio)
            blocks = [SpatialMambaBlock(*shape, next(rates)) for _ in range(config.depths[i])]
            self.stages.append(nn.Sequential(*blocks))
        self.norms = nn.ModuleDict({str(i): LayerNorm2d(config.dims[i]) for i in self.out_indices})
        self.init_weights()

    def init_weights(self) -> None:
        """Truncated normal projections inside the blocks; the rest keeps its layer's own start."""
        for module in self.stages.modules():
            if isinstance(module, Pointwise):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trades time for memory: recompute each block in the backward pass."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that must not decay."""
        layers = [(name, part) for name, part in self.named_modules() if isinstance(part, SpatialSSM)]
        return {f"{name}.{kept}" for name, part in layers for kept in part.no_weight_decay()}

    def forward(self, x: Tensor) -> list[Tensor]:
        chans = self.config.in_chans
        if x.ndim != 4 or x.shape[1] != chans or min(x.shape[2:]) < STRIDES[-1]:
            raise ValueError(
                f"expected a picture (B, {chans}, H, W) with H and W at least 32, got {tuple(x.shape)}"
            )
        # Channels next to each other: the order that norms, projections and the scan work in.
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        maps = []
        for down, stage in zip(self.downs, self.stages, strict=True):
            x = down(x)
            for block in stage.children():
                recompute = self.grad_checkpointing and torch.is_grad_enabled()
                x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
            maps.append(x)
        return [norm(maps[int(stage)]) for stage, norm in self.norms.items()]


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
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected weights in safetensors format")
    try:
        found = {name.removeprefix("backbone."): value for name, value in load_file(path).items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
    own = backbone.state_dict()
    names = {name: _published_name(name) for name in own}
    first, chans = names["stem.first.0.weight"], backbone.config.in_chans
    if first in found and found[first].shape[1:] == (3, 3, 3) and chans != 3:
        # The sum over the channels stays that of the colours, so that activations keep their size.
        colours = found[first][:, [i % 3 for i in range(chans)]] * (3 / chans)
        found[first] = found[first].sum(1, keepdim=True) if chans == 1 else colours
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
    broken = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise ValueError(f"{path}: {names[broken[0]]} holds values that are not finite")
    backbone.load_state_dict({**own, **state})
