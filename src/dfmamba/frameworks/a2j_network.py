"""Network and loss of A2J-Transformer (Jiang et al., CVPR 2023), the same for pictures and depth maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from dfmamba.frameworks.base import Framework
from dfmamba.heads import HeadConfig, LossConfig
from dfmamba.models import ModelConfig

STAGES = (1, 2, 3)
"""The backbone's maps that the head gets: strides 8, 16 and 32 (or 16 again, dilated)."""

AnchorTau: TypeAlias = Literal["code", "paper"]
"""Threshold of the anchor term in depth: 1 as released, 3 as printed."""

AnchorTarget: TypeAlias = Literal["truth", "prediction"]
"""What the anchors shall surround: the labelled joint or the estimate; the paper leaves it open."""


def published_loss(image_size: float, depth_range: float, tau: AnchorTau, target: AnchorTarget) -> LossConfig:
    """The published weights and thresholds; confidences and presence aren't trained.

    Args:
        image_size: pixels that count as 256 bins.
        depth_range: mm that count as 256 bins.
        tau: see `AnchorTau`.
        target: see `AnchorTarget`.

    Raises:
        ValueError: unknown `tau` or `target`.
    """
    if tau not in ("code", "paper"):
        raise ValueError(f"anchor_tau is {tau!r}; use 'code' or 'paper'")
    return LossConfig(
        image_size=image_size,
        depth_range=depth_range,
        joint=3.0,
        anchor=1.0,
        confidence=0.0,
        presence=0.0,
        tau_xy=1.0,
        tau_z=3.0,
        anchor_tau_z=1.0 if tau == "code" else 3.0,
        anchor_target=target,
    )


def network(
    framework: Framework,
    head: HeadConfig,
    backbone: str,
    backbone_args: Mapping[str, Any],
    in_chans: int = 3,
    input_scale: float = 1.0,
    input_shift: float = 0.0,
) -> ModelConfig:
    """The head on a backbone. ResNet-50's last stage is dilated as published unless `output_stride` differs.

    Raises:
        ValueError: unknown backbone or argument.
    """
    if backbone == "resnet50":
        backbone_args = {"output_stride": 16, **backbone_args}
    return ModelConfig(
        name=f"{framework.NAME}_{backbone}",
        backbone=backbone,
        backbone_args=backbone_args,
        out_indices=STAGES,
        in_chans=in_chans,
        head=head,
        input_scale=input_scale,
        input_shift=input_shift,
        framework=framework.to_dict(),
    )
