"""VMamba: state-space blocks that scan a map along four routes.

Source: Liu et al., "VMamba: Visual State Space Model", NeurIPS 2024 (arXiv 2401.10166), in the version of
its final tables ("s1l8": inner width 1, eight blocks in the third stage, one state, no gate). One of the
backbones that DF-Mamba is compared with, behind the interface of our own; strides are 4, 8, 16 and 32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dfmamba.backbones.blocks import MixerBlock
from dfmamba.backbones.cross_scan import ROUTES, CrossScanMixer
from dfmamba.backbones.dssm import DSSM, DSSMConfig
from dfmamba.backbones.features import FeatureInfo, chosen_maps
from dfmamba.layers import LayerNorm2d, Pointwise

STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class VMambaConfig:
    """Everything that defines a VMamba backbone.

    Attributes:
        dims: channels of the four stages.
        depths: blocks of the four stages.
        d_state: states per channel.
        expand: inner width of the state-space layers relative to their input.
        ffn_ratio: width of the FFN after each of them.
        in_chans: channels of the picture.
        drop_path_rate: stochastic depth of the last block; earlier ones grow linearly from 0. VMamba-T was
            trained with 0.2.
    """

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    d_state: int = 1
    expand: float = 1.0
    ffn_ratio: float = 4.0
    in_chans: int = 3
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("dims", "depths"):
            values = tuple(getattr(self, name))
            if len(values) != 4 or min(values) < 1:
                raise ValueError(f"{name} needs four entries of at least 1, got {values}")
            object.__setattr__(self, name, values)
        if self.dims[0] % 2:
            raise ValueError(f"dims must start with an even number, whose half the stem has, got {self.dims}")
        for name in ("d_state", "in_chans"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("expand", "ffn_ratio"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise ValueError(f"drop_path_rate must lie in [0, 1), got {self.drop_path_rate}")

    def with_overrides(self, **overrides: Any) -> VMambaConfig:
        """A changed copy.

        Raises:
            ValueError: an override is no field of the configuration, or unusable.
        """
        known = [f.name for f in fields(self)]
        unknown = sorted(set(overrides) - set(known))
        if unknown:
            raise ValueError(f"unknown backbone argument {unknown[0]!r}; known: {', '.join(known)}")
        return replace(self, **overrides)


VMAMBAS: dict[str, VMambaConfig] = {
    "vmamba_tiny": VMambaConfig(dims=(96, 192, 384, 768), depths=(2, 2, 8, 2)),
    "vmamba_nano": VMambaConfig(dims=(32, 64, 112, 144), depths=(2, 2, 5, 2)),
}
"""The published size T, and a small one of ours, within 3 % of `dfmamba_nano` in parameters and multiply-adds
at 256 x 256 pixels."""


def _halved(before: int, after: int) -> list[nn.Module]:
    """Half the size, rounded up, by a convolution, and a norm."""
    return [nn.Conv2d(before, after, 3, 2, padding=1), LayerNorm2d(after)]


class VMamba(nn.Module):
    """VMamba as a feature extractor: returns the maps of `out_indices`, finest first.

    Each map goes through a layer norm of its own, as in the paper's detectors.

    Args:
        config: the architecture.
        out_indices: stages (-1 is the last one), or a number of last stages. Stages after the last chosen one
            aren't kept.

    Shape: (B, in_chans, H, W) with H and W at least 32. Sizes that the strides don't divide are rounded up at
    each stage.
    """

    def __init__(self, config: VMambaConfig, out_indices: int | Sequence[int] = (0, 1, 2, 3)) -> None:
        super().__init__()
        self.config = config
        self.out_indices = tuple(chosen_maps(out_indices, len(STRIDES), "out_indices"))
        info = [
            {"num_chs": dim, "reduction": stride, "module": f"stages.{i}"}
            for i, (dim, stride) in enumerate(zip(config.dims, STRIDES, strict=True))
        ]
        self.feature_info = FeatureInfo(info, self.out_indices)
        self.grad_checkpointing = False
        rates = iter(torch.linspace(0.0, config.drop_path_rate, sum(config.depths)).tolist())
        scan = DSSMConfig(d_state=config.d_state, deformable=False)
        half = config.dims[0] // 2
        self.stem = nn.Sequential(*_halved(config.in_chans, half), nn.GELU(), *_halved(half, config.dims[0]))
        self.downs = nn.ModuleList([nn.Identity()])
        self.stages = nn.ModuleList()
        for i in range(self.out_indices[-1] + 1):
            dim = config.dims[i]
            if i:
                self.downs.append(nn.Sequential(*_halved(config.dims[i - 1], dim)))
            blocks = (
                MixerBlock(
                    dim, CrossScanMixer(dim, scan, config.expand), config.ffn_ratio, next(rates), LayerNorm2d
                )
                for _ in range(config.depths[i])
            )
            self.stages.append(nn.Sequential(*blocks))
        self.norms = nn.ModuleList(LayerNorm2d(config.dims[i]) for i in self.out_indices)
        self.init_weights()

    def init_weights(self) -> None:
        """Truncated normal projections; other convolutions and the scans keep their own start."""
        for module in self.modules():
            if isinstance(module, Pointwise):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trades time for memory: recompute each block in the backward pass."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that must not decay."""
        kept = {
            f"{prefix}.{name}"
            for prefix, module in self.named_modules()
            if isinstance(module, DSSM)
            for name in module.no_weight_decay()
        }
        return kept & {name for name, _ in self.named_parameters()}

    def forward(self, x: Tensor) -> list[Tensor]:
        chans = self.config.in_chans
        if x.ndim != 4 or x.shape[1] != chans or min(x.shape[2:]) < STRIDES[-1]:
            raise ValueError(
                f"expected a picture (B, {chans}, H, W) with H and W at least 32, got {tuple(x.shape)}"
            )
        # Channels next to each other: the order that norms, projections and the scan work in.
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        recompute = self.grad_checkpointing and torch.is_grad_enabled()
        maps = []
        for down, stage in zip(self.downs, self.stages, strict=True):
            x = down(x)
            for block in stage.children():
                x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
            maps.append(x)
        return [norm(maps[i]) for i, norm in zip(self.out_indices, self.norms, strict=True)]


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
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected weights in safetensors format")
    try:
        found = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
    own = {n: value for n, value in backbone.state_dict().items() if not n.startswith("norms.")}
    chans, first = backbone.config.in_chans, "patch_embed.0.weight"
    if first in found and found[first].ndim == 4 and found[first].shape[1] == 3 != chans:
        # The sum over the channels stays that of the colours, so that activations keep their size.
        colours = found[first][:, [i % 3 for i in range(chans)]] * (3 / chans)
        found[first] = found[first].sum(1, keepdim=True) if chans == 1 else colours
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
    broken = [name for name in own if not bool(torch.isfinite(state[name]).all())]
    if broken:
        raise ValueError(f"{path}: {broken[0]} holds values that are not finite")
    backbone.load_state_dict({name: state[name] for name in own}, strict=False)
