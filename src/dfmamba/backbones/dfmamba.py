"""DF-Mamba's backbone in one file: the DSSM layer, the blocks, the network and its sizes, in this order.

Source: "DF-Mamba: Deformable State Space Modeling for 3D Hand Pose Estimation in Interactions", WACV 2026
(arXiv 2512.02727). Symbols are the paper's: a map X of C channels, token t at the cell p_t in raster order.

The deformable scan (Fig. 2b) reads, for each token, the map around it at K anchors a_k that are moved by
offsets o_k, and then runs a state-space recurrence with N states per channel over what it read::

    x~_t = sum_k  b_k * X(p_t + a_k + o_{k,t})        bilinear, zero outside the map       (1)
    h_t  = exp(D_t A) h_{t-1} + D_t B_t x~_t          D_t, B_t, C_t depend on the input    (2)
    y_t  = C_t h_t + D x~_t                                                                (3)

(1) is `dfmamba.ops.deformable_sample`, (2) and (3) are `dfmamba.ops.selective_scan`. Where the paper is
silent, docs/understand/method.md says what was chosen and why; `DSSMConfig.as_published` gives the equations
as they stand here.

The blocks are those of Fig. 3: convolution; gated convolution, the Mamba block without its scan (MambaOut,
Yu & Wang 2025); the Mamba block (Gu & Dao 2024), with a plain or the deformable scan, and an FFN around it;
Vim's bidirectional mixer (Zhu et al. 2024) for comparison. The network (Fig. 4) has convolution blocks in its
early stages, DSSM and gated convolution blocks in the later ones ("tribrid").

The file is longer than others here because it is meant to be read as the paper is, from top to bottom.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dfmamba.backbones.features import (
    MOST_BLOCKS,
    STRIDES,
    FeatureInfo,
    GlobalPool,
    checked_image,
    chosen_maps,
    depth_rates,
)
from dfmamba.layers import DRAWING, NORMS, DropPath, NormFactory, Pointwise, fuse
from dfmamba.ops import anchor_grid, deformable_sample, deformable_selective_scan, selective_scan
from dfmamba.settings import from_values, with_overrides

# What depends on the values of operands is one step of a graph that torch.fx traces.
for _name in ("checked_image", "deformable_sample", "deformable_selective_scan", "selective_scan"):
    torch.fx.wrap(_name)


@dataclass(frozen=True)
class DSSMConfig:
    """Switches of the (deformable) state-space layer; every ablation of the paper is one of them.

    Attributes:
        d_state: N, states per channel.
        dt_rank: rank of the step projection; 0 means ceil(channels / 16).
        deformable: sample at deformable positions; False gives the plain selective scan.
        num_anchors: K, a square number.
        offset_groups: groups of channels with offsets (and dynamic weights) of their own.
        offset_reach: largest offset as a share of the map's height and width, by a tanh; None leaves
            offsets unbounded. Positions outside the map read zero and get no gradient, so unbounded offsets
            that have once left a small map never come back.
        offset_gain: what the offset branch predicts is multiplied by it. With an optimiser that normalises
            gradients, such as AdamW, 0.1 lets offsets learn ten times more slowly than the rest, as those of
            deformable convolutions do (Zhu et al., "Deformable ConvNets v2", CVPR 2019).
        weights: "dynamic" weights depend on the input and are shared by a group; "modulated" ones do so too,
            but lie between 0 and 2 / K by a sigmoid (Deformable ConvNets v2); "static" ones are learned per
            channel (b_k of the paper).
        params_from: what the step, B and C are computed from: the features "x" or the "sampled" ones.
        residual: scan x + sampled instead of sampled alone.
        norm: normalise the sampled features before the scan.
        reverse: scan from the last token to the first.
        directions: 1 scans in raster order; 2 also from the other end; 4 also along columns, from either
            end. The mean of all goes on; sampling, maps and decay rates are shared.
    """

    d_state: int = 1
    dt_rank: int = 0
    deformable: bool = True
    num_anchors: int = 9
    offset_groups: int = 1
    offset_reach: float | None = 0.5
    offset_gain: float = 1.0
    weights: Literal["dynamic", "modulated", "static"] = "dynamic"
    params_from: Literal["x", "sampled"] = "x"
    residual: bool = True
    norm: bool = True
    reverse: bool = False
    directions: Literal[1, 2, 4] = 1

    def __post_init__(self) -> None:
        for name, allowed in (
            ("weights", ("dynamic", "modulated", "static")),
            ("params_from", ("x", "sampled")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"DSSMConfig.{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if self.offset_reach is not None and not self.offset_reach > 0:
            raise ValueError(f"DSSMConfig.offset_reach must be positive or None, got {self.offset_reach}")
        if self.directions not in (1, 2, 4):
            raise ValueError(f"DSSMConfig.directions must be 1, 2 or 4, got {self.directions!r}")
        if not self.offset_gain > 0:
            raise ValueError(f"DSSMConfig.offset_gain must be positive, got {self.offset_gain}")
        if self.d_state < 1 or self.offset_groups < 1 or self.dt_rank < 0:
            raise ValueError(
                f"d_state and offset_groups must be at least 1 and dt_rank at least 0, got {self}"
            )

    @classmethod
    def as_published(cls, **changes: Any) -> DSSMConfig:
        """The paper's equations (1) to (3) and no more.

        Weights b_k are static, offsets unbounded, and there is no residual and no norm around the samples.
        It starts as the plain selective scan: b_k is 1 at the centre anchor and 0 elsewhere.

        Args:
            **changes: other fields.
        """
        own = {"weights": "static", "residual": False, "norm": False, "offset_reach": None}
        return cls(**{**own, **changes})


class DeformableSampler(nn.Module):
    """Predicts offsets (and weights) from the features and sums the map at the deformed anchors.

    The last layer starts at zero, so training starts from the regular grid; the weights start non-zero
    because the offsets get no gradient through weights that are zero.
    """

    def __init__(self, dim: int, config: DSSMConfig) -> None:
        super().__init__()
        groups, k = config.offset_groups, config.num_anchors
        if dim % groups:
            raise ValueError(f"{dim} channels can't be divided into {groups} offset groups")
        self.groups, self.num_anchors, self.dynamic = groups, k, config.weights != "static"
        self.modulated = config.weights == "modulated"
        self.reach, self.gain = config.offset_reach, config.offset_gain
        self.anchors = nn.Parameter(anchor_grid(k))
        out = groups * k * (3 if self.dynamic else 2)
        self.branch = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim), nn.GELU(), Pointwise(dim, out)
        )
        self.start = [1.0 / k if config.residual else float(i == k // 2) for i in range(k)]
        if not self.dynamic:
            self.weight = nn.Parameter(torch.tensor(self.start).expand(dim, k).clone())
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zero offsets and the starting weights of the anchors."""
        last = self.branch[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        if self.dynamic and not self.modulated:
            with torch.no_grad():
                weights = last.bias[self.groups * self.num_anchors * 2 :]
                weights.copy_(weights.new_tensor(self.start * self.groups))

    def fields(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets (B, G, K, 2, H, W) as (dy, dx) in cells, and weights (B, G, K, H, W) or (C, K)."""
        b, _, h, w = x.shape
        out = self.branch(x)
        cut = self.groups * self.num_anchors * 2
        offsets = out[:, :cut].reshape(b, self.groups, self.num_anchors, 2, h, w)
        if self.gain != 1.0:
            offsets = self.gain * offsets
        if self.reach is not None:
            most = self.reach * offsets.new_tensor([h, w]).view(2, 1, 1)
            offsets = most * torch.tanh(offsets / most)
        if self.dynamic:
            weights = out[:, cut:].reshape(b, self.groups, self.num_anchors, h, w)
            return offsets, torch.sigmoid(weights) * (2.0 / self.num_anchors) if self.modulated else weights
        return offsets, self.weight

    def forward(self, x: Tensor) -> Tensor:
        offsets, weights = self.fields(x)
        return deformable_sample(x, offsets, weights, self.anchors)


class DSSM(nn.Module):
    """Deformable selective scan over a map in raster order.

    Args:
        dim: channels.
        config: switches.
        norm: module applied to the sampled features before the scan, or None.

    Shape: (B, C, H, W) -> (B, C, H, W).
    """

    A_log: Tensor
    D: Tensor
    A: Tensor | None

    def __init__(self, dim: int, config: DSSMConfig, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config
        self.rank = config.dt_rank or math.ceil(dim / 16)
        self.sampler = DeformableSampler(dim, config) if config.deformable else None
        self.norm = norm
        self.x_proj = nn.Conv1d(dim, self.rank + 2 * config.d_state, 1, bias=False)
        self.dt_proj = nn.Conv1d(self.rank, dim, 1, bias=False)
        self.dt_bias = nn.Parameter(torch.empty(dim))
        self.A_log = nn.Parameter(torch.empty(dim, config.d_state))
        self.D = nn.Parameter(torch.empty(dim))
        self.register_buffer("A", None, persistent=False)
        self.once = config.directions == 1 and not config.reverse
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Mamba's initialisation: A = -(1..N), D = 1, steps log-uniform in [1e-3, 1e-1]."""
        if not DRAWING.get():
            return
        with torch.no_grad():
            rates = [math.log(n + 1) for n in range(self.config.d_state)]
            self.A_log.copy_(self.A_log.new_tensor(rates).expand_as(self.A_log))
            self.D.fill_(1.0)
            nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
            step = torch.exp(torch.empty_like(self.dt_bias).uniform_(math.log(1e-3), math.log(1e-1)))
            self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that must not decay."""
        return {"A_log", "D", "dt_bias", "sampler.anchors", "sampler.weight"}

    def forward(self, x: Tensor) -> Tensor:
        config = self.config
        if self.sampler is not None and self.norm is None and config.params_from == "x" and self.once:
            offsets, weights = self.sampler.fields(x)
            delta, B, C = self.step_maps(x.flatten(2))
            return deformable_selective_scan(
                x,
                offsets,
                weights,
                self.sampler.anchors,
                delta,
                self.decay_rates(),
                B,
                C,
                D=self.D,
                delta_bias=self.dt_bias,
                delta_softplus=True,
                residual=config.residual,
            )
        u = x
        if self.sampler is not None:
            sampled = self.sampler(x)
            u = x + sampled if config.residual else sampled
            if self.norm is not None:
                u = self.norm(u)
        source = x if config.params_from == "x" else u
        routes = [(False, False), (False, True), (True, False), (True, True)][: config.directions]
        y = self._scan(source, u, *routes[0])
        for columns, backwards in routes[1:]:
            y = y + self._scan(source, u, columns, backwards)
        return y / len(routes) if len(routes) > 1 else y

    def _scan(self, source: Tensor, u: Tensor, columns: bool, backwards: bool) -> Tensor:
        """Scan the map `u` along rows or columns, with step, B and C of `source`."""
        if columns:
            source, u = source.transpose(2, 3), u.transpose(2, 3)
        size = u.shape[2:]
        source, tokens = source.flatten(2), u.flatten(2)
        if backwards != self.config.reverse:
            source, tokens = source.flip(-1), tokens.flip(-1)
        delta, B, C = self.step_maps(source)
        scanned = selective_scan(
            tokens,
            delta,
            self.decay_rates(),
            B,
            C,
            D=self.D,
            delta_bias=self.dt_bias,
            delta_softplus=True,
        )
        y = cast(Tensor, scanned)
        if backwards != self.config.reverse:
            y = y.flip(-1)
        y = y.unflatten(2, size)
        return y.transpose(2, 3) if columns else y

    def step_maps(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Steps (B, C, L) before bias and softplus, input and output maps (B, N, L), of tokens (B, C, L)."""
        # As rows of channels, which is how the maps lie in memory and what the scan reads without copies.
        projected = F.linear(tokens.transpose(1, 2), self.x_proj.weight.flatten(1))
        dt, B, C = projected.split((self.rank, self.config.d_state, self.config.d_state), dim=2)
        delta = F.linear(dt, self.dt_proj.weight.flatten(1))
        return delta.transpose(1, 2), B.transpose(1, 2), C.transpose(1, 2)

    def decay_rates(self) -> Tensor:
        """A of the scan, (C, N), negative."""
        return -torch.exp(self.A_log.float()) if self.A is None else self.A

    def freeze_constants(self) -> None:
        """Computes A once, for inference."""
        self.A = self.decay_rates().detach()


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


@dataclass(frozen=True)
class TribridConfig:
    """Everything that defines a tribrid backbone.

    Attributes:
        dims: channels of the four stages.
        stages: block names of each stage, in order.
        stem_dim: channels between the two strided convolutions of the stem.
        in_chans: channels of the picture.
        scan: switches of the state-space layers.
        deformable: `scan.deformable`, for short; nothing keeps it.
        num_anchors: `scan.num_anchors`, for short; nothing keeps it.
        replaced: block name -> block name, applied to all stages (the paper's block ablations).
        expand: inner width of the Mamba mixers relative to their input.
        ffn_ratio: width of the FFN after each mixer; 0 leaves it out.
        gated_expand: width of the gated convolution blocks.
        gated_kernel: depthwise kernel of the gated convolution blocks.
        drop_path_rate: stochastic depth of the last block; earlier ones grow linearly from 0.
        norm: norm of the convolution blocks, "batch" or "layer".
        mixer_norm: norm of the gated and state-space blocks. With "batch" nothing bounds a single token, and
            step, input and output maps multiply its outliers up to a useless network: keep "layer".
    """

    dims: tuple[int, int, int, int]
    stages: tuple[tuple[str, ...], ...]
    stem_dim: int = 32
    in_chans: int = 3
    scan: DSSMConfig = field(default_factory=DSSMConfig)
    deformable: InitVar[bool | None] = None
    num_anchors: InitVar[int | None] = None
    replaced: Mapping[str, str] = field(default_factory=dict)
    expand: float = 1.0
    ffn_ratio: float = 3.0
    gated_expand: float = 8 / 3
    gated_kernel: int = 7
    drop_path_rate: float = 0.0
    norm: str = "batch"
    mixer_norm: str = "layer"

    def __post_init__(self, deformable: bool | None, num_anchors: int | None) -> None:
        if len(self.dims) != 4 or len(self.stages) != 4:
            raise ValueError(f"dims and stages need four entries, got {self.dims} and {self.stages}")
        object.__setattr__(self, "dims", tuple(self.dims))
        object.__setattr__(self, "stages", tuple(tuple(stage) for stage in self.stages))
        if isinstance(self.scan, Mapping):
            object.__setattr__(self, "scan", from_values(DSSMConfig, self.scan, "scan"))
        for name, value in (("deformable", deformable), ("num_anchors", num_anchors)):
            own = getattr(self.scan, name)
            if value is not None and own not in (value, getattr(DSSMConfig, name)):
                raise ValueError(f"{name}={value!r} contradicts scan.{name}={own!r}; leave one of them out")
            if value is not None:
                changed: Any = {name: value}
                object.__setattr__(self, "scan", replace(self.scan, **changed))
        names = [name for stage in self.stages for name in stage]
        if len(names) > MOST_BLOCKS:
            raise ValueError(f"stages list {len(names)} blocks; at most {MOST_BLOCKS} are possible")
        known = (*BLOCKS, NO_BLOCK)
        for name in [*names, *self.replaced, *self.replaced.values()]:
            if name not in known:
                raise ValueError(f"unknown block {name!r}; known: {', '.join(known)}")
        for norm in (self.norm, self.mixer_norm):
            if norm not in NORMS:
                raise ValueError(f"unknown norm {norm!r}; known: {', '.join(NORMS)}")
        if self.in_chans < 1:
            raise ValueError(f"in_chans must be at least 1, got {self.in_chans}")

    @property
    def depths(self) -> tuple[int, ...]:
        """Number of blocks of each stage."""
        return tuple(sum(self.replaced.get(n, n) != NO_BLOCK for n in stage) for stage in self.stages)

    def with_overrides(self, **overrides: Any) -> TribridConfig:
        """A changed copy; unknown names are an error.

        Raises:
            ValueError: an override is no field of the configuration, or contradicts another one.
        """
        short: Any = {
            name: value for name, value in overrides.items() if name in ("deformable", "num_anchors")
        }
        if short and "scan" not in overrides:
            overrides = {name: value for name, value in overrides.items() if name not in short}
            overrides["scan"] = replace(self.scan, **short)
        return with_overrides(self, overrides, also=("deformable", "num_anchors"))


BlockFactory = Callable[[int, float, TribridConfig], nn.Module]
"""Makes a block of a number of channels and a rate of stochastic depth, for a network of that kind."""

NO_BLOCK = "none"
"""What `TribridConfig.replaced` puts in the place of a block to leave it out."""


def _conv_block(dim: int, rate: float, config: TribridConfig) -> nn.Module:
    return ConvBlock(dim, rate, NORMS[config.norm])


def _gated_block(dim: int, rate: float, config: TribridConfig) -> nn.Module:
    return GatedConvBlock(dim, config.gated_expand, config.gated_kernel, rate, NORMS[config.mixer_norm])


def _dssm_block(dim: int, rate: float, config: TribridConfig) -> nn.Module:
    norm = NORMS[config.mixer_norm]
    return MixerBlock(
        dim, MambaMixer(dim, config.scan, config.expand, norm=norm), config.ffn_ratio, rate, norm
    )


def _mamba_block(dim: int, rate: float, config: TribridConfig) -> nn.Module:
    return _dssm_block(dim, rate, replace(config, scan=replace(config.scan, deformable=False)))


def _vim_block(dim: int, rate: float, config: TribridConfig) -> nn.Module:
    mixer = VimMixer(dim, config.scan, config.expand)
    return MixerBlock(dim, mixer, config.ffn_ratio, rate, NORMS[config.mixer_norm])


BLOCKS: dict[str, BlockFactory] = {
    "conv": _conv_block,
    "gated": _gated_block,
    "dssm": _dssm_block,
    "mamba": _mamba_block,
    "vim": _vim_block,
}
"""The blocks that a stage may list: "dssm" scans at deformable positions, "mamba" in raster order, "vim"
so from either end. A new block is an entry here."""


class Tribrid(nn.Module):
    """DF-Mamba's backbone.

    Args:
        config: the architecture.
        num_classes: size of a linear classifier on the pooled last map; 0 for none.
        drop_rate: dropout before the classifier.
        global_pool: one of `POOLS`; with "" the classifier is a 1x1 convolution.

    Shape: (B, in_chans, H, W) with H and W at least 32. Sizes that the strides don't divide are rounded up
    at each stage, as strided convolutions do.
    """

    def __init__(
        self, config: TribridConfig, num_classes: int = 0, drop_rate: float = 0.0, global_pool: str = "avg"
    ) -> None:
        super().__init__()
        self.config = config
        self.in_chans = config.in_chans
        self.drop_rate = drop_rate
        self.num_features = config.dims[-1]
        self.feature_info: Any = [
            {"num_chs": dim, "reduction": stride, "module": f"stages.{i}"}
            for i, (dim, stride) in enumerate(zip(config.dims, STRIDES, strict=True))
        ]
        self.grad_checkpointing = False
        norm = NORMS[config.norm]
        rates = iter(depth_rates(config.drop_path_rate, sum(config.depths)))
        self.stem = nn.Sequential(
            ConvNorm(config.in_chans, config.stem_dim, stride=2, norm=norm, act=True),
            ConvNorm(config.stem_dim, config.dims[0], stride=2, norm=norm, act=True),
        )
        self.downs = nn.ModuleList([nn.Identity()])
        self.stages = nn.ModuleList()
        for i, names in enumerate(config.stages):
            if i:
                self.downs.append(ConvNorm(config.dims[i - 1], config.dims[i], stride=2, norm=norm))
            kept = [config.replaced.get(n, n) for n in names]
            blocks = (BLOCKS[n](config.dims[i], next(rates), config) for n in kept if n != NO_BLOCK)
            self.stages.append(nn.Sequential(*blocks))
        self.norm = NORMS[config.mixer_norm](self.num_features)
        self.head_drop = nn.Dropout(drop_rate)
        self.init_weights()
        self.reset_classifier(num_classes, global_pool)

    def init_weights(self) -> None:
        """Truncated normal 1x1 convolutions, Kaiming others; state-space layers keep their own start."""
        if not DRAWING.get():
            return
        own = {
            id(p) for m in self.modules() if isinstance(m, DSSM | DeformableSampler) for p in m.parameters()
        }
        for module in self.modules():
            if not isinstance(module, nn.Conv2d) or id(module.weight) in own:
                continue
            if module.kernel_size == (1, 1):
                nn.init.trunc_normal_(module.weight, std=0.02 if self.num_features > 256 else 0.05)
            else:
                nn.init.kaiming_normal_(module.weight, mode="fan_out" if module.groups == 1 else "fan_in")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trades time for memory: recompute each block in the backward pass."""
        self.grad_checkpointing = enable

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier; 0 removes it. `global_pool=None` keeps the pooling."""
        if global_pool is not None:
            self.global_pool = GlobalPool(global_pool)
        self.num_classes = num_classes
        self.head_hidden_size = self.num_features * self.global_pool.factor
        head: nn.Module = nn.Identity()
        if num_classes > 0 and self.global_pool.pool_type:
            head = nn.Linear(self.head_hidden_size, num_classes)
        elif num_classes > 0:
            head = nn.Conv2d(self.head_hidden_size, num_classes, 1)
        like = next(self.parameters())
        self.head = head.to(like.device, like.dtype).train(self.training)

    def get_classifier(self) -> nn.Module:
        """The classifier, an identity where there is none."""
        return self.head

    def fuse(self) -> Tribrid:
        """A faster copy for inference, with the same outputs; see `dfmamba.layers.fuse`."""
        return fuse(self)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that group the parameters from input to output: by block, or by stage if `coarse`."""
        # timm: a number after a pattern ends the group's key, and 99999 joins the group before.
        fine = [(r"^downs\.(\d+)", (0,)), (r"^stages\.(\d+)\.(\d+)", None), (r"^norm", (99999,))]
        return {"stem": r"^stem", "blocks": r"^(?:downs|stages)\.(\d+)" if coarse else fine}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that must not decay."""
        return {
            f"{prefix}.{name}"
            for prefix, module in self.named_modules()
            if isinstance(module, DSSM)
            for name in module.no_weight_decay()
        }

    def _stage(self, i: int, x: Tensor) -> Tensor:
        x = self.downs[i](x)
        if self.grad_checkpointing and torch.is_grad_enabled():
            for block in self.stages[i].children():
                x = checkpoint(block, x, use_reentrant=False)
            return x
        return self.stages[i](x)

    def _run(self, x: Tensor, wanted: Collection[int], last: int, norm: bool) -> tuple[Tensor, list[Tensor]]:
        """Stages up to `last`: the final map (normed if it is the network's last) and the wanted ones."""
        x = checked_image(x, self.in_chans)
        # Channels next to each other: the order that norms, projections and the scan work in.
        final = x = self.stem(x.contiguous(memory_format=torch.channels_last))
        maps = []
        for i in range(last + 1):
            x = self._stage(i, x)
            final = self.norm(x) if i == len(self.stages) - 1 else x
            if i in wanted:
                maps.append(final if norm else x)
        return final, maps

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Maps of the chosen stages beside the last one.

        Args:
            x: pictures (B, in_chans, H, W).
            indices: all stages if None, the last n for a number n, else a list (-1 is the last one).
            norm: apply the final norm to the last stage's map, as `forward_features` does.
            stop_early: don't run the stages after the last chosen one.
            output_fmt: "NCHW".
            intermediates_only: leave the first result out (and the stages that only it needs).

        Returns:
            The final map, (B, num_features, H/32, W/32) or that of the stage it stopped at, and the chosen
            maps, finest first.

        Raises:
            ValueError: a picture below 32 pixels or of other channels; an unusable index or format.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        wanted = chosen_maps(indices, len(self.stages), "indices")
        last = wanted[-1] if stop_early or intermediates_only else len(self.stages) - 1
        final, maps = self._run(x, wanted, last, norm)
        return maps if intermediates_only else (final, maps)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Deletes what the chosen maps don't need; norm and classifier always go with the last stage.

        Takes the indices of `forward_intermediates`; returns them counted from the first stage, in order.
        """
        taken = chosen_maps(indices, len(self.stages), "indices")
        end = taken[-1] + 1
        shorter = end < len(self.stages)
        if prune_norm or shorter:
            self.norm = nn.Identity()
        if shorter:
            del self.stages[end:]
            del self.downs[end:]
            self.num_features = self.feature_info[taken[-1]]["num_chs"]
        if prune_head or shorter:
            self.reset_classifier(0, "")
        return taken

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, (B, num_features, H/32, W/32)."""
        return self._run(x, (), len(self.stages) - 1, True)[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Class scores (B, num_classes) of a last map, or the classifier's input (B, head_hidden_size)."""
        x = self.head_drop(self.global_pool(x))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class TribridFeatures(Tribrid):
    """The tribrid backbone as a feature extractor: returns the maps of `out_indices`, finest first.

    Args:
        config: the architecture.
        out_indices: stages (-1 is the last one), or a number of last stages. Stages after the last chosen one
            aren't kept. The map of the network's last stage is normed.
    """

    def __init__(self, config: TribridConfig, out_indices: int | Sequence[int] = (0, 1, 2, 3)) -> None:
        self.out_indices = tuple(chosen_maps(out_indices, 4, "out_indices"))
        super().__init__(config)
        self.feature_info = FeatureInfo(self.feature_info, self.out_indices)
        self.prune_intermediate_layers(self.out_indices)

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        return self._run(x, self.out_indices, self.out_indices[-1], True)[1]


BACKBONES: dict[str, TribridConfig] = {
    "dfmamba_tiny": TribridConfig(
        dims=(64, 128, 304, 608),
        stem_dim=32,
        stages=(
            ("conv",) * 2,
            ("conv",) * 3,
            ("dssm", "gated") * 4,
            ("dssm", "gated") * 2,
        ),
        scan=DSSMConfig(d_state=1),
    ),
    "dfmamba_nano": TribridConfig(
        dims=(32, 64, 128, 192),
        stem_dim=16,
        stages=(("conv",), ("conv",) * 2, ("dssm", "gated") * 2, ("dssm", "gated")),
        scan=DSSMConfig(d_state=1),
        ffn_ratio=2.0,
        gated_expand=2.0,
        gated_kernel=5,
    ),
    "dfmamba_test": TribridConfig(
        dims=(8, 8, 16, 16),
        stem_dim=4,
        stages=(("conv",), ("conv",), ("dssm", "gated"), ("dssm",)),
        ffn_ratio=1.0,
        gated_expand=1.0,
        gated_kernel=3,
    ),
}
"""Ours: `dfmamba_tiny` for accuracy (25 M parameters, 4.9 G multiply-adds at 256 x 256), `dfmamba_nano` for a
CPU, and `dfmamba_test` for tests."""
