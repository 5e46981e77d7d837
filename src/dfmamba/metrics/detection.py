"""How well boxes of hands are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dfmamba.hands.affine import box_iou
from dfmamba.hands.detection import Detection


@dataclass(frozen=True)
class DetectionScore:
    """Figures over pictures.

    Attributes:
        recall: share of the hands that were found.
        false_per_picture: detections that are no hand, for each picture.
        average_precision: area under precision over recall, with precision made to fall (as PASCAL VOC has it
            since 2010).
        iou: mean IoU of what was found with its hand.
        hands: how many there were.
    """

    recall: float
    false_per_picture: float
    average_precision: float
    iou: float
    hands: int


def score_detections(
    found: Sequence[Sequence[Detection]],
    hands: Sequence[np.ndarray],
    ignored: Sequence[np.ndarray] | None = None,
    threshold: float = 0.5,
    least_iou: float = 0.5,
) -> DetectionScore:
    """Compares detections with true boxes, picture by picture.

    Each detection, by falling score, takes the free hand it overlaps most; others that lie on a hand that is
    ignored don't count.

    Args:
        found: detections of each picture, of any score.
        hands: (N, 4) xyxy of each picture.
        ignored: (M, 4) xyxy of each picture: hands that needn't be found.
        threshold: score from which a detection counts for `recall`, `false_per_picture` and `iou`.
        least_iou: overlap from which a hand is found.

    Raises:
        ValueError: no picture.
    """
    if not found:
        raise ValueError("score_detections: no pictures")
    rows: list[tuple[float, bool, float]] = []
    for index, (detections, boxes) in enumerate(zip(found, hands, strict=True)):
        free = list(boxes)
        beside = [] if ignored is None else list(ignored[index])
        for one in sorted(detections, key=lambda detection: -detection.score):
            overlaps = [box_iou(one.box_xyxy, box) for box in free]
            best = int(np.argmax(overlaps)) if overlaps else -1
            if overlaps and overlaps[best] >= least_iou:
                rows.append((one.score, True, overlaps[best]))
                free.pop(best)
            elif not any(box_iou(one.box_xyxy, box) >= least_iou / 2 for box in beside):
                rows.append((one.score, False, 0.0))
    total = sum(len(boxes) for boxes in hands)
    rows.sort(key=lambda row: -row[0])
    sure = [row for row in rows if row[0] >= threshold]
    hits = [row[2] for row in sure if row[1]]
    return DetectionScore(
        recall=len(hits) / max(total, 1),
        false_per_picture=(len(sure) - len(hits)) / len(found),
        average_precision=_average_precision(np.array([row[1] for row in rows], dtype=bool), total),
        iou=float(np.mean(hits)) if hits else 0.0,
        hands=total,
    )


def _average_precision(hit: np.ndarray, total: int) -> float:
    if not total or not len(hit):
        return 0.0
    right = np.cumsum(hit)
    precision = np.maximum.accumulate((right / np.arange(1, len(hit) + 1))[::-1])[::-1]
    return float((precision * hit).sum() / total)
