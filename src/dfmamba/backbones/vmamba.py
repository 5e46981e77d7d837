"""VMamba: state-space blocks that scan a map along four routes.

Source: Liu et al., "VMamba: Visual State Space Model", NeurIPS 2024 (arXiv 2401.10166), in the version of
its final tables ("s1l8": inner width 1, eight blocks in the third stage, one state, no gate). One of the
backbones that DF-Mamba is compared with, behind the interface of our own; strides are 4, 8, 16 and 32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from dfmamba.backbones.dfmamba import DSSM, DSSMConfig, MixerBlock
from dfmamba.backbones.features import for_channels, read_weights, require_finite
from dfmamba.backbones.staged import StagedConfig, StagedFeatures
from dfmamba.layers import LayerNorm2d, Pointwise

ROUTES = 4
"""Of the cross-scan: by rows, by columns, and both from the last token to the first."""


class CrossScan(nn.Module):
    """SS2D: sum of four scans, by rows, by columns, and both backwards, each with its own parameters.

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


@dataclass(frozen=True, kw_only=True)
class VMambaConfig(StagedConfig):
    """Everything that defines a VMamba backbone; see `StagedConfig`.

    VMamba-T was trained with `drop_path_rate` 0.2.

    Attributes:
        expand: see `StagedConfig`.
        d_state: states per channel.
    """

    expand: float = 1.0
    d_state: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dims[0] % 2:
            raise ValueError(f"dims must start with an even number, whose half the stem has, got {self.dims}")
        if self.d_state < 1:
            raise ValueError(f"d_state must be at least 1, got {self.d_state}")


VMAMBAS: dict[str, VMambaConfig] = {
    "vmamba_tiny": VMambaConfig(dims=(96, 192, 384, 768), depths=(2, 2, 8, 2)),
    "vmamba_nano": VMambaConfig(dims=(32, 64, 112, 144), depths=(2, 2, 5, 2)),
}
"""The published size T, and a small one of ours, within 3 % of `dfmamba_nano` in parameters and multiply-adds
at 256 x 256 pixels."""


def _halved(before: int, after: int) -> list[nn.Module]:
    """Half the size, rounded up, by a convolution, and a norm."""
    return [nn.Conv2d(before, after, 3, 2, padding=1), LayerNorm2d(after)]


class VMamba(StagedFeatures):
    """VMamba as a feature extractor; see `StagedFeatures`.

    Args:
        config: the architecture.
        out_indices: chosen stages.
    """

    config: VMambaConfig

    def __init__(self, config: VMambaConfig, out_indices: int | Sequence[int] = (0, 1, 2, 3)) -> None:
        half, dim = config.dims[0] // 2, config.dims[0]
        scan = DSSMConfig(d_state=config.d_state, deformable=False)

        def block(dim: int, drop_path: float) -> nn.Module:
            mixer = CrossScanMixer(dim, scan, config.expand)
            return MixerBlock(dim, mixer, config.ffn_ratio, drop_path, LayerNorm2d)

        super().__init__(
            config,
            out_indices,
            nn.Sequential(*_halved(config.in_chans, half), nn.GELU(), *_halved(half, dim)),
            lambda before, after: nn.Sequential(*_halved(before, after)),
            block,
        )


_STEM = {"0": "stem.0", "2": "stem.1", "5": "stem.3", "7": "stem.4"}
_DOWN = {"1": "0", "3": "1"}
_PARTS = {
    "norm": "norm1",
    "norm2": "norm2",
    "mlp.fc1": "ffn.0",
    "mlp.fc2": "ffn.2",
    "op.in_proj": "mixer.in_proj",
    "op.conv2d": "mixer.conv",
    "op.out_norm": "mixer.norm",
    "op.out_proj": "mixer.out_proj",
}
_ROUTED = {
    "x_proj_weight": "x_proj.weight",
    "dt_projs_weight": "dt_proj.weight",
    "dt_projs_bias": "dt_bias",
    "A_logs": "A_log",
    "Ds": "D",
}
"""Parameters that the release keeps for all four routes in one tensor, route after route."""


def _translated(name: str) -> str | None:
    """Our name of a published tensor, with `{}` for the route where it holds all; None if we lack it."""
    if match := re.fullmatch(r"patch_embed\.(\d)\.(weight|bias)", name):
        return f"{_STEM[match[1]]}.{match[2]}" if match[1] in _STEM else None
    if match := re.fullmatch(r"layers\.(\d)\.downsample\.(\d)\.(weight|bias)", name):
        return f"downs.{int(match[1]) + 1}.{_DOWN[match[2]]}.{match[3]}" if match[2] in _DOWN else None
    if match := re.fullmatch(r"layers\.(\d+\.)blocks\.(\d+)\.op\.(\w+)", name):
        own = _ROUTED.get(match[3])
        return own and f"stages.{match[1]}{match[2]}.mixer.scan.routes.{{}}.{own}"
    if match := re.fullmatch(r"layers\.(\d+\.)blocks\.(\d+)\.(.+)\.(weight|bias)", name):
        own = _PARTS.get(match[3])
        return own and f"stages.{match[1]}{match[2]}.{own}.{match[4]}"
    return None


def _renamed(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published tensors under our names and, where only axes of length 1 differ, in our shapes."""
    state: dict[str, Tensor] = {}
    for published, value in found.items():
        name = _translated(published)
        if name is None:
            continue
        if "{}" not in name:
            state[name] = value
        elif value.ndim and value.shape[0] % ROUTES == 0:
            for route, part in enumerate(value.chunk(ROUTES)):
                # (4, ...) tensors keep an axis of length 1, (4 C, ...) ones don't
                state[name.format(route)] = part[0] if value.shape[0] == ROUTES else part
    for name, value in state.items():
        if name in own and [n for n in value.shape if n > 1] == [n for n in own[name].shape if n > 1]:
            state[name] = value.reshape(own[name].shape)
    return state


def load_peer_weights(backbone: VMamba, path: str | Path) -> None:
    """Fills in the published weights of VMamba from a safetensors file with the names of its release.

    Classifiers and stages that the backbone lacks are ignored; the norms of maps keep what they have. The
    first convolution is adapted to other than three channels. A checkpoint of the release becomes such a file
    by ``save_file(torch.load(PTH, weights_only=True)["model"], OUT)``.

    Raises:
        OSError: no such file.
        ValueError: the file is damaged, or of another network.
    """
    path = Path(path)
    found = read_weights(path)
    own = {n: value for n, value in backbone.state_dict().items() if not n.startswith("norms.")}
    chans, first = backbone.config.in_chans, "patch_embed.0.weight"
    if first in found and found[first].ndim == 4 and found[first].shape[1] == 3 != chans:
        found[first] = for_channels(found[first], chans)
    state = _renamed(found, own)
    wrong = [name for name, value in own.items() if name not in state or state[name].shape != value.shape]
    extra = sorted(
        name for name in state if name not in own and int(name.split(".")[1]) < len(backbone.stages)
    )
    if wrong or extra:
        raise ValueError(
            f"{path}: weights of another network than this VMamba: {len(wrong)} tensors missing or of "
            f"another shape, {len(extra)} too many (first: {(wrong + extra)[0]})"
        )
    require_finite(state, own, path)
    backbone.load_state_dict({name: state[name] for name in own}, strict=False)
