"""How weights move: schedules, parameter groups, optimisers, the average of the weights."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dfmamba.models import HandPoseModel
from dfmamba.train.config import RunConfig
from dfmamba.train.parallel import local

_INPUT = re.compile(r"(?:body\.)?(?:stem|patch_embed|pos_embed|cls_token|conv1|bn1)\b")
_NUMBERED = re.compile(r"(?:body\.)?(?:stages|downs|layers|blocks)\.(\d+)\.")
_RESNET = re.compile(r"(?:body\.)?layer(\d+)\.")


def learning_rate(config: RunConfig, step: int) -> float:
    """Linear warm-up, then a cosine to a hundredth of the peak, or steps."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "step":
        return config.lr * config.gamma ** sum(step >= milestone for milestone in config.milestones)
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives each group its share of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def depth_in_backbone(name: str) -> int | None:
    """How far from the input a parameter of a backbone lies.

    Args:
        name: within the backbone, of ours or of timm's.

    Returns:
        0 for the stem, i + 1 for stage i (of a plain vision transformer: block i), None for what belongs to
        the last stage, such as final norms.
    """
    if _INPUT.match(name):
        return 0
    if found := _NUMBERED.match(name):
        return int(found[1]) + 1
    if found := _RESNET.match(name):
        return int(found[1])
    return None


def layer_scales(model: HandPoseModel, layer_decay: float) -> dict[str, float]:
    """Factor of the learning rate for each parameter by name.

    The head has 1, the last stage of the backbone `layer_decay`, each stage before it that much less
    (Clark et al., ELECTRA, ICLR 2020; Bao et al., BEiT, ICLR 2022).
    """
    prefix = "backbone."
    names = [name for name, _ in model.named_parameters()]
    depths = {n: depth_in_backbone(n[len(prefix) :]) for n in names if n.startswith(prefix)}
    last = max((depth for depth in depths.values() if depth is not None), default=0)
    scales = dict.fromkeys(names, 1.0)
    for name, depth in depths.items():
        scales[name] = layer_decay ** (last + 1 - (last if depth is None else depth))
    return scales


def parameter_groups(
    model: HandPoseModel, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Decays matrices and kernels; norms, biases and state-space parameters don't decay.

    Each group has its "lr_scale", see `layer_scales`. Without `layer_decay` there are two groups.
    """
    backbone: Any = model.backbone
    kept = {f"backbone.{name}" for name in backbone.no_weight_decay()}
    scales = layer_scales(model, layer_decay)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and name not in kept
            groups.setdefault((scales[name], decays), []).append(parameter)
    return [
        {"params": members, "weight_decay": weight_decay if decays else 0.0, "lr_scale": scale}
        for (scale, decays), members in groups.items()
    ]


def build_optimizer(config: RunConfig, model: HandPoseModel) -> torch.optim.Optimizer:
    """The optimiser of a run; see `RunConfig.optimizer`."""
    if config.optimizer == "adamw":
        groups = parameter_groups(model, config.weight_decay, config.layer_decay)
        return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.99), fused=config.sharding != "fsdp")
    scales = layer_scales(model, config.layer_decay)
    members: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members.setdefault(scales[name], []).append(parameter)
    parts = [{"params": params, "lr_scale": scale} for scale, params in members.items()]
    return torch.optim.Adam(parts, lr=config.lr, weight_decay=config.weight_decay)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Exponential moving average of parameters and running statistics, in `average`.

    A statistic that is not finite (the square of one huge activation overflows, and no later batch mends it)
    is set back to its average in both models.
    """
    old, new = list(map(local, average.parameters())), list(map(local, model.parameters()))
    counts: list[tuple[Tensor, Tensor]] = []
    statistics: list[tuple[Tensor, Tensor]] = []
    for kept, value in zip(average.buffers(), model.buffers(), strict=True):
        (statistics if value.is_floating_point() else counts).append((kept, value))
    if statistics and not _finite([value for _, value in statistics]):
        for kept, value in statistics:
            value.copy_(torch.where(torch.isfinite(value), value, kept))
    torch._foreach_lerp_(
        [*old, *(kept for kept, _ in statistics)], [*new, *(value for _, value in statistics)], 1 - decay
    )
    for kept, value in counts:
        kept.copy_(value)


def _finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all values are finite, with one wait for the device."""
    return bool(torch.isfinite(torch.stack([t.abs().amax().float() for t in tensors])).all())
