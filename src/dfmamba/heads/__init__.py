"""Anchor-to-joint heads: from feature maps to two hands in 2.5D, and their losses."""

from __future__ import annotations

from dfmamba.heads.build import HEADS, AnchorToJoint, build_head, head_config, register_head
from dfmamba.heads.config import HandPoseOutput, HeadConfig, LayerOutput
from dfmamba.heads.losses import LossConfig, pose_loss

__all__ = [
    "HEADS",
    "AnchorToJoint",
    "HandPoseOutput",
    "HeadConfig",
    "LayerOutput",
    "LossConfig",
    "build_head",
    "head_config",
    "pose_loss",
    "register_head",
]
