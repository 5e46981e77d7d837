"""The detector that ships with the package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from dfmamba.detect.decode import decode
from dfmamba.hands.affine import box_iou, crop_affine, picture_square, square_box
from dfmamba.hands.crop import warp_image
from dfmamba.hands.detection import Detection, suppress
from dfmamba.machine import check_device
from dfmamba.models import load
from dfmamba.models.native import inference_form

NAME = "detector"
"""Of the packaged weights."""

WORTH = 0.22
"""Hands of the first look that score higher are looked at again."""

MOST_AGAIN = 8
"""How many of them."""

AGAIN_FACTOR = 3.2
"""Side of the second look relative to the hand's box: hands large and small are seen alike there."""

SAME = 0.3
"""Overlap from which the second look shows the same hand."""

UNSEEN = 0.12
"""What the second look says of a hand that it doesn't show."""


class NetworkDetector:
    """Finds hands with a network trained by `dfmamba train-detector`.

    Args:
        model: a `HandPoseModel` with a detector head, or the name or folder of one.
        device: a torch device.

    Raises:
        OSError: no such model.
        ValueError: the model is no detector, or its weights can't be used.
    """

    def __init__(self, model: nn.Module | str = NAME, device: str | torch.device = "cpu") -> None:
        network: Any = model if isinstance(model, nn.Module) else load(model)
        if not network.config.detects:
            raise ValueError(f"model {network.config.name!r} is no detector of hands")
        self.stride = network.head.stride
        self.image_size = int(network.config.image_size)
        self.device = check_device(str(device))
        self.model = inference_form(network, self.device).eval()

    def detect(self, pictures: Sequence[np.ndarray]) -> list[list[Detection]]:
        """See `dfmamba.detect.Detector.detect`: a look at the whole picture, then one around each hand.

        A hand's score is the mean of both looks' (of their logits), its box the second one's.

        Raises:
            ValueError: the network's output is not finite.
        """
        found = []
        for picture in pictures:
            (first,) = self._look(picture, [picture_square((picture.shape[1], picture.shape[0]))])
            worth = [one for one in first if one.score >= WORTH][:MOST_AGAIN]
            again = self._look(picture, [square_box(one.box_xyxy, AGAIN_FACTOR) for one in worth])
            found.append(suppress([confirmed(one, near) for one, near in zip(worth, again, strict=True)]))
        return found

    def _look(self, picture: np.ndarray, squares: Sequence[np.ndarray]) -> list[list[Detection]]:
        if not squares:
            return []
        affines = [crop_affine(square, self.image_size) for square in squares]
        crops = np.stack([warp_image(picture, affine, self.image_size) for affine in affines])
        x = torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).float() / 255.0
        with torch.inference_mode():
            maps = self.model(x).float()
        if not bool(torch.isfinite(maps).all()):
            raise ValueError("detector: the output is not finite; are the weights damaged?")
        return decode(maps, self.stride, affines)


def confirmed(first: Detection, near: Sequence[Detection]) -> Detection:
    """A hand of the first look after the second one, which shows `near`."""
    same = [one for one in near if box_iou(first.box_xyxy, one.box_xyxy) > SAME]
    best = max(same, key=lambda one: one.score, default=None)
    box, score = (first.box_xyxy, UNSEEN) if best is None else (best.box_xyxy, best.score)
    logit = (math.log(first.score / (1 - first.score)) + math.log(score / (1 - score))) / 2
    return Detection(box, 1 / (1 + math.exp(-logit)))
