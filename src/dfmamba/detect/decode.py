"""From the detector's map to detections."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from dfmamba.hands.affine import Affine
from dfmamba.hands.detection import Detection, suppress
from dfmamba.heads.detector import boxes_of_map

LEAST_SCORE = 0.05
"""Detections below this are never reported."""

MOST_SURE = 1 - 1e-6
"""So that logits stay finite."""

MOST = 30
"""Detections of one picture before suppression."""


def decode(
    maps: Tensor, stride: int, affines: list[Affine], least: float = LEAST_SCORE
) -> list[list[Detection]]:
    """The hands of a batch of pictures: cells that score higher than their eight neighbours.

    Args:
        maps: (B, 5, H, W) of `dfmamba.heads.detector.DetectorHead`.
        stride: pixels of a cell.
        affines: the maps from each picture's pixels to those of the detector's square; upright ones.
        least: lowest score.

    Returns:
        For each picture its detections in its own pixels, by falling score.
    """
    scores = maps[:, :1].sigmoid()
    peaks = scores * (F.max_pool2d(scores, 3, 1, 1) == scores)
    boxes = boxes_of_map(maps, stride)
    found = []
    for score, box, affine in zip(peaks[:, 0], boxes, affines, strict=True):
        values, places = score.flatten().topk(min(MOST, score.numel()))
        back = affine.inverse()
        chosen = box.flatten(1)[:, places].T.double().cpu().numpy().reshape(-1, 2, 2)
        corners = back.apply(chosen).reshape(-1, 4)
        likely = [
            Detection(corner, min(float(value), MOST_SURE))
            for corner, value in zip(corners, values.tolist(), strict=True)
            if value >= least
        ]
        found.append(suppress(likely))
    return found
