"""Boxes around hands, and what every detector promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from dfmamba.hands.affine import box_iou


@dataclass(frozen=True, eq=False)
class Detection:
    """A hand's place.

    Attributes:
        box_xyxy: (4,) around the hand's 21 joints, in pixels of the picture; may reach beyond it.
        score: that a hand is there, 0..1.
        side: "right", "left" (anatomical, of the unmirrored picture), or None where the detector doesn't say.
    """

    box_xyxy: np.ndarray
    score: float = 1.0
    side: str | None = None


class Detector(Protocol):
    """Finds the boxes of hands in whole pictures."""

    def detect(self, pictures: Sequence[np.ndarray]) -> list[list[Detection]]:
        """The hands of each picture (H, W, 3) uint8 RGB, unmirrored; none is an empty list."""
        ...


def suppress(found: Sequence[Detection], most_iou: float = 0.5) -> list[Detection]:
    """The likelier of any two detections whose boxes overlap more than this, by falling score."""
    kept: list[Detection] = []
    for one in sorted(found, key=lambda detection: -detection.score):
        if all(box_iou(one.box_xyxy, other.box_xyxy) <= most_iou for other in kept):
            kept.append(one)
    return kept


def merge_overlapping(boxes: Sequence[np.ndarray], iou: float) -> list[np.ndarray]:
    """One box around those that overlap more than this, for hands that are looked at together."""
    merged = [np.asarray(box, dtype=np.float64) for box in boxes]
    changed = True
    while changed:
        changed = False
        for i in range(len(merged)):
            for j in range(i + 1, len(merged)):
                if box_iou(merged[i], merged[j]) > iou:
                    a, b = merged[i], merged.pop(j)
                    merged[i] = np.concatenate([np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])])
                    changed = True
                    break
            if changed:
                break
    return merged
