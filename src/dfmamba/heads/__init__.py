"""Anchor-to-joint heads: from feature maps to two hands in 2.5D, and their losses."""

from __future__ import annotations

from .build import build_head, head_config
from .config import HeadConfig
from .head import AnchorToJoint
from .losses import LossConfig, pose_loss
from .output import HandPoseOutput, LayerOutput

__all__ = [
    "AnchorToJoint",
    "HandPoseOutput",
    "HeadConfig",
    "LayerOutput",
    "LossConfig",
    "build_head",
    "head_config",
    "pose_loss",
]
