"""The deformable state-space layer: `deformable_sample` and `selective_scan` with their parameters.

Source: DF-Mamba (arXiv 2512.02727), Fig. 2b. Where the paper is silent this follows `docs/method.md`: step,
input and output maps come from the undeformed features, the sampled sum enters through a residual and a norm,
and the anchor weights depend on the input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dfmamba.layers import Pointwise
from dfmamba.ops import anchor_grid, deformable_sample, selective_scan


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
        centre = torch.zeros(k)
        centre[k // 2] = 1.0
        if not self.dynamic:
            start = torch.full((k,), 1.0 / k) if config.residual else centre
            self.weight = nn.Parameter(start.expand(dim, k).clone())
        self.start = torch.full((k,), 1.0 / k) if config.residual else centre
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
                last.bias[self.groups * self.num_anchors * 2 :] = self.start.repeat(self.groups)

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
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Mamba's initialisation: A = -(1..N), D = 1, steps log-uniform in [1e-3, 1e-1]."""
        with torch.no_grad():
            self.A_log.copy_(torch.arange(1, self.config.d_state + 1).log().expand_as(self.A_log))
            self.D.fill_(1.0)
            nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
            step = torch.exp(torch.empty_like(self.dt_bias).uniform_(math.log(1e-3), math.log(1e-1)))
            self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that must not decay."""
        return {"A_log", "D", "dt_bias", "sampler.anchors", "sampler.weight"}

    def forward(self, x: Tensor) -> Tensor:
        u = x
        if self.sampler is not None:
            sampled = self.sampler(x)
            u = x + sampled if self.config.residual else sampled
            if self.norm is not None:
                u = self.norm(u)
        source = x if self.config.params_from == "x" else u
        routes = [(False, False), (False, True), (True, False), (True, True)][: self.config.directions]
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
        # As rows of channels, which is how the maps lie in memory and what the scan reads without copies.
        projected = F.linear(source.transpose(1, 2), self.x_proj.weight.flatten(1))
        dt, B, C = projected.split((self.rank, self.config.d_state, self.config.d_state), dim=2)
        y = selective_scan(
            tokens,
            F.linear(dt, self.dt_proj.weight.flatten(1)).transpose(1, 2),
            self.decay_rates(),
            B.transpose(1, 2),
            C.transpose(1, 2),
            D=self.D,
            delta_bias=self.dt_bias,
            delta_softplus=True,
        )
        assert isinstance(y, Tensor)
        if backwards != self.config.reverse:
            y = y.flip(-1)
        y = y.reshape(*y.shape[:2], *size)
        return y.transpose(2, 3) if columns else y

    def decay_rates(self) -> Tensor:
        """A of the scan, (C, N), negative."""
        return -torch.exp(self.A_log.float()) if self.A is None else self.A

    def freeze_constants(self) -> None:
        """Computes A once, for inference."""
        self.A = self.decay_rates().detach()
