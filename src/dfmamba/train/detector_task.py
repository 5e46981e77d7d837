"""Training the hand detector on composed scenes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dfmamba.heads.detector import DetectorHead, DetectorLossConfig, detector_loss
from dfmamba.models import MODELS, HandPoseModel
from dfmamba.train.detector_pool import DetectorRun


class DetectorTask:
    """A detector of `dfmamba.models.MODELS` and its loss on the pictures of `dfmamba.train.detector_pool`.

    Args:
        config: the run.
        weights: of the loss.

    Raises:
        ValueError: unknown model, or one that is no detector.
    """

    def __init__(self, config: DetectorRun, weights: DetectorLossConfig | None = None) -> None:
        known = [name for name, model in MODELS.items() if model.detects]
        if config.model not in known:
            raise ValueError(f"model {config.model!r} is no detector; known: {', '.join(sorted(known))}")
        self.config, self.weights = config, weights or DetectorLossConfig()
        self.stride = 0

    def build(self) -> HandPoseModel:
        """The model with random weights."""
        model = HandPoseModel(MODELS[self.config.model])
        assert isinstance(model.head, DetectorHead)
        self.stride = model.head.stride
        return model

    def loss(self, output: Any, target: dict[str, Tensor]) -> dict[str, Tensor]:
        """All terms of `detector_loss`."""
        return detector_loss(output, target, self.stride, self.weights)
