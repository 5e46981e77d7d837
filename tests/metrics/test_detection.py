"""Recall, false detections and average precision of boxes."""

from __future__ import annotations

import numpy as np
import pytest

from dfmamba.detect import Detection
from dfmamba.metrics.detection import score_detections

HANDS = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], dtype=np.float64)


def at(x: float, score: float) -> Detection:
    return Detection(np.array([x, 0.0, x + 10, 10.0]), score)


def test_figures_of_a_known_case() -> None:
    found = [[at(0, 0.9), at(1, 0.8), at(21, 0.4)], [at(50, 0.6)]]
    score = score_detections(found, [HANDS, np.zeros((0, 4))])
    assert score.hands == 2
    assert score.recall == 0.5
    assert score.false_per_picture == 1.0  # the double of the first hand, and the one where there is none
    assert score.iou == 1.0
    assert score.average_precision == pytest.approx((1 + 2 / 4) / 2)
    assert score_detections(found, [HANDS, np.zeros((0, 4))], threshold=0.3).recall == 1.0


def test_ignored_hands_are_neither_right_nor_wrong() -> None:
    score = score_detections([[at(0, 0.9), at(20, 0.9)]], [HANDS[:1]], [HANDS[1:]])
    assert (score.recall, score.false_per_picture, score.average_precision) == (1.0, 0.0, 1.0)


def test_nothing_found_and_nothing_to_find() -> None:
    empty = np.zeros((0, 4))
    assert score_detections([[]], [HANDS]).average_precision == 0
    assert score_detections([[at(0, 0.9)]], [empty]).false_per_picture == 1
    with pytest.raises(ValueError, match="no pictures"):
        score_detections([], [])
