"""Training a model of the predictor on synthetic hands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from dfmamba.heads import HeadConfig, LossConfig, pose_loss
from dfmamba.models import MODELS, HandPoseModel
from dfmamba.train.config import TrainConfig


class PoseTask:
    """A model of `dfmamba.models.MODELS` and its loss on crops of `dfmamba.train.pool`.

    Args:
        config: the run.

    Raises:
        ValueError: unknown model, or setting of its backbone.
    """

    def __init__(self, config: TrainConfig) -> None:
        if config.model not in MODELS:
            raise ValueError(f"unknown model {config.model!r}; known: {', '.join(sorted(MODELS))}")
        model = MODELS[config.model]
        self.model = replace(model, backbone_args={**model.backbone_args, **config.backbone_args})
        self.loss_config = loss_settings(config)

    def build(self) -> HandPoseModel:
        """The model with random weights."""
        return HandPoseModel(self.model)

    def loss(self, output: Any, target: dict[str, Tensor]) -> dict[str, Tensor]:
        """All terms of `dfmamba.heads.pose_loss`."""
        return pose_loss(output, target, self.loss_config)


def loss_settings(config: TrainConfig) -> LossConfig:
    """The loss with the scales of the crops that this run trains on."""
    head = MODELS[config.model].head
    assert isinstance(head, HeadConfig)
    size = config.crop or head.image_size
    depth = head.depth_extent * size / head.image_size if head.depth_unit == "px" else head.depth_extent
    return replace(config.loss, image_size=float(size), depth_range=depth)
